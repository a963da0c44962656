"""What the header object of an image says.

`Header` is a picture of one moment; whoever needs it to be current watches the header object (`header_watch.py`).
Fields stand in groups by how they change: fixed for life, changed by operations, changed by whoever reads and writes.
"""

from dataclasses import dataclass, field
from typing import Any

from rbdfs.cls import lock, rbd
from rbdfs.cls.query import Query, answers, ask_all
from rbdfs.cls.rbd_types import ParentImageSpec, Protection, SnapKind, SnapshotInfo
from rbdfs.errors import Corrupt, InvalidArgument, NotFound
from rbdfs.image.features import Feature
from rbdfs.image.names import header_object
from rbdfs.image.striping import MAX_ORDER, Striping
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import NO_SNAPS, ReadOp, SnapContext, SnapId

_ATTEMPTS = 10  # while somebody removes snapshots between our two reads

_HEAD_QUERIES: tuple[Query[Any], ...] = (
    rbd.get_size(),
    rbd.get_features(read_only=True),
    rbd.get_op_features(),
    rbd.get_flags(),
    rbd.get_object_prefix(),
    rbd.get_data_pool(),
    rbd.get_snapcontext(),
    rbd.get_create_timestamp(),
    rbd.get_access_timestamp(),
    rbd.get_modify_timestamp(),
    rbd.get_parent(),
    rbd.get_parent_overlap(),
    lock.get_info(lock.RBD_LOCK),
)


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
    kind: int = SnapKind.USER  # snapshots of other kinds are not shown


@dataclass(slots=True)
class Locker:
    """Who holds the lock; of a lock that is shared (`rbd lock add --shared`), there may be several."""

    entity: str  # client.4123
    cookie: str  # auto 139657908064832
    address: str
    tag: str
    is_shared: bool = False


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
    version: int = 0  # of the object: every change, and every move of the lock, makes it another

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
    name = header_object(image_id)
    for _ in range(_ATTEMPTS):
        header, parent = await _read_head(ioctx, image_id)
        try:
            await _read_rest(ioctx, header, parent)
        except NotFound:
            continue  # a snapshot went away meanwhile: begin again
        return header
    raise Corrupt(f"{name}: its snapshot context names snapshots that it does not have")


async def _read_head(ioctx: IoCtx, image_id: str) -> tuple[Header, ParentImageSpec]:
    """All that every header has, in one op; and the parent, which its snapshots share."""
    name = header_object(image_id)
    try:
        reply = await ioctx.operate(name, ReadOp([query.step for query in _HEAD_QUERIES]))
    except NotFound as err:
        raise NotFound(f"{name}: no such image") from err
    (
        size,
        features,
        op_features,
        flags,
        prefix,
        data_pool,
        snapc,
        created,
        accessed,
        modified,
        parent,
        overlap,
        lock_info,
    ) = answers(name, _HEAD_QUERIES, reply.outputs)
    if size.order > MAX_ORDER:
        raise Corrupt(f"{name}: object order {size.order}")
    header = Header(
        image_id=image_id,
        object_prefix=prefix,
        striping=Striping.of(size.order),
        data_pool_id=data_pool if data_pool >= 0 else None,
        create_timestamp=created.ns,
        size=size.size,
        features=features.features,
        incompatible=features.incompatible,
        version=reply.version,
        op_features=op_features,
        flags=flags,
        snapc=snapc,
        parent=_parent(parent, overlap),
        access_timestamp=accessed.ns,
        modify_timestamp=modified.ns,
        lockers=[
            Locker(
                str(locker.entity),
                locker.cookie,
                str(info.address),
                lock_info.tag,
                is_shared=lock_info.type == lock.LockType.SHARED,
            )
            for locker, info in lock_info.lockers.items()
        ],
    )
    return header, parent


async def _read_rest(ioctx: IoCtx, header: Header, parent: ParentImageSpec) -> None:
    """What only some headers have, in one op: striping, snapshots."""
    name = header_object(header.image_id)
    queries: list[Query[Any]] = []
    is_striped = bool(header.features & Feature.STRIPINGV2)
    if is_striped:
        queries.append(rbd.get_stripe_unit_count())
    for snap_id in reversed(header.snapc.snaps):
        queries += [rbd.get_snapshot(snap_id), rbd.get_protection_status(snap_id), rbd.get_flags(snap_id)]
        if parent.exists():
            queries.append(rbd.get_parent_overlap(snap_id))
    if not queries:
        return
    found = iter(await ask_all(ioctx, name, *queries))
    if is_striped:
        unit, count = next(found)
        try:
            header.striping = Striping.of(header.order, unit, count)
        except InvalidArgument as err:
            raise Corrupt(f"{name}: {err}") from err
    for _ in header.snapc.snaps:
        info, protection, flags = next(found), next(found), next(found)
        overlap = next(found) if parent.exists() else None
        snap = _snap_info(info, protection, flags, _parent(parent, overlap))
        (header.snaps if snap.kind == SnapKind.USER else header.hidden_snaps).append(snap)


def _parent(spec: ParentImageSpec, overlap: int | None) -> Parent | None:
    if overlap is None or not spec.exists():
        return None
    return Parent(spec.pool_id, spec.pool_namespace, spec.image_id, SnapId(spec.snap_id), overlap)


def _snap_info(info: SnapshotInfo, protection: int, flags: int, parent: Parent | None) -> SnapInfo:
    return SnapInfo(
        id=SnapId(info.id),
        name=info.name,
        size=info.image_size,
        timestamp=info.timestamp.ns,
        is_protected=protection != Protection.UNPROTECTED,
        flags=flags,
        parent=parent,
        child_count=info.child_count,
        kind=info.namespace.kind,
    )
