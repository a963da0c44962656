"""Snapshots of an open image: here where we own the lock or can have it for nothing, else by the lock owner for us.

A snapshot is an entry in the header, an id that the pool gave, and a copy of the object map. It is made while no write
is in flight, so each write is either wholly in it or carries a snap context that preserves it. What is done stands in
`snap_steps.py`.
"""

from rbdfs.cls import notify
from rbdfs.errors import Busy
from rbdfs.image import snap_steps
from rbdfs.image.image import Image
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.image.rollback import roll_back
from rbdfs.image.spec import check_snap_name
from rbdfs.rados.ops import SnapId


async def create(image: Image, name: str) -> SnapId:
    """Record the image as it is now under a name; Exists."""
    check_snap_name(name)
    await image.requests.carry_out(
        lambda request: notify.SnapCreate(name, request=request), lambda _: snap_steps.create(image, name)
    )
    return snap_steps.find(image, name).id


async def remove(image: Image, name: str) -> None:
    """Remove a snapshot: NotFound, or Busy where it is protected."""
    await image.requests.carry_out(
        lambda request: notify.SnapRemove(name, request=request), lambda _: snap_steps.remove(image, name)
    )


async def rename(image: Image, name: str, new_name: str) -> None:
    """Give a snapshot another name: NotFound, or Exists."""
    check_snap_name(new_name)
    snap = snap_steps.find(image, name)
    await image.requests.carry_out(
        lambda request: notify.SnapRename(snap.id, new_name, request=request),
        lambda _: snap_steps.rename(image, name, new_name),
    )


async def protect(image: Image, name: str) -> None:
    """Forbid its removal; Busy where it is protected already."""
    await image.requests.carry_out(
        lambda request: notify.SnapProtect(name, request=request), lambda _: snap_steps.protect(image, name)
    )


async def unprotect(image: Image, name: str) -> None:
    """Allow its removal again; Busy where clones need it, InvalidArgument where it is not protected."""
    await image.requests.carry_out(
        lambda request: notify.SnapUnprotect(name, request=request), lambda _: snap_steps.unprotect(image, name)
    )


async def rollback(image: Image, name: str, *, on_progress: OnProgress = quiet) -> None:
    """Make the image what it was at the snapshot; the lock is taken over from whoever has it."""
    while True:
        if image.lock is not None:
            await image.lock.acquire()
        async with image.maintenance:
            if image.lock is None or image.lock.is_owner:
                await image.prepare_writes()
                image.timestamps.note_modify()
                await roll_back(image, snap_steps.find(image, name), on_progress)
                return


async def purge(image: Image, *, on_progress: OnProgress = quiet) -> None:
    """Remove all snapshots; Busy, and none is removed, where one is protected."""
    names = [snap.name for snap in image.header.snaps]
    protected = [snap.name for snap in image.header.snaps if snap.is_protected]
    if protected:
        raise Busy(f"{image.what}: snapshot {protected[0]} is protected")
    for done, name in enumerate(names):
        await remove(image, name)
        on_progress(done + 1, len(names))
