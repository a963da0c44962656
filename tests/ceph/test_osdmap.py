"""OSD maps and their increments as clusters of each release made them, monitor maps, damage, and rules of applying."""

import contextlib
import dataclasses
from uuid import UUID

import crc32c
import pytest
from ceph import osd_maps
from ceph.archives import cut, damaged, members

from rbdfs.ceph.monmap import MonMap
from rbdfs.ceph.osdmap import IN, Incremental, MapFlag, OSDMap
from rbdfs.ceph.placement import place
from rbdfs.ceph.pool import PgId, Pool, PoolFlag
from rbdfs.entities import AddrType, AddrVec, EntityAddr
from rbdfs.errors import NotSupported, ProtocolError, WireError
from rbdfs.rados.ops import PoolId

RELEASES = ("16.2", "18.2", "20.2")
BASE = OSDMap(
    fsid=UUID(int=1),
    epoch=10,
    flags=MapFlag.SORTBITWISE,
    pools={},
    pool_names={},
    max_osd=3,
    osd_states=(3, 3, 1),
    osd_weights=(IN, IN, 0),
    osd_addresses=(AddrVec([EntityAddr(AddrType.MSGR2, "10.0.0.1", 6800, 5)]),) * 3,
)


def increment(**changes: object) -> Incremental:
    return Incremental(BASE.fsid, BASE.epoch + 1, **changes)  # type: ignore[arg-type]


def epochs(release: str, kind: str) -> dict[int, bytes]:
    found = members(f"maps-{release}")
    return {
        int(name.split(".")[1]): data for name, data in found.items() if name.startswith(kind) and "json" not in name
    }


def some_pool() -> Pool:
    fulls = epochs("16.2", "full")
    return OSDMap.from_bytes(fulls[max(fulls)]).pools[PoolId(1)]


# Recorded clusters


@pytest.mark.parametrize("release", RELEASES)
def test_increments_lead_from_one_full_map_to_the_next(release: str) -> None:
    fulls, increments = epochs(release, "full"), epochs(release, "inc")
    osdmap = OSDMap.from_bytes(fulls[min(fulls)])
    for epoch in range(min(fulls) + 1, max(fulls) + 1):
        osdmap = osdmap.apply(Incremental.from_bytes(increments[epoch]))
        if epoch in fulls:
            expected = OSDMap.from_bytes(fulls[epoch])
            assert osdmap == dataclasses.replace(expected, crush=osdmap.crush)
            assert osdmap.crush == expected.crush


@pytest.mark.parametrize("release", RELEASES)
def test_a_recorded_map_says_what_was_done_to_the_cluster(release: str) -> None:
    fulls = epochs(release, "full")
    osdmap = OSDMap.from_bytes(fulls[max(fulls)])
    assert set(osdmap.pool_names.values()) >= {"data", "ec", "renamed"}
    data, ec, renamed = (osdmap.pools[osdmap.pool_id(name)] for name in ("data", "ec", "renamed"))
    assert (data.size, data.is_erasure, data.applications) == (3, False, {"rbd": {}})
    assert (ec.size, ec.is_erasure, ec.erasure_code_profile) == (3, True, "k2m1")
    assert ec.flags & PoolFlag.EC_OVERWRITES
    assert (renamed.quota_bytes, renamed.quota_objects, renamed.snap_seq) == (1000000000, 1000, 1)
    assert renamed.flags & PoolFlag.POOL_SNAPS
    assert osdmap.is_blocklisted(EntityAddr(AddrType.MSGR2, "10.1.2.3", 0, 77))
    assert not osdmap.is_blocklisted(EntityAddr(AddrType.MSGR2, "10.1.2.3", 0, 78))
    assert not osdmap.is_blocklisted(EntityAddr(AddrType.MSGR2, "10.1.2.4", 0, 1))
    assert osdmap.is_blocklisted(EntityAddr(AddrType.MSGR2, "10.9.8.7", 1, 2)) == (release != "16.2")
    assert not osdmap.is_blocklisted(EntityAddr(AddrType.MSGR2, "10.8.8.7", 1, 2))
    assert bool(osdmap.pg_upmap_primaries) == (release != "16.2")
    assert bool(ec.flags & PoolFlag.EC_OPTIMIZATIONS) == (release == "20.2")
    assert PgId(1, 3) not in osdmap.pg_upmap
    assert osdmap.crush.class_names


