"""The steps of an op as an OSD takes them (ceph_osd_op, 38 bytes each, and their data), and what comes back.

    encoded = encode_steps(op.steps)        once per op, kept for sending it again
    outputs = [decoder(output) ...]         a decoder per step, None where a step has no output

A step's 38 bytes: u16 code, u32 flags, a union of 28 bytes, u32 length of its share of the data (`rados.h`).
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from rbdfs.entities import EntityAddr, EntityName
from rbdfs.errors import InvalidArgument, NotSupported
from rbdfs.rados import ops
from rbdfs.rados.ops import Buffer, SnapId
from rbdfs.wire import U64, Cursor, encode_value


class OpCode(IntEnum):
    """CEPH_OSD_OP_*. The leading 1 stands for reading, 2 for writing."""

    READ = 0x1201
    STAT = 0x1202
    MAPEXT = 0x1203
    SPARSE_READ = 0x1205
    NOTIFY = 0x1206
    NOTIFY_ACK = 0x1207
    ASSERT_VER = 0x1208
    LIST_WATCHERS = 0x1209
    LIST_SNAPS = 0x120A
    OMAPGETKEYS = 0x1211
    OMAPGETVALS = 0x1212
    OMAPGETHEADER = 0x1213
    OMAPGETVALSBYKEYS = 0x1214
    CMPEXT = 0x1220
    GETXATTR = 0x1301
    GETXATTRS = 0x1302
    CMPXATTR = 0x1303
    CALL = 0x1401
    PGNLS = 0x1505
    WRITE = 0x2201
    WRITEFULL = 0x2202
    TRUNCATE = 0x2203
    ZERO = 0x2204
    DELETE = 0x2205
    APPEND = 0x2206
    CREATE = 0x220D
    ROLLBACK = 0x220E
    WATCH = 0x220F
    OMAPSETVALS = 0x2215
    OMAPSETHEADER = 0x2216
    OMAPCLEAR = 0x2217
    OMAPRMKEYS = 0x2218
    SETALLOCHINT = 0x2223
    WRITESAME = 0x2226
    SETXATTR = 0x2301
    RMXATTR = 0x2304


class WatchStep(IntEnum):
    """CEPH_OSD_WATCH_OP_*."""

    UNWATCH = 0
    WATCH = 3
    RECONNECT = 5
    PING = 7


_EXCLUSIVE = 1  # CEPH_OSD_OP_FLAG_EXCL
_FAIL_OK = 2  # CEPH_OSD_OP_FLAG_FAILOK
_COMPARE_AS_TEXT = 1  # CEPH_OSD_CMPXATTR_MODE_STRING
SNAP_DIR = SnapId(2**64 - 1)  # CEPH_SNAPDIR: what LIST_SNAPS must be asked of

# The unions that we use, each within its 38 bytes.
_EXTENT = Struct("<HIQQQII")  # offset, length, truncate size, truncate seq
_XATTR = Struct("<HIIIBB18xI")  # name length, value length, comparison, mode
_CALL = Struct("<HIBBBI21xI")  # class length, method length, arguments, input length
_WATCH = Struct("<HIQQBII3xI")  # cookie, version, what, generation, timeout
_NUMBER = Struct("<HIQ20xI")  # a cookie or a snap id
_HINT = Struct("<HIQQI8xI")  # object size, write size, flags
_VERSION = Struct("<HIQQ12xI")  # unused, version
_WRITE_SAME = Struct("<HIQQQ4xI")  # offset, length, data length
_LIST = Struct("<HIQI16xI")  # count, epoch
_BARE = Struct("<HI28xI")

_COUNT = Struct("<H")
_COUNT_AND_EXTENT = Struct("<HHIQQQII")

NO_BYTES = b""
Decoder = Callable[[Buffer], Any]


class EncodedSteps(NamedTuple):
    """The steps on the wire."""

    ops: bytes  # u16 count and the fixed parts
    data: tuple[Buffer, ...]  # the data of all steps, in order
    decoders: tuple[Decoder | None, ...]


def encode_read(offset: int, length: int) -> bytes:
    """The fixed parts of an op that is one Read: by far the most frequent one."""
    return _COUNT_AND_EXTENT.pack(1, OpCode.READ, 0, offset, length, 0, 0, 0)


def encode_write(offset: int, length: int) -> bytes:
    """The fixed parts of an op that is one Write."""
    return _COUNT_AND_EXTENT.pack(1, OpCode.WRITE, 0, offset, length, 0, 0, length)


def encode_hinted_write(hint: ops.SetAllocHint, offset: int, length: int) -> bytes:
    """The fixed parts of a hint and a Write: what comes of writing to an image without an object map."""
    return _count_and_hint(hint) + _EXTENT.pack(OpCode.WRITE, 0, offset, length, 0, 0, length)


@lru_cache(maxsize=64)
def _count_and_hint(hint: ops.SetAllocHint) -> bytes:
    return _COUNT.pack(2) + _alloc_hint(hint)[0]


def encode_steps(steps: Sequence[ops.ReadStep] | Sequence[ops.WriteStep]) -> EncodedSteps:
    """Encode the steps of an op."""
    fixed = bytearray(_COUNT.pack(len(steps)))
    data: list[Buffer] = []
    for step in steps:
        encode = _ENCODERS.get(type(step))
        if encode is None:
            raise NotSupported(f"{type(step).__name__} on a Ceph cluster")
        head, payload = encode(step)
        fixed += head
        if len(payload):
            data.append(payload)
    return EncodedSteps(bytes(fixed), tuple(data), tuple(_DECODERS.get(type(step)) for step in steps))


def encode_watch(what: WatchStep, cookie: int, generation: int = 0, seconds: int = 0) -> EncodedSteps:
    """Register, renew, ask about or end a watch."""
    step = _WATCH.pack(OpCode.WATCH, 0, cookie, 0, what, generation, seconds, 0)
    return EncodedSteps(_COUNT.pack(1) + step, (), (None,))


def encode_notify(cookie: int, seconds: int, payload: Buffer) -> EncodedSteps:
    """Notify the watchers; the completion will bear `cookie`. The output is the notify id."""
    data = b"".join((_NOTIFY.pack(1, seconds, len(payload)), payload))
    step = _NUMBER.pack(OpCode.NOTIFY, 0, cookie, len(data))
    return EncodedSteps(_COUNT.pack(1) + step, (data,), (lambda output: Cursor(output).u64(),))


def encode_notify_ack(notify_id: int, cookie: int, payload: Buffer) -> EncodedSteps:
    """Answer a notify."""
    data = b"".join((_NOTIFY_ACK.pack(notify_id, cookie, len(payload)), payload))
    step = _NUMBER.pack(OpCode.NOTIFY_ACK, 0, cookie, len(data))
    return EncodedSteps(_COUNT.pack(1) + step, (data,), (None,))


def encode_list(count: int, epoch: int, position: bytes) -> EncodedSteps:
    """List the objects of a placement group from an encoded HObject on; the output is the OSD's page, undecoded."""
    step = _LIST.pack(OpCode.PGNLS, 0, count, epoch, len(position))
    return EncodedSteps(_COUNT.pack(1) + step, (position,), (bytes,))


