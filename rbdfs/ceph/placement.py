"""Where an object lives: object name -> placement group -> up and acting set of OSDs, at one epoch of the map.

    target = locate(osdmap, pool_id, "rbd_data.1.00", "", "")
    target.placement.osd, target.placement.shard, target.raw_hash

A `Placement` is computed once per placement group and epoch and kept with the map. When a map arrives, compare the
placement of every PG that has ops under way, for each epoch applied and not only the last:

    if is_new_interval(old_placement, place(new_map, pool_id, raw_hash)): ...resend

Steps from a PG to its OSDs (OSDMap::_pg_to_up_acting_osds):

    CRUSH -> raw  -> upmaps (an administrator or the balancer moved single PGs)
          -> up   = raw less the OSDs that are down; the first one is primary unless its affinity says otherwise
          -> acting = pg_temp where there is one (data is still being moved), else up
"""

import functools
from typing import NamedTuple

from rbdfs.ceph.crush.hash import hash2
from rbdfs.ceph.crush.map import ITEM_NONE
from rbdfs.ceph.crush.rules import evaluate
from rbdfs.ceph.hashing import hash_name, stable_mod
from rbdfs.ceph.osdmap import IN, MapFlag, OSDMap
from rbdfs.ceph.pool import PgId, Pool, PoolFlag
from rbdfs.errors import NotFound, PoolNotFound
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
    """Where an object lives; PoolNotFound where the map has no such pool."""
    pool = osdmap.pools.get(pool_id)
    if pool is None:
        raise _no_pool(osdmap, pool_id)
    raw_hash = _hash_object(pool.object_hash, key or name, namespace)
    seed = stable_mod(raw_hash, pool.pg_num)
    placement = osdmap.placements.get((pool_id, seed))  # type: ignore[call-overload]  # a tuple equals its PgId
    return Target(raw_hash, placement or _place_pg(osdmap, pool, PgId(pool_id, seed)))


def place(osdmap: OSDMap, pool_id: PoolId, raw_hash: int) -> Placement:
    """The placement of the PG that a hashed name falls into; PoolNotFound where the map has no such pool."""
    pool = osdmap.pools.get(pool_id)
    if pool is None:
        raise _no_pool(osdmap, pool_id)
    return _place_pg(osdmap, pool, PgId(pool_id, stable_mod(raw_hash, pool.pg_num)))


def place_pg(osdmap: OSDMap, pg: PgId) -> Placement:
    """The placement of a PG; PoolNotFound where the map has no such pool, NotFound where the pool has no such PG."""
    pool = osdmap.pools.get(PoolId(pg.pool))
    if pool is None:
        raise _no_pool(osdmap, pg.pool)
    if pg.seed >= pool.pg_num:
        raise NotFound(f"placement group {pg}: the pool has {pool.pg_num}")
    return _place_pg(osdmap, pool, pg)


def _no_pool(osdmap: OSDMap, pool_id: int) -> PoolNotFound:
    return PoolNotFound(f"pool {pool_id}: not in the OSD map of epoch {osdmap.epoch}")


@functools.lru_cache(maxsize=16384)
def _hash_object(kind: int, key: str, namespace: str) -> int:
    text = f"{namespace}\x1f{key}" if namespace else key
    return hash_name(kind, text.encode("utf-8", "surrogateescape"))


# From a PG to its OSDs


def _place_pg(osdmap: OSDMap, pool: Pool, pg: PgId) -> Placement:
    placement: Placement | None = osdmap.placements.get(pg)
    if placement is None:
        placement = osdmap.placements[pg] = _compute(osdmap, pool, pg)
    return placement


def _compute(osdmap: OSDMap, pool: Pool, pg: PgId) -> Placement:
    seed = _placement_seed(pool, pg)
    raw = _keep_existing(osdmap, pool, _raw_mapping(osdmap, pool, pg, seed))
    up = _keep_up(osdmap, pool, _apply_upmaps(osdmap, pg, raw))
    up, up_primary = _choose_primary(osdmap, pool, seed, up)
    acting = _keep_up(osdmap, pool, osdmap.pg_temp.get(pg, ()))
    primary = osdmap.primary_temp.get(pg, NO_OSD)
    if primary == NO_OSD:
        primary = _first(acting) if acting else up_primary
    acting = acting or up
    return Placement(
        pg=pg,
        osd=primary,
        shard=acting.index(primary) if pool.is_erasure and primary in acting else NO_SHARD,
        up=tuple(up),
        up_primary=up_primary,
        acting=tuple(acting),
        size=pool.size,
        min_size=pool.min_size,
        pg_num=pool.pg_num,
        pg_num_pending=pool.pg_num_pending,
        last_force_op_resend=pool.last_force_op_resend,
        sort_bitwise=bool(osdmap.flags & MapFlag.SORTBITWISE),
        recovery_deletes=bool(osdmap.flags & MapFlag.RECOVERY_DELETES),
        stretch=pool.stretch,
    )


