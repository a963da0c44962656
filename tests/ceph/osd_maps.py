"""OSD maps made at random and encoded, for Ceph's `osdmaptool` to read, and what it says of them."""

import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import crc32c
from ceph.pools import make_pool

from rbdfs.ceph.crush.map import ITEM_NONE, CrushMap, RuleType
from rbdfs.ceph.osdmap import IN, MapFlag, OSDMap
from rbdfs.ceph.pool import PgId, Pool, PoolFlag
from rbdfs.entities import AddrType, AddrVec, EntityAddr
from rbdfs.rados.ops import PoolId
from rbdfs.wire import S32, U32, codec_of, envelope

Run = Callable[..., str]  # runs a tool, gives its output
FSID = UUID("6f1e4a52-9f0a-4d2e-9a63-2f6f3f1f7a01")


class Mapping(NamedTuple):
    """What osdmaptool says of one PG."""

    up: tuple[int, ...]
    up_primary: int
    acting: tuple[int, ...]
    acting_primary: int


def random_map(seed: int, crush: bytes, *, upmap_primaries: bool = False) -> tuple[OSDMap, bytes]:
    """A map with pools of all kinds over a CRUSH map, and its encoding."""
    rng = random.Random(f"osdmap {seed}")
    crush_map = CrushMap.from_bytes(crush)
    devices = crush_map.max_devices
    address = AddrVec([EntityAddr(AddrType.MSGR2, "127.0.0.1", 6800, 1)])
    osdmap = OSDMap(FSID, 7, MapFlag.SORTBITWISE | MapFlag.RECOVERY_DELETES, {}, {}, devices)
    osdmap.osd_states = tuple(rng.choice((3, 3, 3, 3, 3, 1, 0)) for _ in range(devices))
    osdmap.osd_weights = tuple(rng.choice((IN, IN, IN, IN, 0x9000, 0)) for _ in range(devices))
    osdmap.osd_addresses = (address,) * devices
    if rng.random() < 0.6:
        osdmap.primary_affinity = {osd: rng.choice((0, 0x4000, 0xC000)) for osd in range(0, devices, 3)}
    for number in range(1, 5):
        pool = random_pool(rng, crush_map)
        osdmap.pools[PoolId(number)], osdmap.pool_names[PoolId(number)] = pool, f"pool{number}"
        for seed_of_pg in range(pool.pg_num):
            _disturb(rng, osdmap, PgId(number, seed_of_pg), pool, upmap_primaries=upmap_primaries)
    return osdmap, encode_map(osdmap, crush)


def random_pool(rng: random.Random, crush: CrushMap) -> Pool:
    """A pool, replicated or erasure-coded, with any number of PGs."""
    is_erasure = rng.random() < 0.4
    pg_num = rng.randint(1, 40)
    types = (RuleType.ERASURE, RuleType.MSR_INDEP) if is_erasure else (RuleType.REPLICATED, RuleType.MSR_FIRSTN)
    return make_pool(
        pg_num,
        is_erasure=is_erasure,
        size=rng.choice((1, 2, 3, 5)),
        crush_rule=rng.choice([number for number, rule in crush.rules.items() if rule.type in types]),
        pgp_num=rng.randint(1, pg_num),
        flags=PoolFlag.HASHPSPOOL if rng.random() < 0.9 else PoolFlag(0),
        stripe_width=4096 if is_erasure else 0,
        applications={"rbd": {}},
    )


def _disturb(rng: random.Random, osdmap: OSDMap, pg: PgId, pool: Pool, *, upmap_primaries: bool) -> None:
    """Move a PG in one of the ways that a map can tell, or in several, or not."""
    devices = range(osdmap.max_osd)
    some = tuple(rng.sample(devices, min(pool.size, len(devices))))
    if rng.random() < 0.15:
        osdmap.pg_upmap[pg] = some
    if rng.random() < 0.3:
        items = ((rng.choice(devices), rng.choice(devices)) for _ in range(rng.randint(1, 3)))
        osdmap.pg_upmap_items[pg] = tuple(item for item in items if item[0] != item[1])
    if upmap_primaries and rng.random() < 0.4:
        osdmap.pg_upmap_primaries[pg] = rng.choice(devices)
    if rng.random() < 0.15:
        holes = pool.is_erasure and rng.random() < 0.5
        osdmap.pg_temp[pg] = (ITEM_NONE, *some[1:]) if holes else some
    if rng.random() < 0.1:
        osdmap.primary_temp[pg] = rng.choice(some)


def encode_map(osdmap: OSDMap, crush: bytes) -> bytes:
    """The encoding of a full map, as a monitor makes it for a client of Reef."""
    out = bytearray()
    with envelope(out, 8, 7):
        _encode_client_part(out, osdmap, crush)
        _encode_osd_part(out, osdmap)
        out += struct.pack("<I", 0)
    out[-4:] = struct.pack("<I", crc32c.crc32c(out[:-4]) ^ 0xFFFFFFFF)
    return bytes(out)


def _put(out: bytearray, hint: object, value: object) -> None:
    codec_of(hint)[0](value, out)


