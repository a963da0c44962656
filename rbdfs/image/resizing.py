"""Changing the size of an image, and removing the data beyond it.

Growing: the map first, then the size, so that an object that may be written is always on the map. Shrinking: the data
first, then the size, then the map (librbd: ResizeRequest, TrimRequest). Callers hold `image.maintenance`.
"""

from contextlib import suppress
from functools import partial

from rbdfs.cls import rbd
from rbdfs.cls.rbd_types import MAX_OBJECT_MAP_COUNT
from rbdfs.errors import InvalidArgument, NotFound, TooLarge
from rbdfs.image.changes import ImageChange
from rbdfs.image.core import ImageCore
from rbdfs.image.fanout import for_each
from rbdfs.image.listing import find_existing
from rbdfs.image.object_map import EXISTS, Run, numbers_of
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.image.striping import MAX_SIZE
from rbdfs.rados.ops import AssertExists, Remove, Truncate, WriteOp


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
        image.header.size = image.path.size = size
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
    if size == image.header.object_size:
        return
    if not size:
        await remove_objects(image, number, number + 1)
        return
    object_map = image.object_map
    if object_map is not None and object_map.states is not None:
        if not object_map.states[number]:
            return
        if object_map.states[number] != EXISTS:
            await object_map.mark_exists(number)
    with suppress(NotFound):
        op = WriteOp([AssertExists(), Truncate(size)], image.path.snapc, full_try=True)
        await image.path.operate(number, op)


async def remove_objects(image: ImageCore, start: int, end: int, on_progress: OnProgress = quiet) -> None:
    """Remove the data objects from `start` up to `end`, with the object map in step: PENDING before, gone after."""
    object_map = image.object_map
    if object_map is None or object_map.states is None:
        await _remove(image, await find_existing(image, start, end), on_progress)
        return
    runs = await object_map.begin_removal(start, end)
    removed = False
    try:
        await _remove(image, runs, on_progress)
        removed = True
    finally:
        await object_map.end_removal(start, end, removed=removed)


async def _remove(image: ImageCore, runs: list[Run], on_progress: OnProgress) -> None:
    total = sum(end - start for start, end in runs)
    if total:
        await for_each(numbers_of(runs), partial(_remove_object, image), on_done=lambda done: on_progress(done, total))


async def _remove_object(image: ImageCore, number: int) -> None:
    with suppress(NotFound):
        op = WriteOp([Remove()], image.path.snapc, full_try=True)
        await image.path.operate(number, op)
