"""Copying a part of an image into another one, or to another place of the same.

Where both images are in one pool and namespace of a store that can share blocks, the objects of the target take the
source's by `CloneRange`; elsewhere the bytes go through us, and holes stay holes.
"""

from functools import partial

from rbdfs.errors import InvalidArgument, RbdfsError
from rbdfs.image.allocation import data_extents
from rbdfs.image.core import ImageCore
from rbdfs.image.striping import ObjectExtent
from rbdfs.image.tasks import Completion, for_each
from rbdfs.image.zeroing import write_zeroes
from rbdfs.rados.ops import Buffer, CloneRange, WriteOp

_CHUNK = 4 << 20
_AT_ONCE = 8  # chunks in memory

Piece = tuple[int, int]  # offset in the source, length


async def copy(image: ImageCore, source: ImageCore, source_offset: int, offset: int, length: int) -> None:
    """Copy within the size of both images, of which the target's lock is ours as far as we know."""
    await source.path.settle()
    shift = offset - source_offset
    work = _share if can_share(image, source) else _carry
    extents = await data_extents(source, source_offset, length)
    for start, size in _holes(extents, source_offset, length):
        await write_zeroes(image, start + shift, size)
    await for_each(_cut(extents, shift), partial(work, image, source, shift), at_once=_AT_ONCE)


async def _carry(image: ImageCore, source: ImageCore, shift: int, piece: Piece) -> None:
    """Read the bytes and write them."""
    start, length = piece
    read: Completion[list[Buffer] | RbdfsError] = Completion()
    source.path.submit_read(start, length, read)
    buffers = await read.wait()
    if isinstance(buffers, RbdfsError):
        raise buffers
    written: Completion[RbdfsError | None] = Completion()
    image.path.submit_write(start + shift, b"".join(buffers), written)
    error = await written.wait()
    if error is not None:
        raise error


async def _share(image: ImageCore, source: ImageCore, shift: int, piece: Piece) -> None:
    """Let the objects of the target take the bytes of the source's."""
    start, length = piece
    async with image.path.writing():
        for extent in image.header.striping.object_extents(start + shift, length):
            await _clone_into_object(image, source, start, extent)


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
    await image.path.operate(extent.number, WriteOp(steps, image.path.snapc))


def can_share(image: ImageCore, source: ImageCore) -> bool:
    """Whether the store can let one image hold what the other one holds, without copying it."""
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


def _cut(extents: list[Piece], shift: int) -> list[Piece]:
    """Extents of the source in pieces that can be held in memory, cut where chunks of the target begin."""
    pieces = []
    for offset, length in extents:
        end = offset + length
        while offset < end:
            stop = min(end, ((offset + shift) // _CHUNK + 1) * _CHUNK - shift)
            pieces.append((offset, stop - offset))
            offset = stop
    return pieces


def _holes(extents: list[Piece], offset: int, length: int) -> list[Piece]:
    """What the data extents leave out."""
    holes = []
    position = offset
    for start, size in extents:
        if start > position:
            holes.append((position, start - position))
        position = start + size
    if position < offset + length:
        holes.append((position, offset + length - position))
    return holes
