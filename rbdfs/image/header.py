"""What the header object of an image says.

`Header` is a picture of one moment; whoever needs it to be current watches the header object (`watcher.py`). Fields
stand in groups by how they change: fixed for life, changed by operations, changed by whoever reads and writes.
"""

from dataclasses import dataclass, field

from rbdfs.image.striping import Striping
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import NO_SNAPS, SnapContext, SnapId


@dataclass(frozen=True, slots=True)
class Parent:
    """The snapshot that a clone was made of, and how many bytes of it still show through."""

    pool_id: int
    namespace: str
    image_id: str
    snap_id: SnapId
    overlap: int


@dataclass(slots=True)
class SnapInfo:
    """A snapshot."""

    id: SnapId
    name: str
    size: int
    timestamp: int  # nanoseconds since the epoch
    is_protected: bool = False
    flags: int = 0
    parent: Parent | None = None
    child_count: int = 0  # clones that hold it without protection (clone format 2)
    namespace_kind: str = "user"  # others, which are not shown: group, trash, mirror


@dataclass(slots=True)
class Locker:
    """Who holds the exclusive lock."""

    entity: str  # client.4123
    cookie: str  # auto 139657908064832
    address: str
    tag: str


@dataclass(slots=True)
class Header:
    """An image's metadata at one moment."""

    image_id: str
    object_prefix: str
    striping: Striping
    data_pool_id: int | None
    create_timestamp: int

    size: int
    features: int
    op_features: int
    flags: int
    snapc: SnapContext = NO_SNAPS
    snaps: list[SnapInfo] = field(default_factory=list)  # oldest first; those of users only
    hidden_snaps: list[SnapInfo] = field(default_factory=list)  # of groups, mirrors and the trash
    parent: Parent | None = None

    access_timestamp: int = 0
    modify_timestamp: int = 0
    lockers: list[Locker] = field(default_factory=list)
    incompatible: int = 0  # features that a reader must know, as the store's object class sees it

    @property
    def order(self) -> int:
        """log2 of the object size."""
        return self.striping.order

    @property
    def object_size(self) -> int:
        """Bytes that one data object holds at most."""
        return 1 << self.striping.order

    @property
    def stripe_unit(self) -> int:
        """Bytes that stay together in one object."""
        return self.striping.stripe_unit

    @property
    def stripe_count(self) -> int:
        """Objects that the stripe units go round."""
        return self.striping.stripe_count

    @property
    def all_snaps(self) -> list[SnapInfo]:
        """Every snapshot that writes must preserve, oldest first."""
        return sorted([*self.snaps, *self.hidden_snaps], key=lambda snap: snap.id)

    def snap_by_name(self, name: str) -> SnapInfo | None:
        """The user's snapshot of that name."""
        return next((snap for snap in self.snaps if snap.name == name), None)

    def snap_by_id(self, snap_id: SnapId) -> SnapInfo | None:
        """The snapshot with that id."""
        return next((snap for snap in self.all_snaps if snap.id == snap_id), None)


async def read_header(ioctx: IoCtx, image_id: str) -> Header:
    """Read an image's metadata, without watching it: NotFound, or Corrupt where it makes no sense."""
    raise NotImplementedError