_NOTIFY = Struct("<III")  # version, timeout in seconds, payload length
_NOTIFY_ACK = Struct("<QQI")  # notify id, cookie, payload length

Encoded = tuple[bytes, Buffer]


def _bare(code: OpCode, flags: int = 0, data: Buffer = NO_BYTES) -> Encoded:
    return _BARE.pack(code, flags, len(data)), data


def _extent(code: OpCode, offset: int, length: int, data: Buffer = NO_BYTES) -> Encoded:
    return _EXTENT.pack(code, 0, offset, length, 0, 0, len(data)), data


def _xattr(code: OpCode, name: str, value: bytes = NO_BYTES, comparison: int = 0, mode: int = 0) -> Encoded:
    key = name.encode("utf-8", "surrogateescape")
    data = key + value
    return _XATTR.pack(code, 0, len(key), len(value), comparison, mode, len(data)), data


def _call(step: ops.Call) -> Encoded:
    class_name, method = step.class_name.encode(), step.method.encode()
    if len(class_name) > 255 or len(method) > 255:
        raise InvalidArgument(f"{step.class_name}.{step.method}: name too long")
    data = b"".join((class_name, method, step.argument))
    return _CALL.pack(OpCode.CALL, 0, len(class_name), len(method), 0, len(step.argument), len(data)), data


