"""The object that leads from the name of an image to its id: `rbd_id.<name>`.

It may be another image's by the time that it is removed, so that is done only as long as it has the id.
"""

from contextlib import suppress

from rbdfs.cls import directory
from rbdfs.errors import Canceled, NotFound
from rbdfs.image.names import id_object
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Remove, WriteOp


async def remove_id_object(ioctx: IoCtx, name: str, image_id: str) -> None:
    """Let a name lead to this image no more; nothing where it does not."""
    with suppress(NotFound, Canceled):
        await ioctx.operate(id_object(name), WriteOp([directory.assert_id(image_id), Remove()], full_try=True))
