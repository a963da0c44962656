"""The OSD map: pools, OSDs and where they are, as of one epoch. Full maps and increments.

An `OSDMap` does not change: `apply` makes the next epoch's map, which shares with the old one what stayed the same. So
a map may be kept as long as placements are to be compared.

A map travels as two parts, one for clients and one for OSDs, and a checksum. From the second part only the blocklist
matters here. What later releases append to either part is passed over.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import Any, TypeVar
from uuid import UUID

from rbdfs.ceph import osdmap_parts as parts
from rbdfs.ceph.crush.map import CrushMap
from rbdfs.ceph.osdmap_parts import SnapIntervals
from rbdfs.ceph.pool import PgId, Pool
from rbdfs.entities import AddrVec, EntityAddr
from rbdfs.errors import ProtocolError, WireError
from rbdfs.rados.ops import PoolId
from rbdfs.wire import Buffer, Cursor

IN = 0x10000  # weight and primary affinity of an OSD that takes all that falls on it

_WRAPPER_VERSION = 8
_CLIENT_VERSION = 10
_CLIENT_INCREMENT_VERSION = 9
_OSD_VERSION = 12
_LUMINOUS = 12

K = TypeVar("K")
V = TypeVar("V")


class MapFlag(IntFlag):
    """CEPH_OSDMAP_*: states of the whole cluster (those that matter to a client)."""

    NEARFULL = 1 << 0  # retired since Luminous, as is the next
    FULL = 1 << 1
    PAUSERD = 1 << 2
    PAUSEWR = 1 << 3
    SORTBITWISE = 1 << 12
    RECOVERY_DELETES = 1 << 15


class OsdState(IntFlag):
    """CEPH_OSD_*: states of one OSD (those that matter to a client)."""

    EXISTS = 1 << 0
    UP = 1 << 1
    AUTOOUT = 1 << 2
    NEW = 1 << 3


_EXISTS, _UP = int(OsdState.EXISTS), int(OsdState.UP)


@dataclass(slots=True)
class OSDMap:
    """The cluster at one epoch. Read-only: `apply` makes another one."""

    fsid: UUID
    epoch: int
    flags: MapFlag
    pools: dict[PoolId, Pool]
    pool_names: dict[PoolId, str]
    max_osd: int = 0
    osd_states: tuple[int, ...] = field(default=(), repr=False)  # OsdState and more, by OSD
    osd_weights: tuple[int, ...] = field(default=(), repr=False)  # `ceph osd reweight`; 0 is out
    osd_addresses: tuple[AddrVec, ...] = field(default=(), repr=False)
    primary_affinity: dict[int, int] = field(default_factory=dict, repr=False)  # of OSDs where it is not IN
    crush: CrushMap = field(default_factory=lambda: CrushMap(0, {}, {}), repr=False)
    erasure_code_profiles: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)
    pg_temp: dict[PgId, tuple[int, ...]] = field(default_factory=dict, repr=False)
    primary_temp: dict[PgId, int] = field(default_factory=dict, repr=False)
    pg_upmap: dict[PgId, tuple[int, ...]] = field(default_factory=dict, repr=False)
    pg_upmap_items: dict[PgId, tuple[tuple[int, int], ...]] = field(default_factory=dict, repr=False)
    pg_upmap_primaries: dict[PgId, int] = field(default_factory=dict, repr=False)
    new_removed_snaps: SnapIntervals = field(default_factory=dict, repr=False)  # at this epoch
    new_purged_snaps: SnapIntervals = field(default_factory=dict, repr=False)
    blocklist: frozenset[EntityAddr] = field(default_factory=frozenset, repr=False)
    range_blocklist: frozenset[EntityAddr] = field(default_factory=frozenset, repr=False)  # nonce: length of the prefix

    # Caches of placement.py; maps share raw mappings as long as these stay the same.
    placements: dict[PgId, Any] = field(default_factory=dict, repr=False, compare=False)
    raw_mappings: dict[PgId, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_bytes(cls, data: Buffer) -> "OSDMap":
        """Decode a full map and check its checksum."""
        try:
            cursor = Cursor(data)
            with cursor.envelope(_WRAPPER_VERSION, "wrapper") as version:
                with cursor.envelope(_CLIENT_VERSION, "client part") as part:
                    osdmap = cls._decode_client_part(cursor, part)
                with cursor.envelope(_OSD_VERSION, "OSD part") as part:
                    osdmap._decode_osd_part(cursor, part)
                if version >= 8:
                    parts.check_crc(cursor)
        except WireError as err:
            raise WireError(f"OSD map: {err}") from err
        return osdmap

    @classmethod
    def _decode_client_part(cls, cursor: Cursor, version: int) -> "OSDMap":
        fsid, epoch = UUID(bytes=bytes(cursor.take(16))), cursor.u32()
        cursor.skip(16)  # created, modified
        pools, names = parts.decode_pools(cursor), parts.decode_names(cursor)
        cursor.skip(4)  # pool_max
        osdmap = cls(fsid, epoch, MapFlag(cursor.u32()), pools, names, cursor.s32())
        osdmap.osd_states = tuple(cursor.u32() for _ in range(cursor.count())) if version >= 5 else tuple(cursor.blob())
        osdmap.osd_weights = parts.decode_numbers(cursor)
        osdmap.osd_addresses = tuple(AddrVec.decode(cursor) for _ in range(cursor.count()))
        counts = len(osdmap.osd_states), len(osdmap.osd_weights), len(osdmap.osd_addresses)
        if any(count != osdmap.max_osd for count in counts):
            raise WireError(f"{counts} states, weights and addresses of {osdmap.max_osd} OSDs")
        osdmap.pg_temp = parts.decode_pg_lists(cursor)
        osdmap.primary_temp = parts.decode_pg_numbers(cursor)
        affinities = parts.decode_numbers(cursor)
        osdmap.primary_affinity = {osd: value for osd, value in enumerate(affinities) if value != IN}
        osdmap.crush = CrushMap.from_bytes(cursor.take(cursor.u32()))
        osdmap.erasure_code_profiles = parts.decode_profiles(cursor)
        if version >= 4:
            osdmap.pg_upmap, osdmap.pg_upmap_items = parts.decode_pg_lists(cursor), parts.decode_pg_pairs(cursor)
        if version >= 6:
            cursor.skip(4)  # crush_version
        if version >= 7:
            osdmap.new_removed_snaps, osdmap.new_purged_snaps = parts.decode_snaps(cursor), parts.decode_snaps(cursor)
        if version >= 9:
            cursor.skip(16)  # last_up_change, last_in_change
        if version >= 10:
            osdmap.pg_upmap_primaries = parts.decode_pg_numbers(cursor)
        return osdmap

    def _decode_osd_part(self, cursor: Cursor, version: int) -> None:
        parts.skip_addresses(cursor)  # hb_back_addrs
        cursor.skip(25 * cursor.count())  # osd_info
        self.blocklist = frozenset(parts.decode_blocklist(cursor))
        if version < 11:
            return  # no ranges, and nothing else of interest
        parts.skip_addresses(cursor)  # cluster_addrs
        cursor.skip(4)  # cluster_snapshot_epoch
        cursor.blob()  # cluster_snapshot
        cursor.skip(16 * cursor.count())  # osd_uuid
        parts.skip_structures(cursor)  # osd_xinfo
        parts.skip_addresses(cursor)  # hb_front_addrs
        cursor.skip(3 * 4 + 2)  # ratios, releases
        parts.decode_snaps(cursor)  # removed_snaps_queue
        cursor.skip(8 * cursor.count())  # crush_node_flags
        cursor.skip(8 * cursor.count())  # device_class_flags
        cursor.skip(1 + 4 * 4)  # stretch mode
        self.range_blocklist = frozenset(parts.decode_addresses_with_times(cursor))

    def apply(self, increment: "Incremental") -> "OSDMap":
        """The next epoch's map; ProtocolError where the increment does not follow this map."""
        inc = increment
        if inc.fsid != self.fsid or inc.epoch != self.epoch + 1:
            raise ProtocolError(f"OSD map {self.epoch}: increment {inc.epoch} does not follow")
        if inc.full_map is not None:
            return inc.full_map
        new = replace(self, epoch=inc.epoch, placements={})
        if inc.new_flags is not None:
            new.flags = inc.new_flags
        if inc.new_require_osd_release is not None and inc.new_require_osd_release >= _LUMINOUS:
            new.flags |= MapFlag.RECOVERY_DELETES
        changed = {id_: replace(pool, last_change=inc.epoch) for id_, pool in inc.new_pools.items()}
        new.pools = _merged(self.pools, changed, inc.old_pools)
        new.pool_names = _merged(self.pool_names, inc.new_pool_names, inc.old_pools)
        new.new_removed_snaps, new.new_purged_snaps = inc.new_removed_snaps, inc.new_purged_snaps
        new._apply_osds(inc)
        new.erasure_code_profiles = _merged(self.erasure_code_profiles, inc.new_profiles, inc.old_profiles)
        new.pg_temp = _merged(self.pg_temp, inc.new_pg_temp, [pg for pg, osds in inc.new_pg_temp.items() if not osds])
        new.primary_temp = _merged(
            self.primary_temp, inc.new_primary_temp, [pg for pg, osd in inc.new_primary_temp.items() if osd == -1]
        )
        new.pg_upmap = _merged(self.pg_upmap, inc.new_pg_upmap, inc.old_pg_upmap)
        new.pg_upmap_items = _merged(self.pg_upmap_items, inc.new_pg_upmap_items, inc.old_pg_upmap_items)
        new.pg_upmap_primaries = _merged(
            self.pg_upmap_primaries, inc.new_pg_upmap_primaries, inc.old_pg_upmap_primaries
        )
        if inc.new_blocklist or inc.old_blocklist:
            new.blocklist = (self.blocklist | inc.new_blocklist) - inc.old_blocklist
        if inc.new_range_blocklist or inc.old_range_blocklist:
            new.range_blocklist = (self.range_blocklist | inc.new_range_blocklist) - inc.old_range_blocklist
        if inc.crush is not None:
            new.crush = inc.crush
        new._keep_raw_mappings(self)
        return new

    def _apply_osds(self, inc: "Incremental") -> None:
        """Weights, then states, then the OSDs that came up, as the order of OSDMap::apply_incremental."""
        if not (inc.new_max_osd is not None or inc.new_weights or inc.new_states or inc.new_up or inc.new_affinities):
            return
        if inc.new_max_osd is not None:
            self.max_osd = inc.new_max_osd
        states, weights = _resized(self.osd_states, self.max_osd, 0), _resized(self.osd_weights, self.max_osd, 0)
        addresses = _resized(self.osd_addresses, self.max_osd, AddrVec())
        affinity = {**self.primary_affinity, **inc.new_affinities}
        touched = (*inc.new_weights, *inc.new_states, *inc.new_up, *inc.new_affinities)
        if any(not 0 <= osd < self.max_osd for osd in touched):
            raise ProtocolError(f"OSD map {self.epoch}: a change of an OSD beyond {self.max_osd}")
        for osd, weight in inc.new_weights.items():
            weights[osd] = weight
            if weight:
                states[osd] = (states[osd] | _EXISTS) & ~(OsdState.AUTOOUT | OsdState.NEW)
        for osd, change in inc.new_states.items():
            change = change or _UP
            if states[osd] & change & _EXISTS:  # destroyed
                states[osd] = 0
                addresses[osd] = AddrVec()
                affinity.pop(osd, None)
            else:
                states[osd] ^= change
        for osd, addrs in inc.new_up.items():
            states[osd] |= _EXISTS | _UP
            addresses[osd] = addrs
        self.osd_states, self.osd_weights, self.osd_addresses = tuple(states), tuple(weights), tuple(addresses)
        self.primary_affinity = {osd: value for osd, value in affinity.items() if osd < self.max_osd and value != IN}

    def _keep_raw_mappings(self, old: "OSDMap") -> None:
        """Share the mappings of CRUSH with the map before, but for pools where they may differ."""
        if self.crush is not old.crush or self.osd_weights != old.osd_weights:
            self.raw_mappings = {}
            return
        changed = {
            id_
            for id_, pool in old.pools.items()
            if id_ not in self.pools or self.pools[id_].raw_mapping_key != pool.raw_mapping_key
        }
        if changed:
            self.raw_mappings = {pg: osds for pg, osds in old.raw_mappings.items() if pg.pool not in changed}

    def pool_id(self, name: str) -> PoolId | None:
        """The id of a pool, None where there is none of that name."""
        return next((id_ for id_, pool_name in self.pool_names.items() if pool_name == name), None)

    def exists(self, osd: int) -> bool:
        """Whether there is such an OSD."""
        return 0 <= osd < self.max_osd and self.osd_states[osd] & _EXISTS != 0

    def is_up(self, osd: int) -> bool:
        """Whether the OSD exists and is up."""
        return 0 <= osd < self.max_osd and self.osd_states[osd] & (_EXISTS | _UP) == _EXISTS | _UP

    def address(self, osd: int) -> AddrVec:
        """The addresses of an OSD that is up."""
        return self.osd_addresses[osd]

    def is_blocklisted(self, address: EntityAddr) -> bool:
        """Whether a client with that address is fenced: itself, its whole host, or a range of hosts."""
        if self.blocklist:
            fenced = parts.blocklist_key(address)
            if fenced in self.blocklist or replace(fenced, port=0, nonce=0) in self.blocklist:
                return True
        return any(parts.in_range(address, range_) for range_ in self.range_blocklist)


