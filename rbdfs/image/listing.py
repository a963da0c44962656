"""Which data objects exist: from the object map where there is one to trust, else from the pool's listing.

Nothing here asks about each object that might exist: an image of 16 TiB has four million of them.
"""

from rbdfs.errors import Corrupt, NotFound
from rbdfs.image.core import ImageCore
from rbdfs.image.features import Feature, ImageFlag
from rbdfs.image.object_map import Run, existing_runs, load_states, runs_of
from rbdfs.rados.ops import HEAD

_FEW = 1024  # objects that are asked for one by one rather than looked for in a listing of the pool


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
    if end - start <= _FEW or image.snap is not None:  # a listing shows no objects that only a snapshot has
        return Existing(start, end, None, [(start, end)])
    return Existing(start, end, None, list(runs_of(sorted(await _list(image)))))


async def find_existing(image: ImageCore, start: int = 0, end: int | None = None) -> list[Run]:
    """The same, as a list."""
    existing = await look_for_existing(image, start, end)
    return existing.between(existing.start, existing.end)


async def _list(image: ImageCore) -> list[int]:
    """The numbers of the data objects that the pool lists."""
    prefix = f"{image.header.object_prefix}."
    found = []
    async for name in image.path.data.list_objects():
        if name.startswith(prefix):
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
