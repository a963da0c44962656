"""The vocabulary of RBD metadata: feature bits, states, and the structures that class `rbd` takes and gives.

Names and numbers are those of `include/rbd_types.h`, `include/rbd/features.h` and `cls/rbd/cls_rbd_types.h`.
"""

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Self

from rbdfs.entities import UTime
from rbdfs.wire import S64, U8, U32, U64, Cursor, Record, envelope, since

NO_SNAP = 2**64 - 2  # CEPH_NOSNAP
MAX_SNAP_ID = 2**64 - 3  # CEPH_MAXSNAP
MAX_OBJECT_MAP_COUNT = 256_000_000  # cls::rbd::MAX_OBJECT_MAP_OBJECT_COUNT
UNLIMITED = 2**64 - 1  # a snapshot limit that is not set


class Feature(IntFlag):
    """What an image's format makes use of (`RBD_FEATURE_*`)."""

    LAYERING = 1 << 0
    STRIPINGV2 = 1 << 1
    EXCLUSIVE_LOCK = 1 << 2
    OBJECT_MAP = 1 << 3
    FAST_DIFF = 1 << 4
    DEEP_FLATTEN = 1 << 5
    JOURNALING = 1 << 6
    DATA_POOL = 1 << 7
    OPERATIONS = 1 << 8
    MIGRATING = 1 << 9
    NON_PRIMARY = 1 << 10
    DIRTY_CACHE = 1 << 11

    @property
    def rbd_name(self) -> str:
        """The name of one feature as `rbd` spells it."""
        assert self.name is not None
        return {"STRIPINGV2": "striping"}.get(self.name, self.name.lower().replace("_", "-"))


FEATURES_ALL = 0xFFF
FEATURES_INCOMPATIBLE = Feature.LAYERING | Feature.STRIPINGV2 | Feature.DATA_POOL | Feature.DIRTY_CACHE
FEATURES_RW_INCOMPATIBLE = (
    FEATURES_INCOMPATIBLE
    | Feature.EXCLUSIVE_LOCK
    | Feature.OBJECT_MAP
    | Feature.FAST_DIFF
    | Feature.DEEP_FLATTEN
    | Feature.JOURNALING
    | Feature.OPERATIONS
    | Feature.MIGRATING
    | Feature.NON_PRIMARY
)
FEATURES_MUTABLE = (
    Feature.EXCLUSIVE_LOCK
    | Feature.OBJECT_MAP
    | Feature.FAST_DIFF
    | Feature.JOURNALING
    | Feature.NON_PRIMARY
    | Feature.DIRTY_CACHE
)
FEATURES_DISABLE_ONLY = Feature.DEEP_FLATTEN
FEATURES_INTERNAL = Feature.OPERATIONS | Feature.MIGRATING


class OpFeature(IntFlag):
    """What has been done with an image that older clients must not ignore (`RBD_OPERATION_FEATURE_*`)."""

    CLONE_PARENT = 1 << 0
    CLONE_CHILD = 1 << 1
    GROUP = 1 << 2
    SNAP_TRASH = 1 << 3


OP_FEATURES_ALL = 0xF


class ImageFlag(IntFlag):
    """What about an image, or a snapshot, cannot be trusted (`RBD_FLAG_*`)."""

    OBJECT_MAP_INVALID = 1 << 0
    FAST_DIFF_INVALID = 1 << 1


class Protection(IntEnum):
    """Whether a snapshot may be removed (`RBD_PROTECTION_STATUS_*`)."""

    UNPROTECTED = 0
    UNPROTECTING = 1
    PROTECTED = 2


class ObjectState(IntEnum):
    """What an object map says of a data object (`OBJECT_*`)."""

    NONEXISTENT = 0
    EXISTS = 1
    PENDING = 2  # being removed
    CLEAN = 3  # exists, unchanged since the newest snapshot


class SnapKind(IntEnum):
    """The kind of a snapshot (`SNAPSHOT_NAMESPACE_TYPE_*`)."""

    USER = 0
    GROUP = 1
    TRASH = 2
    MIRROR = 3


