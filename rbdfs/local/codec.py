"""Ops, replies and errors as msgpack, for the socket between an owner and its attached processes.

Both ends are the same program on the same machine; the greeting compares `PROTOCOL`. Long buffers do not go through
msgpack: they follow the header, unchanged and uncopied, and the header refers to them by place (`_BULK`).
"""

import struct
from collections.abc import Callable
from typing import Any

import msgpack

from rbdfs import errors
from rbdfs.errors import ExtentMismatch, ProtocolError, RbdfsError, UnknownResult
from rbdfs.local.backend import Place
from rbdfs.local.steps import READ_STEPS, WRITE_STEPS
from rbdfs.rados import ops
from rbdfs.rados.ops import Buffer, PoolId, ReadOp, Reply, SnapContext, SnapId, WriteOp

PROTOCOL = 2

_BULK = 1  # msgpack ext type: offset and length within the payload
_BULK_FROM = 1024  # bytes
_SPAN = struct.Struct("<QQ")

_STEPS: list[type] = sorted({*READ_STEPS, *WRITE_STEPS}, key=lambda step: step.__name__)
_CODES = {step: code for code, step in enumerate(_STEPS)}


class Packer:
    """One message in the making: its header and the buffers that follow it."""

    def __init__(self) -> None:
        self.payload: list[Buffer] = []
        self.payload_size = 0

    def bulk(self, value: Any) -> Any:
        """The value, or a reference where it is a long buffer; looks into lists and tuples, not into maps."""
        if isinstance(value, bytes | bytearray | memoryview):
            if len(value) < _BULK_FROM:
                return bytes(value)
            span = msgpack.ExtType(_BULK, _SPAN.pack(self.payload_size, len(value)))
            self.payload.append(value)
            self.payload_size += len(value)
            return span
        if isinstance(value, list | tuple):
            return [self.bulk(each) for each in value]
        return value

    def header(self, *fields: Any) -> bytes:
        """The message's header, once all its long buffers are in."""
        packed: bytes = msgpack.packb(fields, unicode_errors="surrogateescape", default=_plain)
        return packed


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, bytearray | memoryview) else dict(value)


def unpack(header: Buffer, payload: memoryview) -> list[Any]:
    """The fields of a message; long buffers are views of the payload."""

    def bulk(code: int, data: bytes) -> memoryview:
        if code != _BULK:
            raise ProtocolError(f"unknown extension {code}")
        start, length = _SPAN.unpack(data)
        return payload[start : start + length]

    try:
        fields: list[Any] = msgpack.unpackb(
            header, ext_hook=bulk, unicode_errors="surrogateescape", strict_map_key=False
        )
    except (ValueError, TypeError, struct.error, msgpack.UnpackException) as err:  # TypeError: a key that is a map
        raise ProtocolError(f"unreadable message: {err}") from err
    return fields


# Ops.


def pack_op(packer: Packer, place: Place, name: str, op: ReadOp | WriteOp) -> list[Any]:
    """An op as fields of a header."""
    steps = [[_CODES[type(step)], *map(packer.bulk, step)] for step in op.steps]
    if isinstance(op, ReadOp):
        return [place.pool, place.namespace, name, False, steps, op.snap_id]
    return [place.pool, place.namespace, name, True, steps, op.snapc.seq, op.snapc.snaps, op.full_try]


def unpack_op(fields: list[Any]) -> tuple[Place, str, ReadOp | WriteOp]:
    """The op that `pack_op` packed."""
    pool, namespace, name, is_write, packed, *rest = fields
    steps: list[Any] = [_STEPS[code](*values) for code, *values in packed]
    place = Place(PoolId(pool), namespace)
    if is_write:
        return place, name, WriteOp(steps, SnapContext(rest[0], tuple(rest[1])), rest[2])
    return place, name, ReadOp(steps, SnapId(rest[0]))


def unpack_reply(op: ReadOp | WriteOp, version: int, outputs: list[Any]) -> Reply:
    """The reply to an op."""
    return Reply([_output(step, output) for step, output in zip(op.steps, outputs, strict=True)], version)


def _pairs(values: list[Any]) -> list[tuple[int, int]]:
    return [(first, second) for first, second in values]


_OUTPUTS: dict[type, Callable[[Any], Any]] = {
    ops.SparseRead: lambda value: ops.SparseData(_pairs(value[0]), value[1]),
    ops.MapExtents: _pairs,
    ops.Stat: lambda value: ops.ObjectStat(*value),
    ops.OmapGetKeys: lambda value: ops.OmapKeys(*value),
    ops.OmapGetValues: lambda value: ops.OmapValues(*value),
    ops.ListSnaps: lambda value: [
        ops.CloneInfo(clone_id, tuple(snaps), size, tuple(_pairs(overlap))) for clone_id, snaps, size, overlap in value
    ],
    ops.ListWatchers: lambda value: [ops.Watcher(*each) for each in value],
    ops.GetXattr: bytes,
    ops.OmapGetHeader: bytes,
    ops.Call: lambda value: None if value is None else bytes(value),
}


def _output(step: object, value: Any) -> Any:
    make = _OUTPUTS.get(type(step))
    return value if make is None else make(value)


# Errors.


def pack_error(error: RbdfsError) -> list[Any]:
    """An error as fields of a header."""
    extra = error.offset if isinstance(error, ExtentMismatch) else error.errno
    return [type(error).__name__, str(error), extra]


def unpack_error(fields: list[Any]) -> RbdfsError:
    """The error that `pack_error` packed."""
    name, message, extra = fields
    kind = getattr(errors, name, None)
    if kind is ExtentMismatch or kind is UnknownResult:
        made: RbdfsError = kind(message, extra)
        return made
    if isinstance(kind, type) and issubclass(kind, RbdfsError):
        return kind(message)
    raise ProtocolError(f"unknown error {name}")
