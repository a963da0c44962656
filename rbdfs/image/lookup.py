"""From the name of an image to its id."""

from contextlib import suppress

from rbdfs.cls import directory
from rbdfs.cls.query import ask
from rbdfs.errors import NotFound, NotSupported
from rbdfs.image.names import id_object, old_header_object
from rbdfs.rados import calls
from rbdfs.rados.api import IoCtx


async def lookup(ioctx: IoCtx, name: str) -> str:
    """The id of an image; NotFound."""
    for find in (named_id, listed_id):  # half removed: the id object goes before the entry
        image_id = await find(ioctx, name)
        if image_id is not None:
            return image_id
    if await exists(ioctx, old_header_object(name)):
        raise NotSupported(f"{where(ioctx, name)}: images of format 1 are not supported")
    raise NotFound(f"{where(ioctx, name)}: no such image")


async def named_id(ioctx: IoCtx, name: str) -> str | None:
    """The id that a name's id object has; None where it has none."""
    with suppress(NotFound):
        return await ask(ioctx, id_object(name), directory.get_id())
    return None


async def listed_id(ioctx: IoCtx, name: str) -> str | None:
    """The id that the directory has for a name; None where it is not listed."""
    with suppress(NotFound):
        return await ask(ioctx, directory.DIRECTORY, directory.get_image_id(name))
    return None


async def name_of(ioctx: IoCtx, image_id: str) -> str:
    """The name of an image; NotFound where it has none, as in the trash."""
    return await ask(ioctx, directory.DIRECTORY, directory.get_image_name(image_id))


def where(ioctx: IoCtx, name: str) -> str:
    """An image, for messages."""
    return "/".join(part for part in (ioctx.pool_name, ioctx.namespace, name) if part)


async def exists(ioctx: IoCtx, name: str) -> bool:
    """Whether there is an object of that name."""
    try:
        await calls.stat(ioctx, name)
    except NotFound:
        return False
    return True
