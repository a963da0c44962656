"""Extended attributes of files: `user.*` is image metadata, `user.rbdfs.*` says, read-only, what an image is."""

import os

from rbdfs.errors import InvalidArgument, NoData, NotFound, NotSupported, PermissionDenied
from rbdfs.fuse.inodes import Inode, Kind
from rbdfs.fuse.open_images import ImageFile
from rbdfs.image.features import feature_names

_USER, _OURS = "user.", "rbdfs."
_INTERNAL = ".rbd"  # librbd keeps its own notes under such keys


async def names(inode: Inode, file: ImageFile) -> list[bytes]:
    """What listxattr(2) gives."""
    metadata = await file.image.metadata_list()
    keys = [key for key in metadata if not key.startswith((_INTERNAL, _OURS))]
    return [_to_bytes(_USER + key) for key in [*keys, *(_OURS + key for key in _describe(inode, file))]]


async def get(inode: Inode, file: ImageFile, name: bytes) -> bytes:
    """The value of one; NoData."""
    key = _key(name)
    described = _describe(inode, file).get(key.removeprefix(_OURS)) if key.startswith(_OURS) else None
    if described is not None:
        return _to_bytes(described)
    if key.startswith(_INTERNAL):
        raise NoData(f"{inode}: {key}")
    try:
        return _to_bytes(await file.image.metadata_get(key))
    except NotFound as err:
        raise NoData(f"{inode}: {key}") from err


async def set_value(inode: Inode, file: ImageFile, name: bytes, value: bytes) -> None:
    """Set one; an image with its metadata is writable, a snapshot's is not."""
    await file.image.metadata_set(_writable_key(inode, name), value.decode("utf-8", "surrogateescape"))


async def remove(inode: Inode, file: ImageFile, name: bytes) -> None:
    """Remove one; NoData."""
    key = _writable_key(inode, name)
    try:
        await file.image.metadata_remove(key)
    except NotFound as err:
        raise NoData(f"{inode}: {key}") from err


def _key(name: bytes) -> str:
    text = os.fsdecode(name)
    if not text.startswith(_USER):
        raise NotSupported(f"extended attribute {text}: only user.* is kept")
    key = text.removeprefix(_USER)
    if not key:
        raise InvalidArgument("extended attribute without a name")
    return key


def _writable_key(inode: Inode, name: bytes) -> str:
    key = _key(name)
    if key.startswith((_OURS, _INTERNAL)):
        raise PermissionDenied(f"{inode}: user.{key} is read-only")
    return key


def _describe(inode: Inode, file: ImageFile) -> dict[str, str]:
    image = file.image
    header = image.header
    parent = image.snap.parent if image.snap is not None else header.parent
    described = {
        "id": header.image_id,
        "features": ",".join(feature_names(header.features)),
        "order": str(header.order),
        "object-size": str(header.object_size),
        "stripe-unit": str(header.stripe_unit),
        "stripe-count": str(header.stripe_count),
        "data-prefix": header.object_prefix,
    }
    if parent is not None:
        described["parent"] = f"{parent.pool_id}/{parent.namespace}/{parent.image_id}@{parent.snap_id}"
        described["parent-overlap"] = str(parent.overlap)
    if inode.kind is Kind.SNAPSHOT and image.snap is not None:
        described["snap-id"] = str(image.snap.id)
        described["protected"] = "true" if image.snap.is_protected else "false"
    else:
        described["snapshots"] = ",".join(snap.name for snap in header.snaps)
    return described


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