def _encode_client_part(out: bytearray, osdmap: OSDMap, crush: bytes) -> None:
    with envelope(out, 10 if osdmap.pg_upmap_primaries else 9, 1):
        out += osdmap.fsid.bytes + struct.pack("<I16x", osdmap.epoch)
        out += struct.pack("<I", len(osdmap.pools))
        for id_, pool in osdmap.pools.items():
            out += struct.pack("<q", id_)
            encode_pool(out, pool)
        out += struct.pack("<I", len(osdmap.pools))
        for id_, name in osdmap.pool_names.items():
            out += struct.pack("<q", id_)
            _put(out, str, name)
        out += struct.pack("<iIi", max(osdmap.pools), osdmap.flags, osdmap.max_osd)
        _put(out, list[U32], osdmap.osd_states)
        _put(out, list[U32], osdmap.osd_weights)
        _put(out, list[AddrVec], osdmap.osd_addresses)
        _put(out, dict[PgId, tuple[S32, ...]], osdmap.pg_temp)
        _put(out, dict[PgId, S32], osdmap.primary_temp)
        affinity = osdmap.primary_affinity
        _put(out, list[U32], [affinity.get(osd, IN) for osd in range(osdmap.max_osd)] if affinity else [])
        _put(out, bytes, crush)
        _put(out, dict[str, dict[str, str]], {})
        _put(out, dict[PgId, tuple[S32, ...]], osdmap.pg_upmap)
        _put(out, dict[PgId, tuple[tuple[S32, S32], ...]], osdmap.pg_upmap_items)
        out += struct.pack("<III16x", 1, 0, 0)  # crush_version, removed and purged snaps, last up and in
        if osdmap.pg_upmap_primaries:
            _put(out, dict[PgId, S32], osdmap.pg_upmap_primaries)


def _encode_osd_part(out: bytearray, osdmap: OSDMap) -> None:
    count = osdmap.max_osd
    with envelope(out, 9, 1):
        _put(out, list[AddrVec], osdmap.osd_addresses)
        out += struct.pack("<I", count) + bytes((1, *[0] * 24)) * count  # osd_info
        out += struct.pack("<I", 0)  # blocklist
        _put(out, list[AddrVec], osdmap.osd_addresses)
        out += struct.pack("<II", 0, 0)  # cluster snapshot
        out += struct.pack("<I", count) + bytes(16 * count)
        out += struct.pack("<I", count) + struct.pack("<BBI28x", 3, 1, 28) * count  # osd_xinfo
        _put(out, list[AddrVec], osdmap.osd_addresses)
        out += struct.pack("<fff", 0.85, 0.95, 0.9)
        out += bytes((13, 16))  # require_min_compat_client, require_osd_release
        out += struct.pack("<III", 0, 0, 0)  # removed_snaps_queue, flags of CRUSH nodes and of classes


def encode_pool(out: bytearray, pool: Pool) -> None:
    """pg_pool_t of version 29."""
    with envelope(out, 29, 5):
        out += bytes((3 if pool.is_erasure else 1, pool.size, pool.crush_rule, pool.object_hash))
        out += struct.pack("<IIIII", pool.pg_num, pool.pgp_num, 0, 0, pool.last_change)
        out += struct.pack("<QIIIQ", pool.snap_seq, 0, 0, 0, 0)  # snap_seq, epoch, snaps, removed snaps, auid
        out += struct.pack("<QIB", pool.flags, 0, pool.min_size)
        out += struct.pack("<QQIqB", pool.quota_bytes, pool.quota_objects, 0, pool.tier_of, 0)
        out += struct.pack("<qqI", pool.read_tier, pool.write_tier, 0)
        with envelope(out, 1, 1):  # hit_set_params: none
            out += b"\0"
        out += struct.pack("<III", 0, 0, pool.stripe_width)
        out += bytes(8 + 8 + 4 * 4)
        _put(out, str, pool.erasure_code_profile)
        out += struct.pack("<IIQIIBBII", pool.last_force_op_resend, 1, 0, 0, 1, 0, 0, 0, 0)
        with envelope(out, 1, 1):  # opts: none
            out += struct.pack("<I", 0)
        out += struct.pack("<I", pool.last_force_op_resend)
        _put(out, dict[str, dict[str, str]], pool.applications)
        out += bytes(8)
        out += struct.pack(
            "<IIIIIIB", pool.pg_num, pool.pgp_num, pool.pg_num_pending, 0, 0, pool.last_force_op_resend, 0
        )
        with envelope(out, 1, 1):  # last_pg_merge_meta
            out += bytes(17 + 3 * 4 + 2 * 12)


_NONE = {"NONE": ITEM_NONE}
_LINE = re.compile(r"(\d+)\.([0-9a-f]+)\s.*\bup \(\[(.*?)\], p(-?\d+)\) acting \(\[(.*?)\], p(-?\d+)\)")


def mappings(run: Run, path: Path) -> dict[PgId, Mapping]:
    """What osdmaptool says of each PG of a map."""
    result = {}
    for line in run("osdmaptool", str(path), "--test-map-pgs-dump-all").splitlines():
        if match := _LINE.match(line):
            pool, seed, up, up_primary, acting, primary = match.groups()
            mapping = Mapping(_osds(up), int(up_primary), _osds(acting), int(primary))
            result[PgId(int(pool), int(seed, 16))] = mapping
    return result


def _osds(text: str) -> tuple[int, ...]:
    return tuple(ITEM_NONE if osd == "NONE" else int(osd) for osd in text.split(",") if osd)
