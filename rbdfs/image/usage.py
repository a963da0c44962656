"""What images really occupy, as `rbd du` counts it: whole objects, each in the row of the snapshot that it changed for.

A row counts the objects that exist there and differ from the snapshot of the row before; the first counts all that
exist. With `fast-diff` the object maps say that; without it every object's stored states are asked for.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rbdfs.errors import Corrupt, NotFound
from rbdfs.image.features import Feature, ImageFlag
from rbdfs.image.header import Header, SnapInfo, read_header
from rbdfs.image.listing import stored_runs
from rbdfs.image.lookup import lookup
from rbdfs.image.names import data_object
from rbdfs.image.object_map import CLEAN, NONEXISTENT, Run, existing_runs, load_states, numbers_of
from rbdfs.image.striping import Striping
from rbdfs.image.tasks import for_each
from rbdfs.rados import calls
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import HEAD, CloneInfo, PoolId, SnapId

_INVALID = ImageFlag.OBJECT_MAP_INVALID | ImageFlag.FAST_DIFF_INVALID
_EXISTS = bytes(state != NONEXISTENT for state in range(256))
_CHANGED = bytes(state != CLEAN for state in range(256))


class Usage(NamedTuple):
    """A row of `rbd du`; the image's own row, with no snapshot, comes after those of its snapshots."""

    name: str
    id: str
    snap_name: str | None
    snap_id: SnapId | None
    provisioned: int
    used: int


async def disk_usage(ioctx: IoCtx, name: str) -> list[Usage]:
    """The rows of one image."""
    image_id = await lookup(ioctx, name)
    header = await read_header(ioctx, image_id)
    rows: list[SnapInfo | None] = [*header.snaps, None]
    used = await _from_maps(ioctx, header, rows)
    if used is None:
        used = await _from_objects(ioctx, header, rows)
    return [
        Usage(
            name,
            image_id,
            row.name if row else None,
            row.id if row else None,
            row.size if row else header.size,
            count,
        )
        for row, count in zip(rows, used, strict=True)
    ]


async def _from_maps(ioctx: IoCtx, header: Header, rows: Sequence[SnapInfo | None]) -> list[int] | None:
    """By the object maps; None where one cannot be trusted."""
    if not header.features & Feature.FAST_DIFF or header.flags & _INVALID:
        return None
    if any(snap.flags & _INVALID for snap in header.all_snaps):
        return None
    states: dict[SnapId, bytearray] = {}
    try:
        for snap_id in (*(snap.id for snap in header.all_snaps), HEAD):
            states[snap_id] = await load_states(ioctx, header.image_id, snap_id)
    except (NotFound, Corrupt):
        return None
    used = []
    before = SnapId(0)
    for row in rows:
        snap_id, size = (row.id, row.size) if row else (HEAD, header.size)
        between = [states[other] for other in states if before < other <= snap_id]
        used.append(bytes_of_runs(header.striping, size, _changed_runs(between, is_first=not before)))
        before = snap_id
    return used


def _changed_runs(maps: list[bytearray], *, is_first: bool) -> list[Run]:
    """What exists in the last of the maps and, unless there is nothing to compare with, changed in one of them."""
    last = maps[-1]
    existing = last.translate(_EXISTS)
    if is_first:
        return existing_runs(existing)
    changed = 0
    for states in maps:
        changed |= int.from_bytes(states[: len(last)].translate(_CHANGED), "little")
    return existing_runs((int.from_bytes(existing, "little") & changed).to_bytes(len(last), "little"))


async def _from_objects(ioctx: IoCtx, header: Header, rows: Sequence[SnapInfo | None]) -> list[int]:
    """By asking for the stored states of every object."""
    data = ioctx
    if header.data_pool_id is not None:
        data = await ioctx.cluster.open_pool(PoolId(header.data_pool_id), ioctx.namespace)
    used = [0] * len(rows)
    sizes = [row.size if row else header.size for row in rows]
    ids = [row.id if row else HEAD for row in rows]

    async def count(number: int) -> None:
        name = data_object(header.object_prefix, number)
        try:
            clones = await calls.list_snaps(data, name)
        except NotFound:
            return
        before: CloneInfo | None = None
        for index, snap_id in enumerate(ids):
            state = await _state_at(data, name, clones, snap_id)
            if state is not None and state is not before:
                used[index] += header.striping.used_size(number, sizes[index])
            before = state

    runs = await stored_runs(data, header, 0, header.striping.object_count(max(sizes)), *ids)
    await for_each(numbers_of(runs), count)
    return used


async def _state_at(ioctx: IoCtx, name: str, clones: list[CloneInfo], snap_id: SnapId) -> CloneInfo | None:
    """The stored state that a snapshot sees; None where the object did not exist then."""
    for clone in clones:
        if snap_id in clone.snaps or clone.clone_id == snap_id == HEAD:
            return clone
    if snap_id == HEAD or clones[-1].clone_id != HEAD:
        return None
    try:  # the head, unless it was made later
        await calls.stat(ioctx, name, snap_id)
    except NotFound:
        return None
    return clones[-1]


async def occupied_bytes(ioctx: IoCtx, header: Header, snap: SnapInfo | None = None) -> int | None:
    """Bytes that an image or a snapshot occupies, which need not be open: by the store's count, else by its object map.

    None where only asking each object could tell.
    """
    if snap is None and header.data_pool_id is None:
        counted = await ioctx.allocated_bytes(f"{header.object_prefix}.")
        if counted is not None:
            return counted
    flags, size, snap_id = (header.flags, header.size, HEAD) if snap is None else (snap.flags, snap.size, snap.id)
    if not header.features & Feature.OBJECT_MAP or flags & ImageFlag.OBJECT_MAP_INVALID:
        return None
    try:
        states = await load_states(ioctx, header.image_id, snap_id)
    except (NotFound, Corrupt):
        return None
    return bytes_of_runs(header.striping, size, existing_runs(states))


def bytes_of_runs(striping: Striping, size: int, runs: list[Run]) -> int:
    """What objects hold, at most, of an image of `size` bytes."""
    full = size // striping.set_size * striping.stripe_count  # objects of complete sets
    total = 0
    for start, end in runs:
        total += max(0, min(end, full) - start) << striping.order
        total += sum(striping.used_size(number, size) for number in range(max(start, full), end))
    return total