@pytest.mark.parametrize("release", RELEASES)
def test_monitor_maps_of_each_release_decode(release: str) -> None:
    monmap = MonMap.from_bytes(members(f"maps-{release}")["monmap"])
    assert list(monmap.monitors) == monmap.ranks == ["a"]
    assert monmap.min_mon_release == int(float(release))
    address = monmap.monitors["a"].addresses.msgr2
    assert address is not None
    assert address.host == "127.0.0.1"


# Damage


@pytest.mark.parametrize("release", RELEASES)
def test_a_cut_map_is_refused_at_every_byte(release: str) -> None:
    fulls, increments = epochs(release, "full"), epochs(release, "inc")
    longest = max(increments.values(), key=len)
    for data, decode in ((fulls[max(fulls)], OSDMap.from_bytes), (longest, Incremental.from_bytes)):
        for part in cut(data):
            with pytest.raises(WireError):
                decode(part)
    monmap = members(f"maps-{release}")["monmap"]
    for part in cut(monmap):
        with pytest.raises(WireError):
            MonMap.from_bytes(part)


@pytest.mark.parametrize("release", RELEASES)
def test_a_damaged_map_is_refused(release: str) -> None:
    fulls, increments = epochs(release, "full"), epochs(release, "inc")
    smallest = min(fulls.values(), key=len)
    for data, decode in ((smallest, OSDMap.from_bytes), (max(increments.values(), key=len), Incremental.from_bytes)):
        for bad in damaged(data, 100):
            if bad != data:
                with pytest.raises(WireError):  # by the checksum, if by nothing else
                    decode(bad)


def signed(bad: bytes, tail: int) -> bytes:
    """Damaged bytes with the checksum that is theirs; `tail` bytes stand behind it."""
    place = len(bad) - 4 - tail
    crc = crc32c.crc32c(bad[place + 4 :], crc32c.crc32c(bad[:place])) ^ 0xFFFFFFFF
    return bad[:place] + crc.to_bytes(4, "little") + bad[place + 4 :]


@pytest.mark.parametrize("release", RELEASES)
def test_damage_that_the_checksum_covers_up_is_refused_or_yields_some_map(release: str) -> None:
    fulls, increments = epochs(release, "full"), epochs(release, "inc")
    longest = max(increments.values(), key=len)
    assert signed(longest, 4) == longest
    for bad in damaged(longest, 100):
        with contextlib.suppress(WireError):
            Incremental.from_bytes(signed(bad, 4))
    full = fulls[max(fulls)]
    assert signed(full, 0) == full
    for bad in damaged(full, 50):
        try:
            osdmap = OSDMap.from_bytes(signed(bad, 0))
        except WireError:
            continue
        for pool in osdmap.pools:
            if osdmap.crush.tunables.choose_total_tries < 1000:  # otherwise it is told to try long
                with contextlib.suppress(NotSupported):
                    place(osdmap, pool, 0x12345678)


def test_a_wrong_checksum_is_named() -> None:
    data = bytearray(epochs("16.2", "full")[2])
    data[-1] ^= 1
    with pytest.raises(WireError, match="OSD map: checksum is"):
        OSDMap.from_bytes(data)


def test_a_damaged_pool_is_refused_or_another_pool() -> None:
    out = bytearray()
    osd_maps.encode_pool(out, some_pool())
    assert Pool.from_bytes(out) == some_pool()
    for part in cut(bytes(out)):
        with pytest.raises(WireError):
            Pool.from_bytes(part)
    for bad in damaged(bytes(out)):
        try:
            Pool.from_bytes(bad)
        except WireError:
            continue


# Applying