def _alloc_hint(step: ops.SetAllocHint) -> Encoded:  # a hint never fails the op
    return _HINT.pack(OpCode.SETALLOCHINT, _FAIL_OK, step.object_size, step.write_size, step.flags, 0), NO_BYTES


def _omap_keys(step: ops.OmapGetKeys) -> Encoded:
    return _bare(OpCode.OMAPGETKEYS, 0, encode_value(_KeysAfter, (step.start_after, step.max_return)))


def _omap_values(step: ops.OmapGetValues) -> Encoded:
    argument = encode_value(_ValuesAfter, (step.start_after, step.max_return, step.prefix))
    return _bare(OpCode.OMAPGETVALS, 0, argument)


_KeysAfter = tuple[str, U64]
_ValuesAfter = tuple[str, U64, str]

_ENCODERS: dict[type, Callable[[Any], Encoded]] = {
    ops.Read: lambda s: _extent(OpCode.READ, s.offset, s.length),
    ops.SparseRead: lambda s: _extent(OpCode.SPARSE_READ, s.offset, s.length),
    ops.MapExtents: lambda s: _extent(OpCode.MAPEXT, s.offset, s.length),
    ops.Stat: lambda _: _bare(OpCode.STAT),
    ops.GetXattr: lambda s: _xattr(OpCode.GETXATTR, s.name),
    ops.GetXattrs: lambda _: _bare(OpCode.GETXATTRS),
    ops.OmapGetKeys: _omap_keys,
    ops.OmapGetValues: _omap_values,
    ops.OmapGetByKeys: lambda s: _bare(OpCode.OMAPGETVALSBYKEYS, 0, encode_value(set[str], set(s.keys))),
    ops.OmapGetHeader: lambda _: _bare(OpCode.OMAPGETHEADER),
    ops.ListSnaps: lambda _: _bare(OpCode.LIST_SNAPS),
    ops.ListWatchers: lambda _: _bare(OpCode.LIST_WATCHERS),
    ops.AssertExists: lambda _: _bare(OpCode.STAT),  # as librados does
    ops.AssertVersion: lambda s: (_VERSION.pack(OpCode.ASSERT_VER, 0, 0, s.version, 0), NO_BYTES),
    ops.CompareXattr: lambda s: _xattr(OpCode.CMPXATTR, s.name, s.value, s.comparison, _COMPARE_AS_TEXT),
    ops.CompareExtent: lambda s: _extent(OpCode.CMPEXT, s.offset, len(s.data), s.data),
    ops.Call: _call,
    ops.Create: lambda s: _bare(OpCode.CREATE, _EXCLUSIVE if s.exclusive else 0),
    ops.Write: lambda s: _extent(OpCode.WRITE, s.offset, len(s.data), s.data),
    ops.WriteFull: lambda s: _extent(OpCode.WRITEFULL, 0, len(s.data), s.data),
    ops.Append: lambda s: _extent(OpCode.APPEND, 0, len(s.data), s.data),
    ops.WriteSame: lambda s: (
        _WRITE_SAME.pack(OpCode.WRITESAME, 0, s.offset, s.length, len(s.data), len(s.data)),
        s.data,
    ),
    ops.Zero: lambda s: _extent(OpCode.ZERO, s.offset, s.length),
    ops.Truncate: lambda s: _extent(OpCode.TRUNCATE, s.size, 0),
    ops.Remove: lambda _: _bare(OpCode.DELETE),
    ops.Rollback: lambda s: (_NUMBER.pack(OpCode.ROLLBACK, 0, s.snap_id, 0), NO_BYTES),
    ops.SetAllocHint: _alloc_hint,
    ops.SetXattr: lambda s: _xattr(OpCode.SETXATTR, s.name, s.value),
    ops.RemoveXattr: lambda s: _xattr(OpCode.RMXATTR, s.name),
    ops.OmapSet: lambda s: _bare(OpCode.OMAPSETVALS, 0, encode_value(dict[str, bytes], s.values)),
    ops.OmapSetHeader: lambda s: _bare(OpCode.OMAPSETHEADER, 0, s.value),
    ops.OmapRemoveKeys: lambda s: _bare(OpCode.OMAPRMKEYS, 0, encode_value(set[str], set(s.keys))),
    ops.OmapClear: lambda _: _bare(OpCode.OMAPCLEAR),
}

