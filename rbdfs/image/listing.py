"""Which data objects exist: from the object map where there is one to trust, else from the pool's listing.

An image of 16 TiB may have four million objects: each of them is asked for only where the pool holds many more than
that, all of which it would list.
"""

import trio

from rbdfs.errors import Corrupt, NotFound
from rbdfs.image.core import ImageCore
from rbdfs.image.features import Feature, ImageFlag
from rbdfs.image.header import Header
from rbdfs.image.object_map import Run, existing_runs, load_states, runs_of
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import HEAD, SnapId

FEW = 1024  # objects that are asked for in any case, rather than looked for in a listing of the pool
_USAGE_SECONDS = 1.0  # for an answer that saves time
_LISTED_PER_ASKED = 8  # objects that a pool lists while it answers for one of many (3.4 and 36 microseconds)


class Existing:
    """The objects of a part of an image that may exist, as known at one moment."""

    def __init__(self, start: int, end: int, states: bytes | bytearray | None, runs: list[Run]) -> None:
        self.start, self.end = start, end
        self._states = states
        self._runs = runs  # where there are no states

    def between(self, start: int, end: int) -> list[Run]:
        """Those from `start` up to `end`."""
        start, end = max(start, self.start), min(end, self.end)
        if start >= end:
            return []
        if self._states is not None:
            return existing_runs(self._states, start, end)
        return [(max(first, start), min(last, end)) for first, last in self._runs if first < end and last > start]


async def look_for_existing(image: ImageCore, start: int = 0, end: int | None = None) -> Existing:
    """What exists from `start` up to `end`, of the image or of the snapshot that is open."""
    count = image.header.striping.object_count(image.size)
    end = count if end is None else min(end, count)
    if start >= end:
        return Existing(start, start, None, [])
    states = await map_states(image)
    if states is not None:
        return Existing(start, end, states, [])
    data, header = image.path.data, image.header
    if image.snap is None or end - start <= FEW:
        return Existing(start, end, None, await stored_runs(data, header, start, end, image.path.snap_id))
    if image.snap_runs is None:  # nothing comes to exist in a snapshot
        image.snap_runs = await stored_runs(data, header, 0, count, image.snap.id)
    return Existing(start, end, None, image.snap_runs)


async def stored_runs(data: IoCtx, header: Header, start: int, end: int, *snap_ids: SnapId) -> list[Run]:
    """The objects from `start` up to `end` that exist, or may have existed at one of the snapshots.

    Every one of them, where asking for each costs less than listing the pool.
    """
    if end - start <= FEW:
        return [(start, end)]
    with trio.move_on_after(_USAGE_SECONDS):  # without an answer (a client's caps may not allow it), they are listed
        if (await data.usage()).objects > _LISTED_PER_ASKED * (end - start):
            return [(start, end)]
    of_snapshots = any(snap_id != HEAD for snap_id in snap_ids)
    numbers = await _list(data, f"{header.object_prefix}.", of_snapshots=of_snapshots)
    return list(runs_of(sorted(number for number in numbers if start <= number < end)))


async def find_existing(image: ImageCore, start: int = 0, end: int | None = None) -> list[Run]:
    """The runs of objects from `start` to before `end` that may exist, as a list."""
    existing = await look_for_existing(image, start, end)
    return existing.between(existing.start, existing.end)


async def _list(data: IoCtx, prefix: str, *, of_snapshots: bool) -> list[int]:
    """The numbers of the data objects that the pool lists."""
    found = []
    async for name in data.list_objects(prefix, of_snapshots=of_snapshots):
        try:
            found.append(int(name.removeprefix(prefix), 16))
        except ValueError:
            continue  # not ours, whatever it is
    return found


async def map_states(image: ImageCore) -> bytes | bytearray | None:
    """The object map of what is open, one byte per object; None where there is none to trust."""
    snap = image.snap
    flags = snap.flags if snap is not None else image.header.flags
    if not image.header.features & Feature.OBJECT_MAP or flags & ImageFlag.OBJECT_MAP_INVALID:
        return None
    if snap is None and image.object_map is not None:
        return image.object_map.states
    states = image.snap_states
    if states is None:
        try:
            states = await load_states(image.ioctx, image.image_id, snap.id if snap is not None else HEAD)
        except (NotFound, Corrupt):
            return None
        if snap is not None:
            image.snap_states = states  # nothing comes to exist in a snapshot
    return states if len(states) >= image.header.striping.object_count(image.size) else None
