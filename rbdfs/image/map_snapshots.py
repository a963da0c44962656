"""What snapshots mean for object maps: each snapshot keeps the map of its moment, and CLEAN tells what changed since.

The image as it is has a map, and so has each snapshot. In each of them EXISTS means that the object was written since
the snapshot before, and CLEAN that it is as it was there (`fast-diff`).
"""

from rbdfs.cls import object_map as cls_map
from rbdfs.cls.query import ask, change
from rbdfs.errors import Corrupt, NotFound, RbdfsError
from rbdfs.image.core import ImageCore
from rbdfs.image.features import Feature, ImageFlag
from rbdfs.image.header import SnapInfo
from rbdfs.image.names import object_map_object
from rbdfs.image.object_map import CLEAN, EXISTS, NONEXISTENT, existing_runs, load_states, numbers_of
from rbdfs.rados import calls
from rbdfs.rados.ops import HEAD, Read, ReadOp, SnapId, WriteFull

_INVALID = ImageFlag.OBJECT_MAP_INVALID | ImageFlag.FAST_DIFF_INVALID
_EXISTS = bytes(state != NONEXISTENT for state in range(256))
_TO_CLEAN = bytes(CLEAN if state == EXISTS else state for state in range(256))


async def snapshot_created(image: ImageCore, snap_id: SnapId) -> None:
    """Keep the map for a new snapshot, and count from here what changes; writes are paused."""
    object_map = image.object_map
    if object_map is None or object_map.states is None:
        return
    name = object_map_object(image.image_id)
    try:
        stored = (await image.ioctx.operate(name, ReadOp([Read(0, 0)]))).outputs[0]
        await change(image.ioctx, object_map_object(image.image_id, snap_id), WriteFull(stored))
    except RbdfsError:  # the snapshot stands; it only lacks a map (`object_map::SnapshotCreateRequest`)
        await image.set_flags(_INVALID, snap_id)
        return
    if image.header.features & Feature.FAST_DIFF and await object_map.change(cls_map.snap_add()):
        object_map.states = object_map.states.translate(_TO_CLEAN)


async def snapshot_removed(image: ImageCore, snap: SnapInfo) -> None:
    """Hand what a snapshot's map knows of changes to the next newer one, and drop it, before the snapshot goes."""
    if not image.header.features & Feature.OBJECT_MAP:
        return
    name = object_map_object(image.image_id, snap.id)
    if image.header.features & Feature.FAST_DIFF:
        newer = [other.id for other in image.header.all_snaps if other.id > snap.id]
        await _pass_on(image, name, snap, newer[0] if newer else HEAD)
    await calls.remove(image.ioctx, name, missing_ok=True)


async def _pass_on(image: ImageCore, name: str, snap: SnapInfo, next_id: SnapId) -> None:
    try:
        removed = await ask(image.ioctx, name, cls_map.load())
    except NotFound:
        return  # an interrupted removal came that far
    except Corrupt:
        removed = None
    if removed is None or snap.flags & ImageFlag.OBJECT_MAP_INVALID:
        await _invalidate(image, next_id)
        return
    step = cls_map.snap_remove(removed)
    if next_id != HEAD:
        try:
            await change(image.ioctx, object_map_object(image.image_id, next_id), step)
        except NotFound:
            pass
        except RbdfsError:
            await _invalidate(image, next_id)
        return
    object_map = image.object_map
    if object_map is not None and await object_map.change(step) and (states := object_map.states) is not None:
        before = removed.unpacked()
        known = len(before)
        position = states.find(CLEAN)
        while position >= 0:
            if position >= known or before[position] == EXISTS:
                states[position] = EXISTS
            position = states.find(CLEAN, position + 1)


async def _invalidate(image: ImageCore, snap_id: SnapId) -> None:
    if snap_id == HEAD:
        await image.invalidate_object_map()
        if image.object_map is not None:
            image.object_map.states = None  # only now: a map that is not kept must be known to be wrong
    else:
        await image.set_flags(_INVALID, snap_id)


async def states_after_rollback(image: ImageCore, snap: SnapInfo) -> tuple[bytearray, bytearray] | None:
    """The map that the image will have, and which objects must be rolled back (nonzero); None where that is unknown.

    What is CLEAN in the map of the image and in those of all snapshots newer than `snap` is as it was, and stays so.
    The size of the image is that of the snapshot already.
    """
    object_map = image.object_map
    if object_map is None or object_map.states is None or snap.flags & ImageFlag.OBJECT_MAP_INVALID:
        return None
    count = image.header.striping.object_count(snap.size)
    try:
        old = await load_states(image.ioctx, image.image_id, snap.id)
        newer = [
            await load_states(image.ioctx, image.image_id, other.id)
            for other in image.header.all_snaps
            if other.id > snap.id
        ]
    except (NotFound, Corrupt):
        return None
    if len(old) < count:
        return None
    head = object_map.states
    unchanged = _unchanged(image, [head, *newer], count)
    after, changed = bytearray(count), bytearray(count)
    either = int.from_bytes(old[:count].translate(_EXISTS), "little")
    either |= int.from_bytes(head[:count].translate(_EXISTS), "little")
    for number in numbers_of(existing_runs(either.to_bytes(count, "little"))):
        if old[number] != NONEXISTENT:
            after[number] = head[number] if unchanged[number] else EXISTS
            changed[number] = not unchanged[number]
        else:
            changed[number] = head[number] != NONEXISTENT
    return after, changed


def _unchanged(image: ImageCore, maps: list[bytearray], count: int) -> bytes | bytearray:
    """Which objects are CLEAN in all of the maps (nonzero)."""
    trusted = image.header.features & Feature.FAST_DIFF and not image.header.flags & ImageFlag.FAST_DIFF_INVALID
    trusted = trusted and not any(snap.flags & _INVALID for snap in image.header.all_snaps)
    if not trusted or any(len(states) < count for states in maps):
        return bytes(count)
    table = bytes(state == CLEAN for state in range(256))
    result = int.from_bytes(maps[0][:count].translate(table), "little")
    for states in maps[1:]:
        result &= int.from_bytes(states[:count].translate(table), "little")
    return result.to_bytes(count, "little")
