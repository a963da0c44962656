"""A pool as the OSD map describes it (pg_pool_t)."""

from dataclasses import dataclass
from enum import IntFlag


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
    EC_OPTIMIZATIONS = 1 << 19


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
