"""The object that leads from the name of an image to its id: `rbd_id.<name>`.

It may be another image's by the time that it is removed, so that is done only as long as it has the id.
"""

from contextlib import suppress

from rbdfs.cls import directory
from rbdfs.cls.query import change
from rbdfs.errors import Canceled, Exists, NotFound, RbdfsError
from rbdfs.image.lookup import named_id, where
from rbdfs.image.names import id_object
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Create, Remove, WriteOp


async def make_id_object(ioctx: IoCtx, name: str, image_id: str) -> None:
    """Let a name lead to an image; Exists where it leads to another one."""
    try:
        await change(ioctx, id_object(name), Create(exclusive=True), directory.set_id(image_id))
    except RbdfsError as err:
        # It may have been done: the answer was lost, or a rename to the same name was interrupted.
        if await named_id(ioctx, name) == image_id:
            return
        if isinstance(err, Exists):
            raise Exists(f"{where(ioctx, name)}: the image exists") from err
        raise


async def remove_id_object(ioctx: IoCtx, name: str, image_id: str) -> None:
    """Let a name lead to this image no more; nothing where it does not."""
    with suppress(NotFound, Canceled):
        await ioctx.operate(id_object(name), WriteOp([directory.assert_id(image_id), Remove()], full_try=True))
