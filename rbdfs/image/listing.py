"""Which data objects exist: from the object map where there is one to trust, else from the pool's listing.

Nothing here asks about each object that might exist: an image of 16 TiB has four million of them.
"""

from rbdfs.errors import Corrupt, NotFound
from rbdfs.image.core import ImageCore
from rbdfs.image.features import Feature, ImageFlag
from rbdfs.image.object_map import Run, existing_runs, load_states, runs_of
from rbdfs.rados.ops import HEAD

_FEW = 1024  # objects that are asked for one by one rather than looked for in a listing of the pool


async def find_existing(image: ImageCore, start: int = 0, end: int | None = None) -> list[Run]:
    """The objects from `start` up to `end` that may exist, of the image or of the snapshot that is open."""
    count = image.header.striping.object_count(image.size)
    end = count if end is None else min(end, count)
    if start >= end:
        return []
    states = await map_states(image)
    if states is not None:
        return existing_runs(states, start, end)
    if end - start <= _FEW or image.snap is not None:  # a listing shows no objects that only a snapshot has
        return [(start, end)]
    return list(runs_of(sorted(number for number in await _list(image) if start <= number < end)))


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
    try:
        states = await load_states(image.ioctx, image.image_id, snap.id if snap is not None else HEAD)
    except (NotFound, Corrupt):
        return None
    return states if len(states) >= image.header.striping.object_count(image.size) else None