@dataclass(slots=True)
class Incremental:
    """What changes from `epoch - 1` to `epoch`; a value of None means that it stays."""

    fsid: UUID
    epoch: int
    full_map: OSDMap | None = None  # instead of all that follows
    new_flags: MapFlag | None = None
    crush: CrushMap | None = None
    new_max_osd: int | None = None
    new_pools: dict[PoolId, Pool] = field(default_factory=dict)
    new_pool_names: dict[PoolId, str] = field(default_factory=dict)
    old_pools: frozenset[PoolId] = frozenset()
    new_up: dict[int, AddrVec] = field(default_factory=dict)
    new_states: dict[int, int] = field(default_factory=dict)  # bits to toggle; 0 means UP
    new_weights: dict[int, int] = field(default_factory=dict)
    new_affinities: dict[int, int] = field(default_factory=dict)
    new_profiles: dict[str, dict[str, str]] = field(default_factory=dict)
    old_profiles: frozenset[str] = frozenset()
    new_pg_temp: dict[PgId, tuple[int, ...]] = field(default_factory=dict)  # empty: remove
    new_primary_temp: dict[PgId, int] = field(default_factory=dict)  # -1: remove
    new_pg_upmap: dict[PgId, tuple[int, ...]] = field(default_factory=dict)
    old_pg_upmap: frozenset[PgId] = frozenset()
    new_pg_upmap_items: dict[PgId, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    old_pg_upmap_items: frozenset[PgId] = frozenset()
    new_pg_upmap_primaries: dict[PgId, int] = field(default_factory=dict)
    old_pg_upmap_primaries: frozenset[PgId] = frozenset()
    new_removed_snaps: SnapIntervals = field(default_factory=dict)
    new_purged_snaps: SnapIntervals = field(default_factory=dict)
    new_blocklist: frozenset[EntityAddr] = frozenset()
    old_blocklist: frozenset[EntityAddr] = frozenset()
    new_range_blocklist: frozenset[EntityAddr] = frozenset()
    old_range_blocklist: frozenset[EntityAddr] = frozenset()
    new_require_osd_release: int | None = None  # 12 is Luminous

    @classmethod
    def from_bytes(cls, data: Buffer) -> "Incremental":
        """Decode an increment and check its checksum."""
        try:
            cursor = Cursor(data)
            with cursor.envelope(_WRAPPER_VERSION, "wrapper") as version:
                with cursor.envelope(_CLIENT_INCREMENT_VERSION, "client part") as part:
                    inc = cls._decode_client_part(cursor, part)
                with cursor.envelope(_OSD_VERSION, "OSD part") as part:
                    inc._decode_osd_part(cursor, part)
                if version >= 8:
                    parts.check_crc(cursor)
        except WireError as err:
            raise WireError(f"OSD map increment: {err}") from err
        return inc

    @classmethod
    def _decode_client_part(cls, cursor: Cursor, version: int) -> "Incremental":
        inc = cls(UUID(bytes=bytes(cursor.take(16))), cursor.u32())
        cursor.skip(8)  # modified
        cursor.skip(8)  # new_pool_max
        flags = cursor.s32()
        inc.new_flags = MapFlag(flags) if flags >= 0 else None
        full_map, crush = cursor.take(cursor.u32()), cursor.take(cursor.u32())
        inc.full_map = OSDMap.from_bytes(full_map) if full_map else None
        inc.crush = CrushMap.from_bytes(crush) if crush else None
        max_osd = cursor.s32()
        inc.new_max_osd = max_osd if max_osd >= 0 else None
        inc.new_pools, inc.new_pool_names = parts.decode_pools(cursor), parts.decode_names(cursor)
        inc.old_pools = frozenset(PoolId(cursor.s64()) for _ in range(cursor.count()))
        inc.new_up = {cursor.s32(): AddrVec.decode(cursor) for _ in range(cursor.count())}
        if version >= 5:
            inc.new_states = parts.decode_osd_numbers(cursor)
        else:
            inc.new_states = {cursor.s32(): cursor.u8() for _ in range(cursor.count())}
        inc.new_weights = parts.decode_osd_numbers(cursor)
        inc.new_pg_temp, inc.new_primary_temp = parts.decode_pg_lists(cursor), parts.decode_pg_numbers(cursor)
        if version >= 2:
            inc.new_affinities = parts.decode_osd_numbers(cursor)
        if version >= 3:
            inc.new_profiles = parts.decode_profiles(cursor)
            inc.old_profiles = frozenset(cursor.text() for _ in range(cursor.count()))
        if version >= 4:
            inc.new_pg_upmap, inc.old_pg_upmap = parts.decode_pg_lists(cursor), parts.decode_pgs(cursor)
            inc.new_pg_upmap_items, inc.old_pg_upmap_items = parts.decode_pg_pairs(cursor), parts.decode_pgs(cursor)
        if version >= 6:
            inc.new_removed_snaps, inc.new_purged_snaps = parts.decode_snaps(cursor), parts.decode_snaps(cursor)
        if version >= 8:
            cursor.skip(16)  # new_last_up_change, new_last_in_change
        if version >= 9:
            inc.new_pg_upmap_primaries, inc.old_pg_upmap_primaries = (
                parts.decode_pg_numbers(cursor),
                parts.decode_pgs(cursor),
            )
        return inc

    def _decode_osd_part(self, cursor: Cursor, version: int) -> None:
        parts.skip_addresses(cursor, has_key=True)  # new_hb_back_up
        cursor.skip(8 * cursor.count())  # new_up_thru
        cursor.skip(12 * cursor.count())  # new_last_clean_interval
        cursor.skip(8 * cursor.count())  # new_lost
        self.new_blocklist = frozenset(parts.decode_blocklist(cursor))
        self.old_blocklist = frozenset(parts.blocklist_key(EntityAddr.decode(cursor)) for _ in range(cursor.count()))
        if version < 6:
            return  # before Luminous
        parts.skip_addresses(cursor, has_key=True)  # new_up_cluster
        cursor.blob()  # cluster_snapshot
        cursor.skip(20 * cursor.count())  # new_uuid
        parts.skip_structures(cursor, has_key=True)  # new_xinfo
        parts.skip_addresses(cursor, has_key=True)  # new_hb_front_up
        cursor.skip(8 + 3 * 4 + 1)  # encode_features, ratios, new_require_min_compat_client
        release = cursor.u8()
        self.new_require_osd_release = None if release == 0xFF else release
        if version < 11:
            return  # no ranges
        cursor.skip(8 * cursor.count())  # new_crush_node_flags
        cursor.skip(8 * cursor.count())  # new_device_class_flags
        cursor.skip(1 + 4 * 4 + 1)  # stretch mode
        self.new_range_blocklist = frozenset(parts.decode_addresses_with_times(cursor))
        self.old_range_blocklist = frozenset(EntityAddr.decode(cursor) for _ in range(cursor.count()))


# Helpers of apply


def _merged(old: dict[K, V], new: Mapping[K, V], removed: Iterable[K] = ()) -> dict[K, V]:
    """`old` with what is new, without what is removed; `old` itself where nothing changes."""
    removed = list(removed)
    if not new and not removed:
        return old
    merged = {**old, **new}
    for key in removed:
        merged.pop(key, None)
    return merged


def _resized(values: tuple[V, ...], length: int, filler: V) -> list[V]:
    return [*values[:length], *[filler] * (length - len(values))]
