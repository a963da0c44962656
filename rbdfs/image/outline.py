"""What stat(2) tells of an image that is not open, by one op on its header: a listing asks it of thousands of images.

Snapshots, parent and lock are left out, half of what a header costs to read. They are read, too, where an image is
striped or has more metadata than one answer holds.
"""

from rbdfs.cls import rbd
from rbdfs.cls.query import ask_all
from rbdfs.errors import NotFound
from rbdfs.image.features import Feature
from rbdfs.image.header import Header, check_order, read_header
from rbdfs.image.metadata import decode_pairs, list_metadata
from rbdfs.image.names import header_object
from rbdfs.image.striping import Striping
from rbdfs.rados.api import IoCtx

_MOST_PAIRS = 64


async def read_outline(ioctx: IoCtx, image_id: str) -> tuple[Header, dict[str, str]]:
    """A header that says nothing of snapshots, parent and lock, and the image's metadata; NotFound, Corrupt."""
    name = header_object(image_id)
    try:
        size, features, flags, prefix, data_pool, created, accessed, modified, pairs = await ask_all(
            ioctx,
            name,
            rbd.get_size(),
            rbd.get_features(read_only=True),
            rbd.get_flags(),
            rbd.get_object_prefix(),
            rbd.get_data_pool(),
            rbd.get_create_timestamp(),
            rbd.get_access_timestamp(),
            rbd.get_modify_timestamp(),
            rbd.list_metadata(max_return=_MOST_PAIRS),
        )
    except NotFound as err:
        raise NotFound(f"{name}: no such image") from err
    if features.features & Feature.STRIPINGV2 or len(pairs) == _MOST_PAIRS:
        return await read_header(ioctx, image_id), await list_metadata(ioctx, image_id)
    check_order(name, size.order)
    header = Header(
        image_id=image_id,
        object_prefix=prefix,
        striping=Striping.of(size.order),
        data_pool_id=data_pool if data_pool >= 0 else None,
        create_timestamp=created.ns,
        size=size.size,
        features=features.features,
        incompatible=features.incompatible,
        op_features=0,
        flags=flags,
        access_timestamp=accessed.ns,
        modify_timestamp=modified.ns,
    )
    return header, decode_pairs(pairs)
