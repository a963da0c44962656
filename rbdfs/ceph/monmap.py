"""The monitor map: who the monitors are and where."""

from dataclasses import dataclass, field
from uuid import UUID

from rbdfs.entities import AddrVec
from rbdfs.errors import WireError
from rbdfs.wire import Buffer, Cursor

_KNOWN_VERSION = 10


@dataclass(slots=True)
class MonInfo:
    """One monitor (mon_info_t)."""

    name: str
    addresses: AddrVec
    priority: int = 0  # lower ones are to be tried first
    weight: int = 0  # among those of one priority: how often to be chosen, where not all are 0


@dataclass(slots=True)
class MonMap:
    """The monitors at one epoch."""

    fsid: UUID
    epoch: int
    monitors: dict[str, MonInfo]
    ranks: list[str] = field(default_factory=list)  # names; the first one leads an election it takes part in
    min_mon_release: int = 0  # 16 is Pacific

    @classmethod
    def from_bytes(cls, data: Buffer) -> "MonMap":
        """Decode a monitor map of version 6 (Nautilus) or later."""
        try:
            cursor = Cursor(data)
            with cursor.envelope(_KNOWN_VERSION, "MonMap") as version:
                return cls._decode(cursor, version)
        except WireError as err:
            raise WireError(f"monitor map: {err}") from err

    @classmethod
    def _decode(cls, cursor: Cursor, version: int) -> "MonMap":
        if version < 6:
            raise WireError(f"version {version}: no monitor since Nautilus sends it")
        monmap = cls(UUID(bytes=bytes(cursor.take(16))), cursor.u32(), {})
        cursor.skip(16)  # last_changed, created
        _skip_structure(cursor)  # persistent_features
        _skip_structure(cursor)  # optional_features
        for _ in range(cursor.count()):
            name = cursor.text()
            monmap.monitors[name] = _decode_info(cursor)
        monmap.ranks = [cursor.text() for _ in range(cursor.count())]
        monmap.min_mon_release = cursor.u8() if version >= 7 else 0
        return monmap


def _decode_info(cursor: Cursor) -> MonInfo:
    with cursor.envelope(6, "mon_info_t") as version:
        info = MonInfo(cursor.text(), AddrVec.decode(cursor))
        if version >= 2:
            info.priority = cursor.u16()
        if version >= 4:
            info.weight = cursor.u16()
        return info


def _skip_structure(cursor: Cursor) -> None:
    cursor.skip(2)
    cursor.skip(cursor.u32())
