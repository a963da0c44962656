"""Removing an image: its data first, then map and header, its name last: what is interrupted can be done again."""

from contextlib import suppress

import trio

from rbdfs.cls import directory
from rbdfs.cls.notify import RequestLock
from rbdfs.cls.query import change
from rbdfs.cls.rbd_types import OpFeature
from rbdfs.errors import Busy, Gone, NotEmpty, NotFound, ReadOnly, StaleSnapId
from rbdfs.image.id_objects import remove_id_object
from rbdfs.image.image import Image, open_image
from rbdfs.image.lookup import exists
from rbdfs.image.names import header_object, object_map_object
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.image.resizing import trim
from rbdfs.rados import calls
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Watcher

_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS = 0.01, 0.2  # after we asked
_CLOSING_SECONDS = 2.0  # how long another client may take to close an image that it does not need


async def remove_image(ioctx: IoCtx, name: str, image_id: str, on_progress: OnProgress = quiet) -> None:
    """Remove an image: NotEmpty where it has snapshots, Busy where another client has it open."""
    try:
        async with open_image(ioctx, name, image_id=image_id) as image:
            await _empty(image, on_progress)
    except (NotFound, Gone):
        if await exists(ioctx, header_object(image_id)):
            raise
    await calls.remove(ioctx, object_map_object(image_id), missing_ok=True)
    await calls.remove(ioctx, header_object(image_id), missing_ok=True)
    await remove_id_object(ioctx, name, image_id)
    with suppress(NotFound, StaleSnapId):  # not there, or the name is another image's by now
        await change(ioctx, directory.DIRECTORY, directory.remove_image(name, image_id))


async def _empty(image: Image, on_progress: OnProgress) -> None:
    if image.header.all_snaps:
        raise NotEmpty(f"{image.what}: the image has snapshots")
    if image.header.op_features & OpFeature.GROUP:
        raise Busy(f"{image.what}: the image belongs to a group (`rbd group image rm` takes it out)")
    if image.is_read_only:
        raise ReadOnly(f"{image.what}: {image.why_read_only()}")
    await _be_alone(image)
    if image.lock is not None:
        await image.lock.acquire()  # nobody but this client watches, so nobody else can be keeping it
    async with image.maintenance:
        await image.prepare_writes()
        if image.header.all_snaps:
            raise NotEmpty(f"{image.what}: the image has snapshots")
        async with image.path.paused():
            await trim(image, 0, on_progress)


async def _be_alone(image: Image) -> None:
    """Ask whoever has the image open, and may not need it, to close it; Busy where somebody keeps it open.

    A mount may still be closing an image. It has no need of it once another client asks for the exclusive lock: so
    that is what we ask for, of an image without one, too.
    """
    delay = _FIRST_LOOK_SECONDS
    deadline = trio.current_time() + _CLOSING_SECONDS
    while others := await _other_watchers(image):
        if delay == _FIRST_LOOK_SECONDS:
            image.watcher.tell_soon(RequestLock(await image.watcher.client_id()))
        elif trio.current_time() >= deadline:
            raise Busy(f"{image.what}: open by {others[0].entity} at {others[0].address}")
        await trio.sleep(delay)
        delay = min(2 * delay, _LAST_LOOK_SECONDS)


async def _other_watchers(image: Image) -> list[Watcher]:
    ours = f"client.{image.ioctx.cluster.instance_id}"
    return [watcher for watcher in await calls.list_watchers(image.ioctx, image.header_name) if watcher.entity != ours]
