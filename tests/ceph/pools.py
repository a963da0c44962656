"""A pool of an OSD map, plain but for what a test says."""

from typing import Any

from rbdfs.ceph.pool import Pool, PoolFlag


def make_pool(pg_num: int, **chosen: Any) -> Pool:
    """Three replicas, no quotas, no tiers."""
    plain: dict[str, Any] = {
        "is_erasure": False,
        "size": 3,
        "min_size": 1,
        "crush_rule": 0,
        "pg_num": pg_num,
        "pgp_num": pg_num,
        "pg_num_pending": pg_num,
        "flags": PoolFlag.HASHPSPOOL,
        "last_change": 1,
        "last_force_op_resend": 0,
        "snap_seq": 0,
        "quota_bytes": 0,
        "quota_objects": 0,
        "read_tier": -1,
        "write_tier": -1,
        "erasure_code_profile": "",
        "stripe_width": 0,
        "applications": {},
    }
    return Pool(**(plain | chosen))
