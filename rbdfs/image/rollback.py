"""Making an image what it was at a snapshot."""

from contextlib import suppress
from functools import partial

from rbdfs.errors import NotFound
from rbdfs.image.changes import ImageChange
from rbdfs.image.core import ImageCore
from rbdfs.image.header import SnapInfo
from rbdfs.image.listing import stored_runs
from rbdfs.image.map_snapshots import states_after_rollback
from rbdfs.image.object_map import EXISTS, existing_runs, numbers_of
from rbdfs.image.progress import OnProgress
from rbdfs.image.resizing import grow, shrink
from rbdfs.image.tasks import for_each
from rbdfs.rados.ops import HEAD, Rollback, WriteOp


async def roll_back(image: ImageCore, snap: SnapInfo, on_progress: OnProgress) -> None:
    """Roll every object back that changed since; the caller holds `image.maintenance` and owns the lock.

    The stored map shows, until all is done, what exists before or after: so an interruption leaves it right.
    """
    async with image.path.paused():
        await image.path.flush_at_rest()
        if snap.size > image.size:
            await grow(image, snap.size)
        elif snap.size < image.size:
            await shrink(image, snap.size)
        count = image.header.striping.object_count(snap.size)
        known = await states_after_rollback(image, snap)
        object_map = image.object_map
        after: bytearray | None = None
        if known is None:
            runs = await stored_runs(image.path.data, image.header, 0, count, HEAD, snap.id)
            if object_map is not None and object_map.states is not None:
                await image.invalidate_object_map()
                object_map.states = None  # only now: a map that is not kept must be known to be wrong
        else:
            after, changed = known
            runs = existing_runs(changed)
            if object_map is not None and object_map.states is not None:
                during = bytearray(object_map.states)
                for start, end in runs:
                    during[start:end] = bytes((EXISTS,)) * (end - start)
                await object_map.save(during)
        total = sum(end - start for start, end in runs)
        await for_each(
            numbers_of(runs),
            partial(_roll_back_object, image, snap),
            on_done=lambda done: on_progress(done, total),
        )
        if after is not None and object_map is not None and object_map.states is not None:
            await object_map.save(after)
    image.changed(ImageChange.CONTENT)
    await image.announce()


async def _roll_back_object(image: ImageCore, snap: SnapInfo, number: int) -> None:
    op = WriteOp([Rollback(snap.id)], image.path.snapc)
    with suppress(NotFound):  # neither then nor now
        await image.path.operate(number, op)
