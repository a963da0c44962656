"""The OSD map: pools, OSDs and where they are, as of one epoch. Full maps and increments.

An `OSDMap` does not change: `apply` makes the next epoch's map, which shares with the old one what stayed the same. So
a map may be kept as long as placements are to be compared.
"""

from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any, NamedTuple
from uuid import UUID

from rbdfs.ceph.pool import Pool
from rbdfs.rados.ops import PoolId
from rbdfs.wire import Buffer


class PgId(NamedTuple):
    """A placement group: pool and number within it."""

    pool: int
    seed: int

    def __str__(self) -> str:
        return f"{self.pool}.{self.seed:x}"


class MapFlag(IntFlag):
    """CEPH_OSDMAP_*: states of the whole cluster (those that matter to a client)."""

    NEARFULL = 1 << 0  # retired since Luminous, as is the next
    FULL = 1 << 1
    PAUSERD = 1 << 2
    PAUSEWR = 1 << 3
    SORTBITWISE = 1 << 12
    RECOVERY_DELETES = 1 << 15


@dataclass(slots=True)
class OSDMap:
    """The cluster at one epoch. Read-only: `apply` makes another one."""

    fsid: UUID
    epoch: int
    flags: MapFlag
    pools: dict[PoolId, Pool]
    pool_names: dict[PoolId, str]
    placements: dict[PgId, Any] = field(default_factory=dict, repr=False, compare=False)  # cache of placement.py

    @classmethod
    def from_bytes(cls, data: Buffer) -> "OSDMap":
        """Decode a full map."""
        raise NotImplementedError

    def apply(self, increment: "Incremental") -> "OSDMap":
        """The next epoch's map; ProtocolError where the increment does not follow this map."""
        raise NotImplementedError

    def pool_id(self, name: str) -> PoolId | None:
        """The id of a pool, None where there is none of that name."""
        raise NotImplementedError

    def is_up(self, osd: int) -> bool:
        """Whether the OSD exists and is up."""
        raise NotImplementedError

    def address(self, osd: int) -> Any:
        """The addresses (`AddrVec`) of an OSD that is up."""
        raise NotImplementedError

    def is_blocklisted(self, address: Any) -> bool:
        """Whether a client with that address (`EntityAddr`) is fenced."""
        raise NotImplementedError


@dataclass(slots=True)
class Incremental:
    """What changes from `epoch - 1` to `epoch`."""

    fsid: UUID
    epoch: int

    @classmethod
    def from_bytes(cls, data: Buffer) -> "Incremental":
        """Decode an increment."""
        raise NotImplementedError
