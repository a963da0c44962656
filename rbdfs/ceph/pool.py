"""A pool as the OSD map describes it (pg_pool_t), and the name of a placement group in it (pg_t)."""

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

from rbdfs.ceph.hashing import RJENKINS
from rbdfs.errors import WireError
from rbdfs.wire import Buffer, Cursor

_PG = struct.Struct("<BQIi")
_TYPE_ERASURE = 3  # pg_pool_t::TYPE_ERASURE
_KNOWN_VERSION = 32  # of which nonprimary_shards is left: see `EC_OPTIMIZATIONS`
NO_MEMBER = 0x7FFFFFFF  # peering_crush_mandatory_member: none


class PgId(NamedTuple):
    """A placement group: pool and number within it."""

    pool: int
    seed: int

    def __str__(self) -> str:
        return f"{self.pool}.{self.seed:x}"

    def encode(self, out: bytearray) -> None:
        """Append pg_t."""
        out += _PG.pack(1, self.pool, self.seed, -1)

    @classmethod
    def decode(cls, cursor: Cursor) -> "PgId":
        """Read pg_t."""
        version, pool, seed, _ = cursor.unpack(_PG)
        if version != 1:
            raise WireError(f"pg_t of version {version}")
        return cls(pool, seed)


class PoolFlag(IntFlag):
    """pg_pool_t::FLAG_*: properties and states of a pool."""

    HASHPSPOOL = 1 << 0  # the pool's id is part of a PG's placement seed
    FULL = 1 << 1  # the pool cannot take writes
    EC_OVERWRITES = 1 << 2
    FULL_QUOTA = 1 << 10  # ... because a quota is reached
    NEARFULL = 1 << 11
    BACKFILLFULL = 1 << 12
    SELFMANAGED_SNAPS = 1 << 13
    POOL_SNAPS = 1 << 14
    CREATING = 1 << 15
    EIO = 1 << 16  # every op is to fail
    EC_OPTIMIZATIONS = 1 << 19  # primaries by shard; who does not announce SERVER_TENTACLE may take pg_temp as it is


@dataclass(slots=True)
class Pool:
    """A pool at one epoch."""

    is_erasure: bool
    size: int
    min_size: int
    crush_rule: int
    pg_num: int
    pgp_num: int
    pg_num_pending: int
    flags: PoolFlag
    last_change: int  # epoch
    last_force_op_resend: int  # epoch
    snap_seq: int
    quota_bytes: int  # 0: none
    quota_objects: int  # 0: none
    read_tier: int  # pool id; -1: none
    write_tier: int
    erasure_code_profile: str
    stripe_width: int
    applications: dict[str, dict[str, str]]
    object_hash: int = RJENKINS
    tier_of: int = -1  # the pool that this one is a cache of; -1: none
    stretch: tuple[int, int, int, int] = (0, 0, 0, NO_MEMBER)  # peering_crush_*: buckets, target, barrier, member

    @property
    def has_cache_tier(self) -> bool:
        """Whether ops on the pool would have to go to another one."""
        return self.read_tier >= 0 or self.write_tier >= 0

    @property
    def raw_mapping_key(self) -> tuple[int, int, int, PoolFlag]:
        """What CRUSH's mapping of the pool's PGs depends on."""
        return self.crush_rule, self.size, self.pgp_num, self.flags & PoolFlag.HASHPSPOOL

    @classmethod
    def from_bytes(cls, data: Buffer) -> "Pool":
        """Decode one that stands alone."""
        return cls.decode(Cursor(data))

    @classmethod
    def decode(cls, cursor: Cursor) -> "Pool":
        """Read one of version 5 (Bobtail) or later."""
        with cursor.envelope(_KNOWN_VERSION, "pg_pool_t") as version:
            return cls._decode_body(cursor, version)

    @classmethod
    def _decode_body(cls, cursor: Cursor, version: int) -> "Pool":
        type_, size, crush_rule, object_hash = cursor.take(4)
        pg_num, pgp_num = cursor.u32(), cursor.u32()
        cursor.skip(8)  # lpg_num, lpgp_num
        last_change = cursor.u32()
        snap_seq = cursor.u64()
        cursor.skip(4)  # snap_epoch
        for _ in range(cursor.count()):  # snapshots of the whole pool
            cursor.skip(8)
            _skip_structure(cursor)
        cursor.skip(16 * cursor.count())  # removed_snaps
        cursor.skip(8)  # auid
        flags = PoolFlag(cursor.u64())
        cursor.skip(4)  # crash_replay_interval
        min_size = cursor.u8() if version >= 7 else size - size // 2
        quota_bytes, quota_objects = cursor.u64(), cursor.u64()
        cursor.skip(8 * cursor.count())  # tiers
        tier_of = cursor.s64()
        cursor.skip(1)  # cache_mode
        read_tier, write_tier = cursor.s64(), cursor.s64()
        for _ in range(2 * cursor.count()):  # properties, retired
            cursor.blob()
        _skip_structure(cursor)  # hit_set_params
        cursor.skip(8)  # hit_set_period, hit_set_count
        stripe_width = cursor.u32()
        cursor.skip(8 + 8 + 4 * 4)  # of cache tiers: target_max_bytes and _objects, four ages and ratios
        profile = cursor.text()
        last_force_op_resend = cursor.u32()  # as clients before Luminous see it
        pool = cls(
            is_erasure=type_ == _TYPE_ERASURE,
            size=size,
            min_size=min_size,
            crush_rule=crush_rule,
            pg_num=pg_num,
            pgp_num=pgp_num,
            pg_num_pending=pg_num,
            flags=flags,
            last_change=last_change,
            last_force_op_resend=last_force_op_resend,
            snap_seq=snap_seq,
            quota_bytes=quota_bytes,
            quota_objects=quota_objects,
            read_tier=read_tier,
            write_tier=write_tier,
            erasure_code_profile=profile,
            stripe_width=stripe_width,
            applications={},
            object_hash=object_hash,
            tier_of=tier_of,
        )
        pool._decode_tail(cursor, version)
        return pool

    def _decode_tail(self, cursor: Cursor, version: int) -> None:
        """What came with Infernalis and later."""
        cursor.skip(4 + 8)  # min_read_recency_for_promote, expected_num_objects
        for born, length in ((19, 4), (20, 4), (21, 1), (22, 1), (23, 8)):  # more of cache tiers, fast_read
            if version >= born:
                cursor.skip(length)
        if version >= 24:
            _skip_structure(cursor)  # opts
        if version >= 25:
            self.last_force_op_resend = cursor.u32()  # as clients before Nautilus see it
        if version >= 26:
            for _ in range(cursor.count()):
                name = cursor.text()
                self.applications[name] = {cursor.text(): cursor.text() for _ in range(cursor.count())}
        if version >= 27:
            cursor.skip(8)  # create_time
        if version >= 28:
            cursor.skip(8)  # pg_num_target, pgp_num_target
            self.pg_num_pending = cursor.u32()
            cursor.skip(8)
            self.last_force_op_resend = cursor.u32()
            cursor.skip(1)  # pg_autoscale_mode
        if version >= 29:
            _skip_structure(cursor)  # last_pg_merge_meta
        if version == 30 or (version > 30 and cursor.u8()):  # a stretch pool; later as an optional value
            self.stretch = (cursor.u32(), cursor.u32(), cursor.u32(), cursor.u32())


def _skip_structure(cursor: Cursor) -> None:
    """Pass over a structure in its envelope."""
    cursor.skip(2)
    cursor.skip(cursor.u32())
