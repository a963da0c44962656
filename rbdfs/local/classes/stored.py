"""What class `rbd` stores in a header's omap and no client sees: snapshots and the parent (`cls/rbd/cls_rbd.h`).

Since Nautilus the parent is stored once, under `parent`, and each snapshot only says how much of it shows through. A
snapshot that an older OSD wrote holds the parent itself; it is put into the new form when it is written again.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

from rbdfs.cls.rbd_types import NO_SNAP, USER, ParentImageSpec, Protection, SnapNamespace
from rbdfs.entities import UTime
from rbdfs.errors import Corrupt, WireError
from rbdfs.local.classes.context import MethodContext
from rbdfs.local.classes.support import find_key, list_keys, write_key
from rbdfs.wire import U8, U32, U64, Cursor, codec_of, encode_values, envelope

SNAPSHOT_PREFIX = "snapshot_"
PARENT = "parent"


def _compat(cursor: Cursor) -> int:
    """The oldest version that can read the envelope which begins here."""
    return cursor.buffer[cursor.offset + 1] if cursor.remaining > 1 else 0


@dataclass(frozen=True, slots=True)
class StoredParent:
    """The parent of an image (`cls_rbd_parent`); without `head_overlap` only snapshots still have it."""

    spec: ParentImageSpec = field(default_factory=ParentImageSpec)
    head_overlap: int | None = None

    def encode(self, out: bytearray) -> None:
        """Append the encoding to `out`, in the form of Nautilus and later."""
        with envelope(out, 2, 2):
            self.spec.encode_fields(out)
            out += encode_values((U64 | None, self.head_overlap))

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read one, in the form of any release."""
        with cursor.envelope(2, "StoredParent") as version:
            if version >= 2:
                return cls(ParentImageSpec.decode_fields(cursor, 1), codec_of(U64 | None)[1](cursor))
            pool_id, image_id, snap_id, overlap = cursor.s64(), cursor.text(), cursor.u64(), cursor.u64()
            return cls(ParentImageSpec(pool_id, "", image_id, snap_id), overlap)


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot of an image (`cls_rbd_snap`)."""

    id: int = NO_SNAP
    name: str = ""
    image_size: int = 0
    protection: int = Protection.UNPROTECTED
    flags: int = 0
    namespace: SnapNamespace = USER
    timestamp: UTime = field(default_factory=UTime)
    child_count: int = 0
    parent_overlap: int | None = None
    parent: StoredParent = field(default_factory=StoredParent)  # as OSDs before Nautilus stored it; not written

    @property
    def has_parent(self) -> bool:
        """Whether the parent shows through."""
        return self.parent.spec.pool_id != -1 or self.parent_overlap is not None

    def encode(self, out: bytearray) -> None:
        """Append the encoding to `out`, in the form of Nautilus and later."""
        with envelope(out, 8, 8):
            out += encode_values((U64, self.id), (str, self.name), (U64, self.image_size))
            out += encode_values((U8, self.protection), (U64, self.flags), (SnapNamespace, self.namespace))
            out += encode_values((UTime, self.timestamp), (U32, self.child_count), (U64 | None, self.parent_overlap))

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read one, in the form of any release."""
        compat = _compat(cursor)
        with cursor.envelope(8, "StoredSnapshot") as version:
            found: dict[str, Any] = {"id": cursor.u64(), "name": cursor.text(), "image_size": cursor.u64()}
            if compat < 8:
                cursor.u64()  # features: those of the image count
                if version >= 2:
                    found["parent"] = StoredParent.decode(cursor)
            if version >= 3:
                found["protection"] = cursor.u8()
            if version >= 4:
                found["flags"] = cursor.u64()
            if version >= 5:
                found["namespace"] = SnapNamespace.decode(cursor)
            if version >= 6:
                found["timestamp"] = UTime.decode(cursor)
            if version >= 7:
                found["child_count"] = cursor.u32()
            if version >= 8:
                found["parent_overlap"] = codec_of(U64 | None)[1](cursor)
        return cls(**found)


@lru_cache(maxsize=4096)
def _decode_snapshot(value: bytes) -> StoredSnapshot:
    """Whoever reads a header asks three methods about each snapshot, and often reads it again."""
    return StoredSnapshot.decode(Cursor(value))


def _snapshot(context: MethodContext, key: str, value: bytes) -> StoredSnapshot:
    try:
        return _decode_snapshot(bytes(value))
    except WireError as err:
        raise Corrupt(f"{context.object_name}: {key}: {err}") from err


def snapshot_key(snap_id: int) -> str:
    """The omap key of a snapshot."""
    return f"{SNAPSHOT_PREFIX}{snap_id:016x}"


def read_snapshot(context: MethodContext, snap_id: int) -> StoredSnapshot:
    """A snapshot; NotFound."""
    key = snapshot_key(snap_id)
    return _snapshot(context, key, context.omap_get(key))


def read_snapshots(context: MethodContext) -> list[StoredSnapshot]:
    """All snapshots, oldest first."""
    return [
        _snapshot(context, SNAPSHOT_PREFIX + key, value) for key, value in list_keys(context, SNAPSHOT_PREFIX).items()
    ]


def write_snapshot(context: MethodContext, snap: StoredSnapshot) -> None:
    """Store a snapshot; one that holds its parent itself is put into the new form."""
    if snap.parent.spec.exists():
        if not read_parent(context).spec.exists():
            write_parent(context, replace(snap.parent, head_overlap=None))
        snap = replace(snap, parent_overlap=snap.parent.head_overlap, parent=StoredParent())
    write_key(context, snapshot_key(snap.id), StoredSnapshot, snap)


def read_parent(context: MethodContext) -> StoredParent:
    """The parent of the image, or an empty one."""
    parent: StoredParent = find_key(context, PARENT, StoredParent, StoredParent())
    return parent


def write_parent(context: MethodContext, parent: StoredParent) -> None:
    """Store the parent of the image."""
    write_key(context, PARENT, StoredParent, parent)
