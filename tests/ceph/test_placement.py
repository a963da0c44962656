"""Placement against osdmaptool: random maps and recorded clusters; intervals, splits and the cache."""

import dataclasses
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from ceph import crush_maps, osd_maps
from ceph.archives import pairs
from hypothesis import given, strategies as st

from rbdfs.ceph.crush.map import ITEM_NONE, CrushMap
from rbdfs.ceph.hashing import LINUX, RJENKINS, hash_name, stable_mod
from rbdfs.ceph.osdmap import IN, Incremental, MapFlag, OSDMap
from rbdfs.ceph.placement import (
    NO_OSD,
    NO_SHARD,
    is_new_interval,
    locate,
    place,
    place_pg,
    splits,
)
from rbdfs.ceph.pool import PgId, Pool, PoolFlag
from rbdfs.errors import NotFound
from rbdfs.rados.ops import PoolId


def check(osdmap: OSDMap, expected: dict[PgId, osd_maps.Mapping]) -> None:
    assert len(expected) == sum(pool.pg_num for pool in osdmap.pools.values())
    wrong = {}
    for pg, mapping in expected.items():
        got = place_pg(osdmap, pg)
        if pg in osdmap.pg_temp and osdmap.pools[PoolId(pg.pool)].flags & PoolFlag.EC_OPTIMIZATIONS:
            # Shards that may lead come first in pg_temp, and clients like this one take it as it is.
            assert sorted(got.acting) == sorted(mapping.acting)
            mapping = mapping._replace(acting=got.acting)
        if (got.up, got.up_primary, got.acting, got.osd) != mapping:
            wrong[pg] = got, mapping
        if got.shard != NO_SHARD:
            assert got.acting[got.shard] == got.osd
    assert not wrong


def recorded(rows: list) -> dict[PgId, osd_maps.Mapping]:
    return {PgId(pool, seed): osd_maps.Mapping(tuple(up), p, tuple(acting), q) for pool, seed, up, p, acting, q in rows}


@pytest.mark.parametrize("archive", ["placement", "maps-16.2", "maps-18.2", "maps-20.2"])
def test_placements_are_those_of_osdmaptool(archive: str) -> None:
    maps = pairs(archive, ".osdmap")
    assert len(maps) > 4
    for _, data, rows in maps:
        check(OSDMap.from_bytes(data), recorded(rows))


@pytest.mark.skipif(shutil.which("osdmaptool") is None, reason="no osdmaptool here: apt install ceph-base")
def test_placements_of_fresh_maps_are_those_of_osdmaptool(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for seed in range(round(time.time()), round(time.time()) + 4):
        crush, _ = crush_maps.compile_map(run, tmp_path, seed)
        osdmap, data = osd_maps.random_map(seed, crush)
        path = tmp_path / "osdmap"
        path.write_bytes(data)
        decoded = OSDMap.from_bytes(data)
        assert decoded == dataclasses.replace(osdmap, crush=decoded.crush)
        check(decoded, osd_maps.mappings(run, path))


# Names


def test_names_hash_as_ceph_hashes_them() -> None:
    assert hash_name(RJENKINS, b"foo") == 0x7FC1F406  # Ceph's manual: "object 'foo' -> pg 0.7fc1f406"
    assert hash_name(RJENKINS, b"") == 0xBD49D10D
    assert hash_name(LINUX, b"") == 0


def test_a_key_takes_the_place_of_the_name_and_a_namespace_adds_to_both() -> None:
    osdmap = small_map()
    assert locate(osdmap, PoolId(1), "a", key="k") == locate(osdmap, PoolId(1), "b", key="k")
    assert locate(osdmap, PoolId(1), "k") == locate(osdmap, PoolId(1), "b", key="k")
    assert locate(osdmap, PoolId(1), "a", namespace="n").raw_hash == hash_name(RJENKINS, b"n\x1fa")


def small_map(**changes: object) -> OSDMap:
    """Four OSDs in one bucket, a replicated pool 1 and an erasure-coded pool 2 of 8 PGs each."""
    name, crush, _ = pairs("crush", ".crush")[0]
    assert name == "0"
    fields: dict = {
        "epoch": 10,
        "pools": {PoolId(1): pool(), PoolId(2): pool(is_erasure=True, crush_rule=1)},
        "max_osd": CrushMap.from_bytes(crush).max_devices,
        "crush": CrushMap.from_bytes(crush),
    }
    fields |= {"osd_states": (3,) * fields["max_osd"], "osd_weights": (IN,) * fields["max_osd"]}
    return OSDMap(fsid=osd_maps.FSID, flags=MapFlag.SORTBITWISE, pool_names={}, **(fields | changes))


def pool(**changes: object) -> Pool:
    _, data, _ = pairs("placement", ".osdmap")[0]
    some = OSDMap.from_bytes(data).pools[PoolId(1)]
    plain: dict = {"is_erasure": False, "crush_rule": 0, "size": 3, "pg_num": 8, "pgp_num": 8, "pg_num_pending": 8}
    return dataclasses.replace(some, **(plain | changes))


def test_a_pool_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="pool 9"):
        locate(small_map(), PoolId(9), "a")
    with pytest.raises(NotFound, match="pool 9"):
        place(small_map(), PoolId(9), 1)
    with pytest.raises(NotFound, match=r"placement group 1\.8"):
        place_pg(small_map(), PgId(1, 8))