READING_STEPS = frozenset({ops.AssertExists, ops.AssertVersion, ops.CompareXattr, ops.CompareExtent, ops.Call})


# Outputs. Omap keys are sorted by their bytes; text sorts the same way, but for surrogates, so the order is kept.


def _decode_sparse(output: Buffer) -> ops.SparseData:
    cursor = Cursor(output)
    extents = [(cursor.u64(), cursor.u64()) for _ in range(cursor.count())]
    return ops.SparseData(extents, cursor.take(cursor.u32()))


def _decode_extents(output: Buffer) -> list[tuple[int, int]]:
    cursor = Cursor(output)
    return [(cursor.u64(), cursor.u64()) for _ in range(cursor.count())]


def _decode_stat(output: Buffer) -> ops.ObjectStat:
    size, seconds, nanoseconds = Cursor(output).unpack(_STAT)
    return ops.ObjectStat(size, seconds * 1_000_000_000 + nanoseconds)


def _decode_map(output: Buffer) -> dict[str, bytes]:
    cursor = Cursor(output)
    return {cursor.text(): cursor.blob() for _ in range(cursor.count())}


def _decode_omap_keys(output: Buffer) -> ops.OmapKeys:
    cursor = Cursor(output)
    return ops.OmapKeys([cursor.text() for _ in range(cursor.count())], bool(cursor.u8()))


def _decode_omap_values(output: Buffer) -> ops.OmapValues:
    cursor = Cursor(output)
    return ops.OmapValues({cursor.text(): cursor.blob() for _ in range(cursor.count())}, bool(cursor.u8()))


def _decode_snaps(output: Buffer) -> list[ops.CloneInfo]:
    cursor = Cursor(output)
    clones = []
    with cursor.envelope(2, "obj_list_snap_response_t"):
        for _ in range(cursor.count()):
            with cursor.envelope(1, "clone_info"):
                clone_id = SnapId(cursor.u64())
                snaps = tuple(SnapId(cursor.u64()) for _ in range(cursor.count()))
                overlap = tuple((cursor.u64(), cursor.u64()) for _ in range(cursor.count()))
                clones.append(ops.CloneInfo(clone_id, snaps, cursor.u64(), overlap))
    return clones


def _decode_watchers(output: Buffer) -> list[ops.Watcher]:
    cursor = Cursor(output)
    watchers = []
    with cursor.envelope(1, "obj_list_watch_response_t"):
        for _ in range(cursor.count()):
            with cursor.envelope(2, "watch_item_t") as version:
                entity, cookie, seconds = EntityName.decode(cursor), cursor.u64(), cursor.u32()
                address = str(EntityAddr.decode(cursor)) if version >= 2 else ""
                watchers.append(ops.Watcher(str(entity), cookie, seconds, address))
    return watchers


_STAT = Struct("<QII")

_DECODERS: dict[type, Decoder] = {
    ops.Read: lambda output: output,
    ops.SparseRead: _decode_sparse,
    ops.MapExtents: _decode_extents,
    ops.Stat: _decode_stat,
    ops.GetXattr: bytes,
    ops.GetXattrs: _decode_map,
    ops.OmapGetKeys: _decode_omap_keys,
    ops.OmapGetValues: _decode_omap_values,
    ops.OmapGetByKeys: _decode_map,
    ops.OmapGetHeader: bytes,
    ops.ListSnaps: _decode_snaps,
    ops.ListWatchers: _decode_watchers,
    ops.Call: bytes,
}
