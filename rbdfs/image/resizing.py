"""Changing the size of an image; what was beyond a smaller one is removed.

Growing: the map first, then the size, so that an object that may be written is always on the map. Shrinking: the data
first, then the size, then the map (librbd: ResizeRequest, TrimRequest). Callers hold `image.maintenance`.
"""

from rbdfs.cls import rbd
from rbdfs.cls.rbd_types import MAX_OBJECT_MAP_COUNT
from rbdfs.errors import InvalidArgument, TooLarge
from rbdfs.image.changes import ImageChange
from rbdfs.image.core import ImageCore
from rbdfs.image.freeing import clear_part, remove_objects
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.image.striping import MAX_SIZE


async def resize(image: ImageCore, size: int, *, allow_shrink: bool = True, on_progress: OnProgress = quiet) -> None:
    """Change the size, to the byte."""
    if size < 0:
        raise InvalidArgument(f"{image.what}: size {size}")
    if size > image.size:
        await grow(image, size)
    elif size < image.size:
        if not allow_shrink:
            raise InvalidArgument(f"{image.what}: shrinking needs to be allowed")
        async with image.path.paused():
            await shrink(image, size, on_progress)
    image.path.keep(size)
    await image.announce()


async def grow(image: ImageCore, size: int) -> None:
    """Make the image larger; writes within its old size go on meanwhile."""
    count = image.header.striping.object_count(size)
    if size > MAX_SIZE:
        raise TooLarge(f"{image.what}: {size} bytes")
    if image.object_map is not None:
        if count > MAX_OBJECT_MAP_COUNT:
            raise TooLarge(f"{image.what}: {count} objects are more than an object map can hold")
        if count > image.header.striping.object_count(image.size):
            await image.object_map.resize(count)
    await _set_size(image, size)


async def shrink(image: ImageCore, size: int, on_progress: OnProgress = quiet) -> None:
    """Make the image smaller; writes are paused."""
    await trim(image, size, on_progress)
    await _set_size(image, size)
    if image.object_map is not None:
        await image.object_map.resize(image.header.striping.object_count(size))


async def _set_size(image: ImageCore, size: int) -> None:
    async with image.header_lock:
        await image.change_header(rbd.set_size(size))
        image.header.size = size
        image.path.set_size(size)
    image.changed(ImageChange.SIZE)


async def trim(image: ImageCore, size: int, on_progress: OnProgress = quiet) -> None:
    """Remove the data beyond `size`; writes are paused, and the header still says the old size."""
    striping = image.header.striping
    old_count = striping.object_count(image.size)
    first_set = -(-size // striping.set_size) * striping.stripe_count  # objects from here on go as a whole
    await remove_objects(image, min(first_set, old_count), old_count, on_progress)
    for number in range(first_set - striping.stripe_count, min(first_set, old_count)) if size else ():
        await _cut(image, number, striping.used_size(number, size))


async def _cut(image: ImageCore, number: int, size: int) -> None:
    """Cut an object of the set that the new end goes through."""
    if not size:
        await remove_objects(image, number, number + 1)
    elif size < image.object_size:
        await clear_part(image, number, size, image.object_size - size)
