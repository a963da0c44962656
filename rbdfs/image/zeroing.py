"""Making parts of an image zero, and freeing what held them.

| the part of an object       | is done by                                   |
|-----------------------------|----------------------------------------------|
| all of it                   | removing it, with the object map in step      |
| from somewhere to its end   | truncating it                                 |
| any other                   | the step Zero, exact to the byte              |

Objects that do not exist are left alone, so zeroing 16 TiB of nothing costs a look at the object map. The last object
of an image is removed also where the image uses only its beginning; the image must not grow meanwhile.
"""

from contextlib import AsyncExitStack
from functools import partial

from rbdfs.errors import InvalidArgument
from rbdfs.image.core import ImageCore
from rbdfs.image.freeing import clear_part, remove_objects
from rbdfs.image.striping import MAX_SIZE, ObjectExtent
from rbdfs.image.tasks import for_each

_DISCARD_GRANULARITY = 64 << 10  # librbd: rbd_discard_granularity_bytes


async def write_zeroes(image: ImageCore, offset: int, length: int) -> None:
    """Zero exactly these bytes, clipped at the size, and free what can be freed."""
    if offset < 0 or length < 0:
        raise InvalidArgument(f"{image.what}: {length} bytes at {offset}")
    async with AsyncExitStack() as stack:
        to_the_end = offset + length >= image.size
        if to_the_end:  # the size stays as it is
            await stack.enter_async_context(image.maintenance)
        await stack.enter_async_context(image.path.writing())
        end = min(offset + length, image.size)
        if offset < end:
            await _zero(image, offset, end, image.size if to_the_end else MAX_SIZE)


async def discard(image: ImageCore, offset: int, length: int) -> None:
    """Free whole units within these bytes; they read as zeroes then, the rest keeps what it has."""
    start = -(-offset // _DISCARD_GRANULARITY) * _DISCARD_GRANULARITY
    end = offset + length
    if end < image.size:
        end -= end % _DISCARD_GRANULARITY
    if start < end:
        await write_zeroes(image, start, end - start)


async def _zero(image: ImageCore, offset: int, end: int, size: int) -> None:
    """Zero from `offset` up to `end`; nothing is, or will be, written behind `size`."""
    striping = image.header.striping
    set_size, set_count = striping.set_size, striping.stripe_count
    first_set, end_set = -(-offset // set_size), end // set_size
    if first_set >= end_set:  # no object set as a whole
        await _zero_pieces(image, offset, end, size)
        return
    await _zero_pieces(image, offset, first_set * set_size, size)
    await remove_objects(image, first_set * set_count, end_set * set_count)
    await _zero_pieces(image, end_set * set_size, end, size)


async def _zero_pieces(image: ImageCore, offset: int, end: int, size: int) -> None:
    """Zero an extent of less than two object sets, each object for itself."""
    if offset >= end:
        return
    extents = image.header.striping.object_extents(offset, end - offset)
    await for_each(extents, partial(_zero_object, image, size))


async def _zero_object(image: ImageCore, size: int, extent: ObjectExtent) -> None:
    number, within, length, _ = extent
    if not within and length >= image.header.striping.used_size(number, size):
        await remove_objects(image, number, number + 1)
    else:
        await clear_part(image, number, within, length)
