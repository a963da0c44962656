"""Removing an image: its data first, then map and header, its name last: what is interrupted can be done again."""

from contextlib import suppress

from rbdfs.cls import directory
from rbdfs.cls.query import change
from rbdfs.cls.rbd_types import OpFeature
from rbdfs.errors import Busy, Gone, NotEmpty, NotFound, ReadOnly, StaleSnapId
from rbdfs.image.image import Image, open_image
from rbdfs.image.names import header_object, id_object, object_map_object
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.image.resizing import trim
from rbdfs.rados import calls
from rbdfs.rados.api import IoCtx


async def remove_image(ioctx: IoCtx, name: str, image_id: str, on_progress: OnProgress = quiet) -> None:
    """Remove an image: NotEmpty where it has snapshots, Busy where another client has it open."""
    try:
        async with open_image(ioctx, name, image_id=image_id) as image:
            await _empty(image, on_progress)
    except (NotFound, Gone):
        if await _has_header(ioctx, image_id):
            raise
    await calls.remove(ioctx, object_map_object(image_id), missing_ok=True)
    await calls.remove(ioctx, header_object(image_id), missing_ok=True)
    await calls.remove(ioctx, id_object(name), missing_ok=True)
    with suppress(NotFound, StaleSnapId):  # not there, or the name is another image's by now
        await change(ioctx, directory.DIRECTORY, directory.remove_image(name, image_id))


async def _empty(image: Image, on_progress: OnProgress) -> None:
    if image.header.all_snaps:
        raise NotEmpty(f"{image.what}: the image has snapshots")
    if image.header.op_features & OpFeature.GROUP:
        raise Busy(f"{image.what}: the image belongs to a group (`rbd group image rm` takes it out)")
    if image.is_read_only:
        raise ReadOnly(f"{image.what}: {image.why_read_only()}")
    for watcher in await calls.list_watchers(image.ioctx, image.header_name):
        if watcher.entity != f"client.{image.ioctx.cluster.instance_id}":
            raise Busy(f"{image.what}: open by {watcher.entity} at {watcher.address}")
    if image.lock is not None:
        await image.lock.acquire()  # nobody but this client watches, so nobody else can be keeping it
    async with image.maintenance:
        await image.prepare_writes()
        if image.header.all_snaps:
            raise NotEmpty(f"{image.what}: the image has snapshots")
        async with image.path.paused():
            await trim(image, 0, on_progress)


async def _has_header(ioctx: IoCtx, image_id: str) -> bool:
    try:
        await calls.stat(ioctx, header_object(image_id))
    except NotFound:
        return False
    return True
