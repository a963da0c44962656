"""Where an image holds data, and how much of the store it occupies."""

from functools import partial

from rbdfs.errors import NotFound, NotSupported
from rbdfs.image.core import ImageCore
from rbdfs.image.fanout import for_each
from rbdfs.image.listing import find_existing, map_states
from rbdfs.image.object_map import Run, existing_runs, numbers_of
from rbdfs.image.usage import bytes_of_runs
from rbdfs.rados.ops import MapExtents, ReadOp, Stat

Extent = tuple[int, int]  # offset, length

_MOST_SETS = 64  # object sets that are looked at together, when looking for the end of data


async def data_extents(image: ImageCore, offset: int, length: int) -> list[Extent]:
    """Where data is, in order, neighbours joined; as exact as the store tells."""
    end = min(offset + length, image.size)
    runs = await find_existing(image, *_objects_of(image, offset, end)) if offset < end else []
    return await _extents_within(image, runs, offset, end)


async def seek_data(image: ImageCore, offset: int) -> int | None:
    """Where data begins, at or after an offset; None where there is none."""
    runs = await find_existing(image, *_objects_of(image, offset, image.size)) if offset < image.size else []
    for start, end in _windows(image, runs, offset):
        found = await _extents_within(image, runs, max(start, offset), end)
        if found:
            return found[0][0]
    return None


async def seek_hole(image: ImageCore, offset: int) -> int:
    """Where a hole begins, at or after an offset; the end counts as one."""
    runs = await find_existing(image, *_objects_of(image, offset, image.size)) if offset < image.size else []
    position = offset
    for start, end in _windows(image, runs, offset):
        if start > position:
            return position
        found = await _extents_within(image, runs, position, end)
        if not found or found[0][0] > position:
            return position
        position = sum(found[0])
        if position < end:
            return position
    return min(position, image.size)


def _objects_of(image: ImageCore, offset: int, end: int) -> Run:
    """The objects, in whole sets, that hold an extent."""
    striping = image.header.striping
    first_set, end_set = offset // striping.set_size, -(-end // striping.set_size)
    return first_set * striping.stripe_count, end_set * striping.stripe_count


def _windows(image: ImageCore, runs: list[Run], offset: int) -> list[Extent]:
    """Parts of the image, as (start, end) from `offset` on, that existing objects hold: small ones first."""
    striping = image.header.striping
    windows: list[Extent] = []
    sets = 1
    position = offset // striping.set_size
    for first, last in runs:
        start, stop = max(first // striping.stripe_count, position), -(-last // striping.stripe_count)
        while start < stop:
            end = min(start + sets, stop)
            windows.append((max(start * striping.set_size, offset), min(end * striping.set_size, image.size)))
            start = end
            sets = min(2 * sets, _MOST_SETS)
        position = max(position, stop)
    return windows


async def _extents_within(image: ImageCore, runs: list[Run], offset: int, end: int) -> list[Extent]:
    first, last = _objects_of(image, offset, end)
    inside = [(max(start, first), min(stop, last)) for start, stop in runs if start < last and stop > first]
    found: list[Extent] = []
    await for_each(numbers_of(inside), partial(_extents_of_object, image, found))
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
