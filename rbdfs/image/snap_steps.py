"""What is done for a snapshot by whoever may: the owner of the exclusive lock, or anybody where an image has none.

Callers hold `image.maintenance` and have prepared the image; `snapshots.py` is for everybody else.
"""

import trio

from rbdfs.cls import rbd
from rbdfs.cls.rbd_types import Protection
from rbdfs.errors import Busy, Exists, InvalidArgument, NotFound, NotSupported, RbdfsError, StaleSnapId
from rbdfs.image.children import has_children
from rbdfs.image.core import ImageCore
from rbdfs.image.features import Feature
from rbdfs.image.header import SnapInfo
from rbdfs.image.map_snapshots import snapshot_created, snapshot_removed
from rbdfs.image.spec import check_snap_name
from rbdfs.rados.ops import Call, SnapId

_ATTEMPTS = 10


async def create(image: ImageCore, name: str) -> None:
    """Record the image as it is now; writes wait meanwhile."""
    check_snap_name(name)
    if image.header.snap_by_name(name) is not None:
        raise Exists(f"{image.what}@{name}: the snapshot exists")
    async with image.path.paused():
        await image.path.flush_at_rest()
        with trio.CancelScope(shield=True):  # a snapshot without its map, or an id without a snapshot, is a nuisance
            snap_id = await _add(image, name)
            image.doubt_header()  # a write with the old snap context would change the snapshot
            try:
                await snapshot_created(image, snap_id)
            finally:
                await image.refresh()
    await image.announce()


async def _add(image: ImageCore, name: str) -> SnapId:
    """Get an id and enter it in the header; begin again if a newer one got there first."""
    for attempt in range(_ATTEMPTS):
        snap_id = await image.path.data.create_snap_id()
        try:
            async with image.header_lock:
                await image.change_header(rbd.add_snapshot(snap_id, name))
        except StaleSnapId:
            await image.path.data.remove_snap_id(snap_id)
            if attempt == _ATTEMPTS - 1:
                raise
        except RbdfsError:  # done or not: the header knows, and where it does not answer, the id may be in use
            await image.refresh()
            if image.header.snap_by_id(snap_id) is None:
                await image.path.data.remove_snap_id(snap_id)
                raise
            return snap_id
        else:
            return snap_id
    raise AssertionError


async def remove(image: ImageCore, name: str) -> None:
    """Remove a snapshot, unless it is protected or has clones."""
    snap = find(image, name)
    if snap.is_protected:
        raise Busy(f"{image.what}@{name}: the snapshot is protected")
    if snap.child_count:
        raise Busy(f"{image.what}@{name}: the snapshot has clones")
    with trio.CancelScope(shield=True):
        await snapshot_removed(image, snap)
        await image.path.data.remove_snap_id(snap.id)
        async with image.header_lock:
            await image.change_header(rbd.remove_snapshot(snap.id))
            await image.refresh_locked()
    await image.announce()


async def rename(image: ImageCore, name: str, new_name: str) -> None:
    """Give a snapshot another name."""
    check_snap_name(new_name)
    snap = find(image, name)
    if image.header.snap_by_name(new_name) is not None:
        raise Exists(f"{image.what}@{new_name}: the snapshot exists")
    await _change(image, rbd.rename_snapshot(snap.id, new_name))


async def protect(image: ImageCore, name: str) -> None:
    """Forbid the removal of a snapshot."""
    if not image.header.features & Feature.LAYERING:
        raise NotSupported(f"{image.what}: protecting snapshots needs the feature layering")
    snap = find(image, name)
    if snap.is_protected:
        raise Busy(f"{image.what}@{name}: the snapshot is protected already")
    await _change(image, rbd.set_protection_status(snap.id, Protection.PROTECTED))


async def unprotect(image: ImageCore, name: str) -> None:
    """Allow the removal of a snapshot again: first nobody can clone it any more, then we look for clones."""
    snap = find(image, name)
    if not snap.is_protected:
        raise InvalidArgument(f"{image.what}@{name}: the snapshot is not protected")
    await _change(image, rbd.set_protection_status(snap.id, Protection.UNPROTECTING))
    if await has_children(image, snap):
        await _change(image, rbd.set_protection_status(snap.id, Protection.PROTECTED))
        raise Busy(f"{image.what}@{name}: the snapshot has clones")
    await _change(image, rbd.set_protection_status(snap.id, Protection.UNPROTECTED))


def find(image: ImageCore, name: str) -> SnapInfo:
    """The user's snapshot of that name; NotFound."""
    snap = image.header.snap_by_name(name)
    if snap is None:
        raise NotFound(f"{image.what}@{name}: no such snapshot")
    return snap


async def _change(image: ImageCore, step: Call) -> None:
    async with image.header_lock:
        await image.change_header(step)
        await image.refresh_locked()
    await image.announce()