@dataclass(slots=True, frozen=True)
class SnapNamespace:
    """The kind of a snapshot and, for kinds other than USER, what that kind adds, kept as bytes."""

    kind: int = SnapKind.USER
    content: bytes = b""

    def encode(self, out: bytearray) -> None:
        """Append the encoding to `out`."""
        with envelope(out, 1, 1):
            out += self.kind.to_bytes(4, "little") + self.content

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read one from the cursor."""
        with cursor.envelope(1, "SnapNamespace"):
            namespace = cls(cursor.u32(), bytes(cursor.take(cursor.remaining)))
        if namespace.kind in _CONTENTS:
            _CONTENTS[namespace.kind].decode(Cursor(namespace.content))  # refuse what cannot be read later
        return namespace


USER = SnapNamespace()


@dataclass(slots=True)
class GroupSnapContent(Record):
    """What SnapKind.GROUP adds."""

    group_pool: S64
    group_id: str
    group_snap_id: str


@dataclass(slots=True)
class TrashSnapContent(Record):
    """What SnapKind.TRASH adds: what the snapshot was before it was moved to the trash."""

    original_name: str
    original_kind: U32


@dataclass(slots=True)
class MirrorSnapContent(Record):
    """What SnapKind.MIRROR adds."""

    state: U8  # 0 primary, 1 primary demoted, 2 non-primary, 3 non-primary demoted
    complete: bool
    peer_uuids: set[str]
    primary_mirror_uuid: str
    primary_snap_id: U64
    last_copied_object_number: U64
    snap_seqs: dict[U64, U64]


_CONTENTS: dict[int, type[Record]] = {
    SnapKind.GROUP: GroupSnapContent,
    SnapKind.TRASH: TrashSnapContent,
    SnapKind.MIRROR: MirrorSnapContent,
}


@dataclass(slots=True)
class SnapshotInfo(Record, version=1, compat=1):
    """A snapshot as `snapshot_get` tells it."""

    id: U64
    namespace: SnapNamespace
    name: str
    image_size: U64
    timestamp: UTime
    child_count: U32


@dataclass(slots=True)
class ParentImageSpec(Record, version=1, compat=1):
    """The snapshot that a clone was made of; `pool_id` -1 means none."""

    pool_id: S64 = -1
    pool_namespace: str = ""
    image_id: str = ""
    snap_id: U64 = NO_SNAP

    def exists(self) -> bool:
        """Whether there is a parent (`ParentImageSpec::exists`)."""
        return self.pool_id >= 0 and self.image_id != "" and self.snap_id != NO_SNAP


@dataclass(slots=True, frozen=True)
class ChildImageSpec(Record, version=2, compat=1):
    """A clone of a snapshot of this image."""

    pool_id: S64 = -1
    image_id: str = ""
    pool_namespace: str = since(2, default="")

    def sort_key(self) -> tuple[int, str, str]:
        """The order in which children are stored (`operator<` of ChildImageSpec)."""
        return self.pool_id, self.pool_namespace, self.image_id


@dataclass(slots=True)
class GroupSpec(Record, version=1, compat=1):
    """A consistency group; an image that is in none has an empty id."""

    pool_id: S64
    group_id: str


class TrashSource(IntEnum):
    """Who moved an image to the trash (`TRASH_IMAGE_SOURCE_*`)."""

    USER = 0
    MIRRORING = 1
    MIGRATION = 2
    REMOVING = 3
    USER_PARENT = 4


class TrashState(IntEnum):
    """What happens to an image in the trash (`TRASH_IMAGE_STATE_*`)."""

    NORMAL = 0
    MOVING = 1
    REMOVING = 2
    RESTORING = 3


@dataclass(slots=True)
class TrashSpec(Record, version=2, compat=1):
    """An image in the trash (`TrashImageSpec`)."""

    source: U8 = TrashSource.USER
    name: str = ""
    deletion_time: UTime = field(default_factory=UTime)
    deferment_end_time: UTime = field(default_factory=UTime)
    state: U8 = since(2, default=TrashState.NORMAL)


class DirectoryState(IntEnum):
    """Whether images may be added to a directory (`DIRECTORY_STATE_*`)."""

    READY = 0
    ADD_DISABLED = 1  # its namespace is being removed


@dataclass(slots=True)
class MigrationSpec(Record, version=3, compat=1):
    """A migration under way: what the other end is."""

    header_type: U8
    pool_id: S64
    pool_namespace: str
    image_name: str
    image_id: str
    snap_seqs: dict[U64, U64]
    overlap: U64
    flatten: bool
    mirroring: bool
    state: U8
    state_description: str
    mirror_image_mode: U8 = since(2, default=0)
    source_spec: str = since(3, default="")
