"""Where an object lives: object name -> placement group -> up and acting set of OSDs, at one epoch of the map.

    target = locate(osdmap, pool_id, "rbd_data.1.00", "", "")
    target.placement.osd, target.placement.shard, target.raw_hash

A `Placement` is computed once per placement group and epoch and kept with the map. When a map arrives, compare the
placement of every PG that has ops under way, for each epoch applied and not only the last:

    if is_new_interval(old_placement, place(new_map, pool_id, raw_hash)): ...resend
"""

from typing import NamedTuple

from rbdfs.ceph.osdmap import OSDMap, PgId
from rbdfs.rados.ops import PoolId

NO_OSD = -1  # a primary that does not exist
NO_SHARD = -1  # the shard of a replicated pool's PG


class Placement(NamedTuple):
    """One placement group at one epoch: who serves it, and all else whose change begins a new interval."""

    pg: PgId  # as ops name it: the seed is below pg_num
    osd: int  # acting primary; NO_OSD where nobody serves the PG
    shard: int  # of the primary, in an erasure-coded pool; NO_SHARD otherwise
    up: tuple[int, ...]
    up_primary: int
    acting: tuple[int, ...]  # in an erasure-coded pool a missing shard is crush.map.ITEM_NONE
    size: int
    min_size: int
    pg_num: int
    pg_num_pending: int
    last_force_op_resend: int  # epoch
    sort_bitwise: bool
    recovery_deletes: bool
    stretch: tuple[int, int, int, int]  # the pool's peering_crush_* values


class Target(NamedTuple):
    """Where an op on one object goes: the hash of its name, and the placement of its PG."""

    raw_hash: int
    placement: Placement


def locate(osdmap: OSDMap, pool_id: PoolId, name: str, key: str = "", namespace: str = "") -> Target:
    """Where an object lives; NotFound where the map has no such pool."""
    raise NotImplementedError


def place(osdmap: OSDMap, pool_id: PoolId, raw_hash: int) -> Placement:
    """The placement of the PG that a hashed name falls into; NotFound where the map has no such pool."""
    raise NotImplementedError


def place_pg(osdmap: OSDMap, pg: PgId) -> Placement:
    """The placement of a PG; NotFound where the map has no such pool."""
    raise NotImplementedError


def is_new_interval(old: Placement, new: Placement) -> bool:
    """Whether ops sent under `old` must be sent again under `new`.

    `old` and `new` place the same object at consecutive epochs.
    """
    raise NotImplementedError
