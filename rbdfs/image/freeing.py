"""Freeing data objects, and parts of them, with the object map in step."""

from contextlib import suppress
from functools import partial

from rbdfs.errors import NotFound
from rbdfs.image.core import ImageCore
from rbdfs.image.listing import find_existing
from rbdfs.image.object_map import CLEAN, EXISTS, NONEXISTENT, Run, numbers_of
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.image.tasks import for_each
from rbdfs.rados import calls
from rbdfs.rados.ops import AssertExists, Remove, Truncate, WriteOp, Zero


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


async def clear_part(image: ImageCore, number: int, offset: int, length: int) -> None:
    """Zero a part of an object, which is cut off where it goes to the end.

    An OSD does nothing where an object ends before the bytes to zero. The object is then still what the newest
    snapshot holds, and must stay CLEAN: marked EXISTS, `rbd object-map check` would flag the map as invalid.
    """
    object_map = image.object_map
    states = object_map.states if object_map is not None else None
    if object_map is not None and states is not None and (state := states[number]) != EXISTS:
        if state == NONEXISTENT or (state == CLEAN and not await _reaches(image, number, offset)):
            return
        await object_map.mark_exists(number)
    step = Truncate(offset) if offset + length == image.object_size else Zero(offset, length)
    with suppress(NotFound):
        op = WriteOp([AssertExists(), step], image.path.snapc, full_try=True)
        await image.path.operate(number, op)


async def _reaches(image: ImageCore, number: int, offset: int) -> bool:
    """Whether an object has bytes from `offset` on."""
    try:
        stat = await calls.stat(image.path.data, image.path.object_name(number))
    except NotFound:
        return False
    return stat.size > offset