def _placement_seed(pool: Pool, pg: PgId) -> int:
    number = stable_mod(pg.seed, pool.pgp_num)
    if pool.flags & PoolFlag.HASHPSPOOL:
        return hash2(number, pg.pool)
    return number + pg.pool & 0xFFFFFFFF  # so the PGs of pools side by side overlapped


def _raw_mapping(osdmap: OSDMap, pool: Pool, pg: PgId, seed: int) -> tuple[int, ...]:
    raw = osdmap.raw_mappings.get(pg)
    if raw is None:
        crush = osdmap.crush
        raw = tuple(
            evaluate(crush, pool.crush_rule, seed, pool.size, osdmap.osd_weights, crush.choose_args_for(pg.pool))
        )
        osdmap.raw_mappings[pg] = raw
    return raw


def _keep_existing(osdmap: OSDMap, pool: Pool, osds: tuple[int, ...]) -> list[int]:
    if pool.is_erasure:
        return [osd if osdmap.exists(osd) else ITEM_NONE for osd in osds]
    return [osd for osd in osds if osdmap.exists(osd)]


def _keep_up(osdmap: OSDMap, pool: Pool, osds: list[int] | tuple[int, ...]) -> list[int]:
    if pool.is_erasure:
        return [osd if osdmap.is_up(osd) else ITEM_NONE for osd in osds]
    return [osd for osd in osds if osdmap.is_up(osd)]


def _is_out(osdmap: OSDMap, osd: int) -> bool:
    """Whether an upmap to that OSD is to be ignored; OSDs that never were are dropped later."""
    return 0 <= osd < osdmap.max_osd and osdmap.osd_weights[osd] == 0


def _apply_upmaps(osdmap: OSDMap, pg: PgId, raw: list[int]) -> list[int]:
    whole = osdmap.pg_upmap.get(pg)
    if whole is not None:
        if any(_is_out(osdmap, osd) for osd in whole):
            return raw  # and no other upmap of the PG counts
        raw = list(whole)
    for source, target in osdmap.pg_upmap_items.get(pg, ()):
        if source in raw and target not in raw and not _is_out(osdmap, target):
            raw[raw.index(source)] = target
    primary = osdmap.pg_upmap_primaries.get(pg)
    if primary is not None and 0 <= primary < osdmap.max_osd and osdmap.osd_weights[primary] and primary in raw[1:]:
        place = raw.index(primary, 1)
        raw[0], raw[place] = primary, raw[0]
    return raw


def _first(osds: list[int]) -> int:
    return next((osd for osd in osds if osd != ITEM_NONE), NO_OSD)


def _choose_primary(osdmap: OSDMap, pool: Pool, seed: int, up: list[int]) -> tuple[list[int], int]:
    """The up set, reordered where its order tells the primary, and the primary by affinity."""
    affinity = osdmap.primary_affinity
    if not affinity or not any(osd in affinity for osd in up):
        return up, _first(up)
    primary = _first(up)
    for osd in up:
        if osd != ITEM_NONE and hash2(seed, osd) >> 16 < affinity.get(osd, IN):
            primary = osd
            break
    if primary != NO_OSD and not pool.is_erasure:
        place = up.index(primary)
        up = [primary, *up[:place], *up[place + 1 :]]
    return up, primary


# Intervals


def is_new_interval(old: Placement, new: Placement) -> bool:
    """Whether ops sent under `old` must be sent again under `new`.

    `old` and `new` place the same object at consecutive epochs.
    """
    if old[:8] == new[:8] and old[8:] == new[8:]:
        return False
    return (
        old[:8] != new[:8]  # PG, OSDs, size, min_size
        or old[10:] != new[10:]  # last_force_op_resend, flags, stretch
        or _splits_or_merges(old.pg.seed, old.pg_num, new.pg_num)
        # Before PGs merge, pg_num_pending announces it, and takes it back where it fails.
        or _merges(old.pg.seed, old.pg_num_pending, new.pg_num_pending)
        or _merges(old.pg.seed, new.pg_num_pending, old.pg_num_pending)
    )


def _splits_or_merges(seed: int, old_count: int, new_count: int) -> bool:
    return splits(seed, old_count, new_count) or _merges(seed, old_count, new_count)


def splits(seed: int, old_count: int, new_count: int) -> bool:
    """Whether a PG gives part of its objects to new PGs when a pool grows (pg_t::is_split)."""
    if new_count <= old_count or seed >= old_count:
        return False
    # A child has the low bits of its parent, and at least one bit more.
    step = 1 << old_count.bit_length() - 1
    first = (seed & step - 1) + step
    return any(stable_mod(child, old_count) == seed for child in range(first, new_count, step) if child >= old_count)


def _merges(seed: int, old_count: int, new_count: int) -> bool:
    """Whether a PG is merged into another, or another into it, when a pool shrinks."""
    if new_count >= old_count:
        return False
    return new_count <= seed < old_count or splits(seed, new_count, old_count)
