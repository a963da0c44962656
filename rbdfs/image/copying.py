"""Copying a part of an image into another one, or to another place of the same.

Where both images are in one pool and namespace of a store that can share blocks, the objects of the target take the
source's by `CloneRange`; elsewhere the bytes go through us, and holes stay holes.
"""

from functools import partial

from rbdfs.errors import InvalidArgument
from rbdfs.image.allocation import data_extents
from rbdfs.image.core import ImageCore
from rbdfs.image.fanout import for_each
from rbdfs.image.striping import ObjectExtent
from rbdfs.rados.ops import CloneRange, WriteOp

_CHUNK = 4 << 20


async def clone_extent(image: ImageCore, source: ImageCore, source_offset: int, offset: int, length: int) -> None:
    """Let the image share the source's bytes; within the size of both, and the source was flushed of queued writes."""
    async with image.path.writing():
        extents = image.header.striping.object_extents(offset, length)
        await for_each(extents, partial(_clone_into_object, image, source, source_offset))


async def _clone_into_object(image: ImageCore, source: ImageCore, source_offset: int, extent: ObjectExtent) -> None:
    """One object of the target, from however many of the source."""
    steps: list[CloneRange] = []
    within = extent.offset
    for start, length in extent.parts:
        for piece in source.header.striping.object_extents(source_offset + start, length):
            position = piece.offset
            for part_start, part_length in piece.parts:
                steps.append(
                    CloneRange(
                        within + part_start,
                        source.path.object_name(piece.number),
                        position,
                        part_length,
                        source.path.snap_id,
                    )
                )
                position += part_length
        within += length
    if image.object_map is not None:
        await image.object_map.mark_exists(extent.number)
    await image.path.data.operate(image.path.object_name(extent.number), WriteOp(steps, image.path.snapc))


def can_share(image: ImageCore, source: ImageCore) -> bool:
    """Whether CloneRange works from one image to the other."""
    data, other = image.path.data, source.path.data
    return (
        data.cluster is other.cluster
        and data.cluster.properties.clone_range
        and data.pool_id == other.pool_id
        and data.namespace == other.namespace
    )


def check_overlap(image: ImageCore, source: ImageCore, source_offset: int, offset: int, length: int) -> None:
    """Refuse to copy bytes onto themselves."""
    same = image.image_id == source.image_id and source.snap is None and image.ioctx.pool_id == source.ioctx.pool_id
    if same and offset < source_offset + length and source_offset < offset + length:
        raise InvalidArgument(f"{image.what}: source and target overlap")


def chunks(offset: int, length: int) -> list[tuple[int, int]]:
    """An extent in pieces that can be held in memory."""
    return [(start, min(_CHUNK, offset + length - start)) for start in range(offset, offset + length, _CHUNK)]


async def pieces(source: ImageCore, offset: int, length: int) -> list[tuple[int, int, bool]]:
    """An extent of the source as (offset, length, whether it is data), in order."""
    result = []
    position = offset
    for start, size in await data_extents(source, offset, length):
        if start > position:
            result.append((position, start - position, False))
        result.append((start, size, True))
        position = start + size
    if position < offset + length:
        result.append((position, offset + length - position, False))
    return result
