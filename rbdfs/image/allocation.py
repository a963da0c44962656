"""Where an image holds data, and how much of the store it occupies."""

from collections.abc import Iterator
from functools import partial

from rbdfs.errors import NotFound, NotSupported
from rbdfs.image.core import ImageCore
from rbdfs.image.listing import FEW, Existing, find_existing, look_for_existing, map_states
from rbdfs.image.object_map import Run, existing_runs, numbers_of
from rbdfs.image.tasks import for_each
from rbdfs.image.usage import bytes_of_runs
from rbdfs.rados.ops import MapExtents, ReadOp, Stat

Extent = tuple[int, int]  # offset, length

_MOST_SETS = 64  # object sets that are looked at together, when looking for the end of data
_MOST_OBJECTS = 64 << 10  # places on the object map that are looked through together


async def data_extents(image: ImageCore, offset: int, length: int) -> list[Extent]:
    """Where data is, in order, neighbours joined; as exact as the store tells."""
    end = min(offset + length, image.size)
    if offset >= end:
        return []
    existing = await look_for_existing(image, *_objects_of(image, offset, end))
    return await _extents_within(image, existing, offset, end)


async def seek_data(image: ImageCore, offset: int) -> int | None:
    """Where data begins, at or after an offset; None where there is none."""
    if offset >= image.size:
        return None
    for objects in _near_first(image, offset):
        existing = await look_for_existing(image, *objects)
        for start, end in _windows(image, existing, offset):
            found = await _extents_within(image, existing, start, end)
            if found:
                return found[0][0]
    return None


async def seek_hole(image: ImageCore, offset: int) -> int:
    """Where a hole begins, at or after an offset; the end counts as one."""
    if offset >= image.size:
        return image.size
    position = offset
    for objects in _near_first(image, offset):
        existing = await look_for_existing(image, *objects)
        for start, end in _windows(image, existing, offset):
            if start > position:
                return position
            found = await _extents_within(image, existing, position, end)
            if not found or found[0][0] > position:
                return position
            position = sum(found[0])
            if position < end:
                return position
    return min(position, image.size)


def _near_first(image: ImageCore, offset: int) -> list[Run]:
    """The objects from `offset` on: some first, which are usually enough, then all others."""
    first, last = _objects_of(image, offset, image.size)
    count = image.header.striping.stripe_count
    near = first + -(-FEW // count) * count
    return [(first, near), (near, last)] if near < last else [(first, last)]


def _objects_of(image: ImageCore, offset: int, end: int) -> Run:
    """The objects, in whole sets, that hold an extent."""
    striping = image.header.striping
    first_set, end_set = offset // striping.set_size, -(-end // striping.set_size)
    return first_set * striping.stripe_count, end_set * striping.stripe_count


def _windows(image: ImageCore, existing: Existing, offset: int) -> Iterator[tuple[int, int]]:
    """Parts of the image, as (start, end) from `offset` on, that existing objects hold: small ones first."""
    striping = image.header.striping
    size, count = striping.set_size, striping.stripe_count
    sets, position = 1, offset // size  # how many object sets next, and which one
    for objects in range(existing.start, existing.end, _MOST_OBJECTS * count):
        for first, last in existing.between(objects, objects + _MOST_OBJECTS * count):
            start, stop = max(first // count, position), -(-last // count)
            while start < stop:
                end = min(start + sets, stop)
                yield max(start * size, offset), min(end * size, image.size)
                start, sets = end, min(2 * sets, _MOST_SETS)
            position = max(position, stop)


async def _extents_within(image: ImageCore, existing: Existing, offset: int, end: int) -> list[Extent]:
    found: list[Extent] = []
    runs = existing.between(*_objects_of(image, offset, end))
    await for_each(numbers_of(runs), partial(_extents_of_object, image, found))
    return _joined(found, offset, end)


async def _extents_of_object(image: ImageCore, found: list[Extent], number: int) -> None:
    try:
        try:
            op = ReadOp([MapExtents(0, image.object_size)], image.path.snap_id)
            extents: list[Extent] = (await image.path.operate(number, op)).outputs[0]
        except NotSupported:
            extents = [(0, await _stored_size(image, number))]
    except NotFound:
        return
    for offset, length in extents:
        found += image.header.striping.image_extents(number, offset, length)


async def _stored_size(image: ImageCore, number: int) -> int:
    size: int = (await image.path.operate(number, ReadOp([Stat()], image.path.snap_id))).outputs[0].size
    return size


def _joined(extents: list[Extent], offset: int, end: int) -> list[Extent]:
    """In order, clipped to what lies between `offset` and `end`, neighbours joined."""
    result: list[Extent] = []
    for start, length in sorted(extents):
        first, last = max(start, offset), min(start + length, end)
        if first >= last:
            continue
        if result and sum(result[-1]) >= first:
            result[-1] = (result[-1][0], max(sum(result[-1]), last) - result[-1][0])
        else:
            result.append((first, last - first))
    return result


async def allocated_bytes(image: ImageCore) -> int:
    """Bytes that the image, or the snapshot, occupies: by the store's count, else in whole objects."""
    if image.snap is None:
        counted = await image.path.data.allocated_bytes(f"{image.header.object_prefix}.")
        if counted is not None:
            return counted
    return await used_bytes(image)


async def used_bytes(image: ImageCore) -> int:
    """Bytes of the objects that exist, each counted whole."""
    states = await map_states(image)
    if states is not None:
        runs = existing_runs(states, 0, image.header.striping.object_count(image.size))
        return bytes_of_runs(image.header.striping, image.size, runs)
    numbers: list[int] = []

    async def look(number: int) -> None:
        try:
            await _stored_size(image, number)
        except NotFound:
            return
        numbers.append(number)

    await for_each(numbers_of(await find_existing(image)), look)
    return bytes_of_runs(image.header.striping, image.size, [(number, number + 1) for number in numbers])
