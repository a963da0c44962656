"""Class `rbd` on an object map.

`object_map_update` runs before the first write to each data object, so it touches only the blocks of states that it
changes, and their CRCs; the others read and write the whole map.
"""

import errno

from rbdfs.cls.object_map import (
    BLOCK_SIZE,
    HEADER_SIZE,
    PER_BYTE,
    ObjectStates,
    block_crcs,
    decode_header,
    states_size,
)
from rbdfs.cls.rbd_types import MAX_OBJECT_MAP_COUNT, ObjectState
from rbdfs.errors import NotFound, WireError
from rbdfs.local.classes.context import MethodContext
from rbdfs.local.classes.support import Registry, Rest, failure
from rbdfs.wire import U8, U64, Cursor

_REGISTRY = Registry("rbd")
METHODS = _REGISTRY.methods

_STATES_PER_BLOCK = BLOCK_SIZE * PER_BYTE
_CRCS = 12  # of the footer's length, the header's CRC and the count, before the CRCs of the blocks


def _read(context: MethodContext) -> ObjectStates:
    """The whole map; NotFound, or InvalidArgument where it is damaged, as an OSD answers."""
    if not context.stat().size:
        raise failure(context, errno.ENOENT, "the object map is empty")
    return _decode(context, context.read(0, 0))


def _decode(context: MethodContext, data: bytes) -> ObjectStates:
    try:
        return ObjectStates.decode(data)
    except WireError as err:
        raise failure(context, errno.EINVAL, str(err)) from err


def _require_state(context: MethodContext, state: int) -> None:
    """An OSD would let it spill into the neighbour's bits."""
    if state > max(ObjectState):
        raise failure(context, errno.EINVAL, f"there is no object state {state}")


@_REGISTRY.reads("object_map_load")
def _load(context: MethodContext) -> bytes:
    return _read(context).encode(with_crcs=False)


@_REGISTRY.writes("object_map_save", Rest)
def _save(context: MethodContext, argument: bytes) -> None:
    context.write_full(_decode(context, argument).encode())


@_REGISTRY.writes("object_map_resize", U64, U8)
def _resize(context: MethodContext, count: int, state: int) -> None:
    _require_state(context, state)
    if count > MAX_OBJECT_MAP_COUNT:
        raise failure(context, errno.EINVAL, f"{count} objects are too many for an object map")
    try:
        states = _read(context)
    except NotFound:
        states = ObjectStates()
    if states.unpacked(count).strip(bytes((state,))):
        raise failure(context, errno.ESTALE, "the object map says that an object to be cut off still exists")
    states.resize(count, state)
    context.write_full(states.encode())


@_REGISTRY.writes("object_map_update", U64, U64, U8, U8 | None)
def _update(context: MethodContext, start: int, end: int, state: int, expected: int | None) -> None:
    _require_state(context, state)
    context.stat()
    try:
        count, _ = decode_header(Cursor(context.read(0, HEADER_SIZE)))
    except WireError as err:
        raise failure(context, errno.EINVAL, str(err)) from err
    if start >= end or end > count:
        raise failure(context, errno.ERANGE, f"objects {start} to {end} of {count}")
    first, last = start // _STATES_PER_BLOCK, (end - 1) // _STATES_PER_BLOCK
    size = states_size(count)
    offset = first * BLOCK_SIZE
    length = min((last + 1) * BLOCK_SIZE, size) - offset
    stored = context.read(HEADER_SIZE + offset, length)
    crcs_offset, crcs_length = HEADER_SIZE + size + _CRCS + first * 4, (last - first + 1) * 4
    if len(stored) < length or _crcs_of(stored) != context.read(crcs_offset, crcs_length):
        raise failure(context, errno.EINVAL, "the object map is damaged")
    base = first * _STATES_PER_BLOCK
    states = ObjectStates.from_packed(stored, min(count - base, length * PER_BYTE))
    if states.change(start - base, end - base, state, expected):
        context.write(HEADER_SIZE + offset, states.packed)
        context.write(crcs_offset, _crcs_of(states.packed))


def _crcs_of(bits: bytes) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in block_crcs(bits))


@_REGISTRY.writes("object_map_snap_add")
def _snap_add(context: MethodContext) -> None:
    states = _read(context)
    if states.mark_clean():
        context.write_full(states.encode())


@_REGISTRY.writes("object_map_snap_remove", Rest)
def _snap_remove(context: MethodContext, argument: bytes) -> None:
    removed, states = _decode(context, argument), _read(context)
    if states.mark_changed(removed):
        context.write_full(states.encode())
