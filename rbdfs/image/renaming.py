"""Giving an image another name.

The id object of the new name comes first, then the directory changes both of its entries at once, then the id object of
the old name goes: an image always has a name that leads to it, and where two do, the directory says which one it has.
librbd does the same as owner of the exclusive lock; but nothing of the image changes, so no lock is needed.
"""

import logging
from contextlib import suppress

import trio

from rbdfs.cls import directory
from rbdfs.cls.query import change
from rbdfs.errors import Corrupt, Exists, NotFound, RbdfsError, ReadOnly
from rbdfs.image.features import forbids_writing
from rbdfs.image.header import read_header
from rbdfs.image.header_watch import announce_update
from rbdfs.image.id_objects import make_id_object, remove_id_object
from rbdfs.image.lookup import exists, listed_id, lookup, where
from rbdfs.image.names import header_object, old_header_object
from rbdfs.image.spec import check_image_name
from rbdfs.rados.api import IoCtx

log = logging.getLogger(__name__)

_FINISH_SECONDS = 10.0  # how long a rename that is done tidies up, cancelled or not


async def rename(ioctx: IoCtx, name: str, new_name: str) -> None:
    """Give an image another name: NotFound; Exists where that one is taken; ReadOnly, say of a mirror's copy."""
    check_image_name(new_name)
    image_id = await lookup(ioctx, name)
    await _check_writable(ioctx, name, image_id)
    if name == new_name or await exists(ioctx, old_header_object(new_name)):
        raise Exists(f"{where(ioctx, new_name)}: the image exists")
    await make_id_object(ioctx, new_name, image_id)
    try:
        await change(ioctx, directory.DIRECTORY, directory.rename_image(name, new_name, image_id))
    except RbdfsError:  # done or not: the directory knows, and where it does not answer, both names lead to the image
        if await listed_id(ioctx, new_name) != image_id:
            await remove_id_object(ioctx, new_name, image_id)
            raise
    except trio.Cancelled:
        with trio.CancelScope(shield=True), trio.move_on_after(_FINISH_SECONDS), suppress(RbdfsError):
            if await listed_id(ioctx, new_name) == image_id:
                await _finish(ioctx, name, new_name, image_id)
        raise
    await _finish(ioctx, name, new_name, image_id)


async def _finish(ioctx: IoCtx, name: str, new_name: str, image_id: str) -> None:
    """The image has its new name, whatever becomes of this."""
    failure: object = "the store does not answer"
    with trio.CancelScope(shield=True), trio.move_on_after(_FINISH_SECONDS):
        try:
            # Until the directory was changed, a removal of the new name took it for what an interrupted rename left.
            if await listed_id(ioctx, new_name) == image_id:
                await make_id_object(ioctx, new_name, image_id)
            await remove_id_object(ioctx, name, image_id)
            failure = None
        except RbdfsError as err:
            failure = err
        await announce_update(ioctx, header_object(image_id))
    if failure is not None:
        log.warning("%s is %s now, but may be found by its old name, too: %s", where(ioctx, name), new_name, failure)


async def _check_writable(ioctx: IoCtx, name: str, image_id: str) -> None:
    with suppress(NotFound, Corrupt):  # a damaged image may be renamed
        if refused := forbids_writing((await read_header(ioctx, image_id)).features):
            raise ReadOnly(f"{where(ioctx, name)}: feature {', '.join(refused)} is not supported for writing")
