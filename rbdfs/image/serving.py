"""What we do, as the owner of the exclusive lock, when another client asks for it."""

from collections.abc import Awaitable, Callable
from typing import Any

from rbdfs.cls import notify
from rbdfs.cls.rbd_types import SnapKind
from rbdfs.errors import NotFound, NotSupported
from rbdfs.image import metadata, resizing, snap_steps
from rbdfs.image.core import ImageCore
from rbdfs.image.lookup import name_of
from rbdfs.image.progress import OnProgress
from rbdfs.image.renaming import rename

Serve = Callable[[ImageCore, Any, OnProgress], Awaitable[None]]


async def _resize(image: ImageCore, message: notify.Resize, on_progress: OnProgress) -> None:
    await resizing.resize(image, message.size, allow_shrink=message.allow_shrink, on_progress=on_progress)


async def _snap_create(image: ImageCore, message: notify.SnapCreate, _: OnProgress) -> None:
    _check_kind(message)
    await snap_steps.create(image, message.snap_name)


async def _snap_remove(image: ImageCore, message: notify.SnapRemove, _: OnProgress) -> None:
    _check_kind(message)
    await snap_steps.remove(image, message.snap_name)


async def _snap_rename(image: ImageCore, message: notify.SnapRename, _: OnProgress) -> None:
    for snap in image.header.snaps:
        if snap.id == message.snap_id:
            await snap_steps.rename(image, snap.name, message.new_name)
            return
    raise NotFound(f"{image.what}: no snapshot {message.snap_id}")


async def _snap_protect(image: ImageCore, message: notify.SnapProtect, _: OnProgress) -> None:
    _check_kind(message)
    await snap_steps.protect(image, message.snap_name)


async def _snap_unprotect(image: ImageCore, message: notify.SnapUnprotect, _: OnProgress) -> None:
    _check_kind(message)
    await snap_steps.unprotect(image, message.snap_name)


async def _rename(image: ImageCore, message: notify.Rename, _: OnProgress) -> None:
    name = await name_of(image.ioctx, image.image_id)
    await rename(image.ioctx, name, message.image_name)


async def _metadata_update(image: ImageCore, message: notify.MetadataUpdate, _: OnProgress) -> None:
    await metadata.update(image, message.key, message.value)


def _check_kind(message: notify.SnapCreate | notify.SnapRemove | notify.SnapProtect | notify.SnapUnprotect) -> None:
    if message.namespace.kind != SnapKind.USER:
        raise NotSupported(f"snapshots of kind {message.namespace.kind} are not supported")


SERVANTS: dict[type[notify.Message], Serve] = {
    notify.Resize: _resize,
    notify.SnapCreate: _snap_create,
    notify.SnapRemove: _snap_remove,
    notify.SnapRename: _snap_rename,
    notify.SnapProtect: _snap_protect,
    notify.SnapUnprotect: _snap_unprotect,
    notify.Rename: _rename,
    notify.MetadataUpdate: _metadata_update,
}
