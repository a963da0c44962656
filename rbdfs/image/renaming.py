"""Giving an image another name.

The id object of the new name comes first, then the directory changes both of its entries at once, then the id object of
the old name goes: an image always has a name that leads to it. librbd does the same as owner of the exclusive lock; but
nothing of the image changes, so no lock is needed.
"""

from contextlib import suppress

from rbdfs.cls import directory
from rbdfs.cls.query import ask, change
from rbdfs.errors import Corrupt, Exists, NotFound, RbdfsError, ReadOnly
from rbdfs.image.features import forbids_writing
from rbdfs.image.header import read_header
from rbdfs.image.header_watch import announce_update
from rbdfs.image.id_objects import remove_id_object
from rbdfs.image.lookup import exists, lookup, name_of, where
from rbdfs.image.names import header_object, id_object, old_header_object
from rbdfs.image.spec import check_image_name
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Create


async def rename(ioctx: IoCtx, name: str, new_name: str) -> None:
    """Give an image another name: NotFound; Exists where that one is taken; ReadOnly, say of a mirror's copy."""
    check_image_name(new_name)
    image_id = await lookup(ioctx, name)
    await _check_writable(ioctx, name, image_id)
    if await exists(ioctx, old_header_object(new_name)):
        raise Exists(f"{where(ioctx, new_name)}: the image exists")
    try:
        await change(ioctx, id_object(new_name), Create(exclusive=True), directory.set_id(image_id))
    except Exists as err:
        # Left by a rename to the same name that was interrupted: the directory knows.
        if name == new_name or await ask(ioctx, id_object(new_name), directory.get_id()) != image_id:
            raise Exists(f"{where(ioctx, new_name)}: the image exists") from err
    try:
        await change(ioctx, directory.DIRECTORY, directory.rename_image(name, new_name, image_id))
    except RbdfsError:  # done or not: the directory knows, and where it does not answer, both names lead to the image
        if await name_of(ioctx, image_id) != new_name:
            await remove_id_object(ioctx, new_name, image_id)
            raise
    await remove_id_object(ioctx, name, image_id)
    await announce_update(ioctx, header_object(image_id))


async def _check_writable(ioctx: IoCtx, name: str, image_id: str) -> None:
    with suppress(NotFound, Corrupt):  # a damaged image may be renamed
        if refused := forbids_writing((await read_header(ioctx, image_id)).features):
            raise ReadOnly(f"{where(ioctx, name)}: feature {', '.join(refused)} is not supported for writing")
