"""What full OSD maps and their increments have in common: containers of a few kinds, the checksum, the blocklist."""

import ipaddress
from collections.abc import Iterable

import crc32c

from rbdfs.ceph.pool import PgId, Pool
from rbdfs.entities import AddrType, EntityAddr, UTime
from rbdfs.errors import WireError
from rbdfs.rados.ops import PoolId
from rbdfs.wire import S32, S64, U32, U64, Cursor, codec_of

SnapIntervals = dict[PoolId, tuple[tuple[int, int], ...]]  # (first snap id, how many)


def check_crc(cursor: Cursor) -> None:
    """Compare the checksum at the cursor with that of all bytes but its own (Ceph inverts neither start nor end)."""
    head = cursor.buffer[: cursor.offset]
    expected = cursor.u32()
    actual = crc32c.crc32c(cursor.buffer[cursor.offset : cursor.end], crc32c.crc32c(head)) ^ 0xFFFFFFFF
    if actual != expected:
        raise WireError(f"checksum is {actual:#x}, not {expected:#x}")


decode_numbers = codec_of(tuple[U32, ...])[1]
decode_osd_numbers = codec_of(dict[S32, U32])[1]
decode_pgs = codec_of(frozenset[PgId])[1]
decode_pg_lists = codec_of(dict[PgId, tuple[S32, ...]])[1]
decode_pg_numbers = codec_of(dict[PgId, S32])[1]
decode_pg_pairs = codec_of(dict[PgId, tuple[tuple[S32, S32], ...]])[1]
decode_profiles = codec_of(dict[str, dict[str, str]])[1]
decode_names = codec_of(dict[S64, str])[1]
decode_snaps = codec_of(dict[S64, tuple[tuple[U64, U64], ...]])[1]
decode_addresses_with_times = codec_of(dict[EntityAddr, UTime])[1]


def decode_pools(cursor: Cursor) -> dict[PoolId, Pool]:
    return {PoolId(cursor.s64()): Pool.decode(cursor) for _ in range(cursor.count())}


def _skip_address(cursor: Cursor, marker: int) -> None:
    if marker == 0:
        cursor.skip(3 + 4 + 128)
    else:
        cursor.skip(2)
        cursor.skip(cursor.u32())


def skip_addresses(cursor: Cursor, *, has_key: bool = False) -> None:
    """Pass over a vector of addresses, or a map from OSDs to addresses."""
    for _ in range(cursor.count()):
        if has_key:
            cursor.skip(4)
        marker = cursor.u8()
        if marker == 2:
            for _ in range(cursor.count()):
                _skip_address(cursor, cursor.u8())
        else:
            _skip_address(cursor, marker)


def skip_structures(cursor: Cursor, *, has_key: bool = False) -> None:
    for _ in range(cursor.count()):
        cursor.skip(6 if has_key else 2)
        cursor.skip(cursor.u32())


def decode_blocklist(cursor: Cursor) -> Iterable[EntityAddr]:
    return map(blocklist_key, decode_addresses_with_times(cursor))


def blocklist_key(address: EntityAddr) -> EntityAddr:
    """An address as blocklists are searched for it: whatever protocol it is for."""
    return EntityAddr(AddrType.ANY, address.host, address.port, address.nonce)


def in_range(address: EntityAddr, range_: EntityAddr) -> bool:
    if not address.host or not range_.host or address.is_ipv6 != range_.is_ipv6:
        return False
    one, other = ipaddress.ip_address(address.host), ipaddress.ip_address(range_.host)
    shift = max(one.max_prefixlen - range_.nonce, 0)
    return int(one) >> shift == int(other) >> shift