# Who serves


def test_nobody_serves_a_pg_whose_osds_are_all_down() -> None:
    osdmap = small_map()
    osdmap = dataclasses.replace(osdmap, osd_states=(1,) * osdmap.max_osd, placements={})
    assert place(osdmap, PoolId(1), 5).osd == NO_OSD
    assert place(osdmap, PoolId(1), 5).acting == ()
    erasure = place(osdmap, PoolId(2), 5)
    assert (erasure.osd, erasure.shard, set(erasure.acting)) == (NO_OSD, NO_SHARD, {ITEM_NONE})


def test_the_shard_is_the_place_of_the_primary_in_the_acting_set() -> None:
    acting = place(small_map(), PoolId(2), 5).acting
    osdmap = small_map(pg_temp={PgId(2, 5): (ITEM_NONE, acting[1], acting[0])})
    assert (place(osdmap, PoolId(2), 5).osd, place(osdmap, PoolId(2), 5).shard) == (acting[1], 1)


def test_a_raw_mapping_is_computed_once_while_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    osdmap = small_map()
    before = place(osdmap, PoolId(1), 5)
    monkeypatch.setattr("rbdfs.ceph.placement.evaluate", lambda *_: pytest.fail("evaluated again"))
    down = osdmap.apply(Incremental(osdmap.fsid, 11, new_states={before.osd: 2}))
    assert place(down, PoolId(1), 5).acting == before.acting[1:]
    again = down.apply(Incremental(osdmap.fsid, 12, new_pools={PoolId(1): pool(snap_seq=9)}))
    assert place(again, PoolId(1), 5).acting == before.acting[1:]


def test_a_raw_mapping_is_computed_anew_when_weights_or_the_pool_change() -> None:
    osdmap = small_map()
    before = place(osdmap, PoolId(1), 5)
    out = osdmap.apply(Incremental(osdmap.fsid, 11, new_weights={before.osd: 0}))
    assert before.osd not in place(out, PoolId(1), 5).acting
    smaller = osdmap.apply(Incremental(osdmap.fsid, 11, new_pools={PoolId(1): pool(size=1)}))
    assert place(smaller, PoolId(1), 5).acting == before.acting[:1]


# Intervals


def test_the_same_placement_is_no_new_interval() -> None:
    osdmap = small_map()
    later = osdmap.apply(Incremental(osdmap.fsid, 11))
    assert not is_new_interval(place(osdmap, PoolId(1), 5), place(later, PoolId(1), 5))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 2},
        {"min_size": 2},
        {"last_force_op_resend": 11},
        {"stretch": (1, 2, 3, 4)},
        {"pg_num": 16, "pg_num_pending": 16},
        {"pg_num": 5, "pg_num_pending": 5},
        {"pg_num_pending": 5},
    ],
)
def test_what_begins_a_new_interval(changes: dict) -> None:
    osdmap = small_map()
    later = osdmap.apply(Incremental(osdmap.fsid, 11, new_pools={PoolId(1): pool(**changes)}))
    assert is_new_interval(place(osdmap, PoolId(1), 5), place(later, PoolId(1), 5))


def test_a_change_of_order_in_the_acting_set_begins_a_new_interval() -> None:
    osdmap = small_map()
    old = place(osdmap, PoolId(1), 5)
    swapped = osdmap.apply(Incremental(osdmap.fsid, 11, new_pg_temp={PgId(1, 5): old.acting[::-1]}))
    assert is_new_interval(old, place(swapped, PoolId(1), 5))
    flags = osdmap.apply(Incremental(osdmap.fsid, 11, new_flags=MapFlag(0)))
    assert is_new_interval(old, place(flags, PoolId(1), 5))


def test_a_pg_that_neither_splits_nor_merges_stays_in_its_interval() -> None:
    osdmap = small_map()
    old = place(osdmap, PoolId(1), 5)  # child of PG 1 when there were four
    later = osdmap.apply(Incremental(osdmap.fsid, 11, new_pools={PoolId(1): pool(pg_num=9, pg_num_pending=9)}))
    assert not is_new_interval(old, place(later, PoolId(1), 5))  # only PG 0 gives to PG 8
    assert is_new_interval(place(osdmap, PoolId(1), 0), place(later, PoolId(1), 0))


@given(st.integers(1, 70), st.integers(1, 300), st.data())
def test_a_pg_splits_exactly_if_one_of_its_objects_could_move(old: int, new: int, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, old - 1))
    hashes = (value for value in range(1024) if stable_mod(value, old) == seed)
    assert splits(seed, old, new) == (new > old and any(stable_mod(value, new) != seed for value in hashes))


@given(st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_stable_mod_is_below_the_count_and_keeps_its_place_as_the_count_grows(count: int, value: int) -> None:
    assert stable_mod(value, count) < count
    assert stable_mod(value, count + 1) in (stable_mod(value, count), count)