def test_an_increment_that_does_not_follow_is_refused() -> None:
    with pytest.raises(ProtocolError, match="increment 12 does not follow"):
        BASE.apply(Incremental(BASE.fsid, 12))
    with pytest.raises(ProtocolError):
        BASE.apply(Incremental(UUID(int=2), 11))


def test_an_increment_can_be_a_full_map() -> None:
    full = dataclasses.replace(BASE, epoch=11, flags=MapFlag.PAUSERD)
    assert BASE.apply(increment(full_map=full)) is full


def test_applying_leaves_the_old_map_as_it_was() -> None:
    before = dataclasses.replace(BASE)
    BASE.apply(increment(new_weights={2: IN}, new_states={0: 2}, new_pg_temp={PgId(1, 2): (1, 0)}, new_max_osd=5))
    assert before == BASE


def test_state_zero_means_down_or_up() -> None:
    down = BASE.apply(increment(new_states={0: 0}))
    assert not down.is_up(0)
    assert down.exists(0)


def test_a_destroyed_osd_loses_state_address_and_affinity() -> None:
    base = dataclasses.replace(BASE, primary_affinity={0: 5})
    gone = base.apply(increment(new_states={0: 1}))
    assert not gone.exists(0)
    assert not gone.is_up(0)
    assert len(gone.address(0)) == 0
    assert gone.primary_affinity == {}


def test_a_weight_makes_an_osd_exist_and_a_start_gives_it_an_address() -> None:
    address = AddrVec([EntityAddr(AddrType.MSGR2, "10.0.0.9", 6804, 6)])
    more = BASE.apply(increment(new_max_osd=5, new_weights={4: IN}, new_up={3: address}))
    assert more.exists(4)
    assert not more.is_up(4)
    assert more.is_up(3)
    assert more.address(3) == address


def test_a_change_of_an_osd_beyond_the_map_is_refused() -> None:
    with pytest.raises(ProtocolError, match="beyond 3"):
        BASE.apply(increment(new_weights={3: IN}))


def test_removals_of_temporary_mappings() -> None:
    base = dataclasses.replace(BASE, pg_temp={PgId(1, 2): (1, 0)}, primary_temp={PgId(1, 2): 1})
    cleared = base.apply(increment(new_pg_temp={PgId(1, 2): ()}, new_primary_temp={PgId(1, 2): -1}))
    assert cleared.pg_temp == {}
    assert cleared.primary_temp == {}


def test_a_host_or_a_range_on_the_blocklist_fences_all_clients_on_it() -> None:
    def client(host: str, nonce: int = 3) -> EntityAddr:
        return EntityAddr(AddrType.MSGR2, host, 1234, nonce)

    fenced = BASE.apply(
        increment(
            new_blocklist=frozenset(
                {EntityAddr(AddrType.ANY, "10.0.0.5"), EntityAddr(AddrType.ANY, "10.0.0.6", 1234, 3)}
            ),
            new_range_blocklist=frozenset(
                {EntityAddr(AddrType.ANY, "10.7.0.0", nonce=20), EntityAddr(AddrType.ANY, "fd00::", nonce=64)}
            ),
        )
    )
    assert fenced.is_blocklisted(client("10.0.0.5"))
    assert fenced.is_blocklisted(client("10.0.0.6"))
    assert not fenced.is_blocklisted(client("10.0.0.6", nonce=4))
    assert fenced.is_blocklisted(client("10.7.15.255"))
    assert not fenced.is_blocklisted(client("10.7.16.0"))
    assert fenced.is_blocklisted(client("fd00::ffff"))
    assert not fenced.is_blocklisted(client("fd00:0:0:1::"))
    assert not fenced.is_blocklisted(EntityAddr())
    assert not BASE.is_blocklisted(client("10.0.0.5"))


def test_a_pool_is_found_by_name_until_it_is_removed() -> None:
    pool = some_pool()
    one = BASE.apply(increment(new_pools={PoolId(4): pool}, new_pool_names={PoolId(4): "a"}))
    assert one.pool_id("a") == 4
    two = one.apply(Incremental(BASE.fsid, 12, old_pools=frozenset({PoolId(4)})))
    assert two.pool_id("a") is None
    assert two.pools == {}
