"""The key-value pairs that users attach to an image (`rbd image-meta`), read without opening it."""

from rbdfs.cls import rbd
from rbdfs.cls.query import ask
from rbdfs.image.names import header_object
from rbdfs.rados.api import IoCtx

_PAGE = 64  # RBD_MAX_METADATA_RESULTS


async def list_metadata(ioctx: IoCtx, image_id: str) -> dict[str, str]:
    """All pairs, by key; NotFound where there is no such image."""
    name = header_object(image_id)
    pairs: dict[str, str] = {}
    last = ""
    while True:
        page = await ask(ioctx, name, rbd.list_metadata(last, _PAGE))
        pairs |= {key: value.decode("utf-8", "surrogateescape") for key, value in page.items()}
        if len(page) < _PAGE:
            return pairs
        last = max(page)
