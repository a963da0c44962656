"""The key-value pairs that users attach to an image (`rbd image-meta`)."""

from rbdfs.cls import rbd
from rbdfs.cls.query import ask
from rbdfs.errors import NotFound
from rbdfs.image.changes import ImageChange
from rbdfs.image.core import ImageCore
from rbdfs.image.names import header_object
from rbdfs.rados.api import IoCtx

_PAGE = 64


async def list_metadata(ioctx: IoCtx, image_id: str) -> dict[str, str]:
    """All pairs of an image that need not be open, by key; NotFound."""
    name = header_object(image_id)
    result: dict[str, str] = {}
    while True:
        page = await ask(ioctx, name, rbd.list_metadata(next(reversed(result), ""), _PAGE))
        result |= {key: str(value, "utf-8", "surrogateescape") for key, value in page.items()}
        if len(page) < _PAGE:
            return result


async def list_pairs(image: ImageCore) -> dict[str, str]:
    """All pairs of an open image."""
    return await list_metadata(image.ioctx, image.image_id)


async def get(image: ImageCore, key: str) -> str:
    """One value; NotFound."""
    try:
        value = await ask(image.ioctx, image.header_name, rbd.get_metadata(key))
    except NotFound as err:
        raise NotFound(f"{image.what}: no metadata {key!r}") from err
    return str(value, "utf-8", "surrogateescape")


async def update(image: ImageCore, key: str, value: str | None) -> None:
    """Attach a pair, or (None) remove it; the caller is, or speaks for, who may change the header."""
    if value is None:
        await image.change_header(rbd.remove_metadata(key))
    else:
        await image.change_header(rbd.set_metadata({key: value.encode("utf-8", "surrogateescape")}))
    image.changed(ImageChange.METADATA)
    await image.announce()
