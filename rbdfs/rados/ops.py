"""What a caller asks of one object: a `ReadOp` or a `WriteOp`, each a list of steps that is done as a whole.

The steps are those of an OSD (`include/rados.h`); a store carries them out in order and atomically: the first step
that fails ends the op, nothing of a WriteOp is then applied, and its error is the op's. A step is plain data, so any
store, wrapper or wire can read it. Offsets and lengths are bytes within the object.

Buffers in a step (`data`) belong to the store until the op is complete: they must not change before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple, NewType

Buffer = bytes | bytearray | memoryview

SnapId = NewType("SnapId", int)
PoolId = NewType("PoolId", int)

HEAD = SnapId(2**64 - 2)  # CEPH_NOSNAP: the object as it is now


class SnapContext(NamedTuple):
    """The snapshots that a write must preserve: `seq` is the newest id ever made, `snaps` the existing ones."""

    seq: int = 0
    snaps: tuple[SnapId, ...] = ()  # newest first


NO_SNAPS = SnapContext()


# Steps that read. Behind each: its output in `Reply.outputs`. A missing object is NotFound unless said otherwise.


class Read(NamedTuple):
    """Bytes of the object -> Buffer, shorter than asked where the object ends; `length` 0 means up to the end."""

    offset: int
    length: int


class SparseRead(NamedTuple):
    """Allocated extents and their bytes -> SparseData; what lies between them is zero."""

    offset: int
    length: int


class MapExtents(NamedTuple):
    """Allocated extents -> list[tuple[int, int]] of (offset, length), in order; NotSupported on some pools."""

    offset: int
    length: int


class Stat(NamedTuple):
    """-> ObjectStat."""


class GetXattr(NamedTuple):
    """-> bytes; NoData where the object lacks it."""

    name: str


class GetXattrs(NamedTuple):
    """-> dict[str, bytes]."""


class OmapGetKeys(NamedTuple):
    """Keys after `start_after`, in byte order -> OmapKeys."""

    start_after: str
    max_return: int


class OmapGetValues(NamedTuple):
    """Pairs whose key is after `start_after` and begins with `prefix`, in byte order -> OmapValues."""

    start_after: str
    max_return: int
    prefix: str = ""


class OmapGetByKeys(NamedTuple):
    """The pairs of those keys that exist -> dict[str, bytes]."""

    keys: Sequence[str]


class OmapGetHeader(NamedTuple):
    """-> bytes, empty where none was set."""


class ListSnaps(NamedTuple):
    """The object's clones, oldest first, HEAD last -> list[CloneInfo]; NotFound where there is neither."""


class ListWatchers(NamedTuple):
    """-> list[Watcher]."""


# Guards: allowed in both kinds of op, no output. They fail the whole op. They stand before the steps that they guard:
# whether a guard sees what earlier steps of its own op changed is not defined (an OSD's attributes: no).


class AssertExists(NamedTuple):
    """NotFound unless the object exists."""


class AssertVersion(NamedTuple):
    """VersionMismatch unless the object's version is that of an earlier `Reply.version`."""

    version: int


class Comparison(IntEnum):
    """How CompareXattr compares: the stored value stands on the right, as in `rados.h`."""

    EQ = 1
    NE = 2
    GT = 3
    GTE = 4
    LT = 5
    LTE = 6


class CompareXattr(NamedTuple):
    """Canceled unless `value` <comparison> the stored bytes (a missing attribute compares as empty)."""

    name: str
    comparison: Comparison
    value: bytes


class CompareExtent(NamedTuple):
    """ExtentMismatch unless these bytes are stored at `offset` (missing bytes and objects compare as zeroes)."""

    offset: int
    data: Buffer


class Call(NamedTuple):
    """Run a method of an object class -> bytes. In a ReadOp only for methods that do not write.

    In a WriteOp there is no output: ask with a ReadOp afterwards.
    """

    class_name: str
    method: str
    argument: Buffer = b""


# Steps that write; no outputs. They create the object where it is missing, but for Remove, RemoveXattr, OmapRemoveKeys
# and OmapClear, which are NotFound then, and Zero and Truncate, which do nothing.


class Create(NamedTuple):
    """Make the object exist; Exists where `exclusive` and it did."""

    exclusive: bool = False


class Write(NamedTuple):
    """Put bytes at an offset, growing the object as needed."""

    offset: int
    data: Buffer


class WriteFull(NamedTuple):
    """Replace the whole content."""

    data: Buffer


class Append(NamedTuple):
    """Put bytes at the end."""

    data: Buffer


class WriteSame(NamedTuple):
    """Repeat `data` over `length` bytes, a multiple of its size."""

    offset: int
    length: int
    data: Buffer


class Zero(NamedTuple):
    """Zero a range and free what it can; does not grow the object, does nothing to a missing one.

    Where the range reaches the end of the object, a store may cut it at `offset` instead, as an OSD does.
    """

    offset: int
    length: int


class Truncate(NamedTuple):
    """Cut or extend (with zeroes) to `size`."""

    size: int


class Remove(NamedTuple):
    """Remove the object; NotFound where it is missing. Its clones stay."""


class Rollback(NamedTuple):
    """Make the object what it was at a snapshot; removes it where it did not exist then."""

    snap_id: SnapId


class CloneRange(NamedTuple):
    """Take bytes of another object of this pool and namespace, sharing their blocks where they align.

    Only on stores whose `properties.clone_range` is True. The source is read at `source_snap_id`; what it lacks
    (holes, a missing object, bytes past its end) becomes zeroes here.
    """

    offset: int
    source: str
    source_offset: int
    length: int
    source_snap_id: SnapId = HEAD


class AllocHint(IntFlag):
    """What an object's owner will do with it; an OSD takes larger checksums where nothing is written twice."""

    SEQUENTIAL_WRITE = 1
    RANDOM_WRITE = 2
    SEQUENTIAL_READ = 4
    RANDOM_READ = 8
    APPEND_ONLY = 16
    IMMUTABLE = 32
    SHORT_LIVED = 64
    LONG_LIVED = 128
    COMPRESSIBLE = 256
    INCOMPRESSIBLE = 512


class SetAllocHint(NamedTuple):
    """Expected sizes in bytes, and what else is known; a hint, never fails."""

    object_size: int
    write_size: int
    flags: AllocHint = AllocHint(0)


class SetXattr(NamedTuple):
    """Set an extended attribute."""

    name: str
    value: bytes


class RemoveXattr(NamedTuple):
    """Remove an extended attribute; no error where there is none."""

    name: str


class OmapSet(NamedTuple):
    """Set pairs."""

    values: Mapping[str, bytes]


class OmapSetHeader(NamedTuple):
    """Set the omap header."""

    value: bytes


class OmapRemoveKeys(NamedTuple):
    """Remove keys; no error for those missing."""

    keys: Sequence[str]


class OmapClear(NamedTuple):
    """Remove the header and all pairs."""


ReadStep = (
    Read
    | SparseRead
    | MapExtents
    | Stat
    | GetXattr
    | GetXattrs
    | OmapGetKeys
    | OmapGetValues
    | OmapGetByKeys
    | OmapGetHeader
    | ListSnaps
    | ListWatchers
    | AssertExists
    | AssertVersion
    | CompareXattr
    | CompareExtent
    | Call
)
WriteStep = (
    Create
    | Write
    | WriteFull
    | Append
    | WriteSame
    | Zero
    | Truncate
    | Remove
    | Rollback
    | CloneRange
    | SetAllocHint
    | SetXattr
    | RemoveXattr
    | OmapSet
    | OmapSetHeader
    | OmapRemoveKeys
    | OmapClear
    | AssertExists
    | AssertVersion
    | CompareXattr
    | CompareExtent
    | Call
)


@dataclass(slots=True)
class ReadOp:
    """Steps that read, of the object as it is (HEAD) or was at a snapshot."""

    steps: Sequence[ReadStep]
    snap_id: SnapId = HEAD


@dataclass(slots=True)
class WriteOp:
    """Steps that write under a snapshot context: the store clones the object first where a snapshot needs it."""

    steps: Sequence[WriteStep]
    snapc: SnapContext = NO_SNAPS
    full_try: bool = False  # try even when the cluster or pool is full: for what frees space


# Outputs.


class ObjectStat(NamedTuple):
    """Size in bytes; mtime in nanoseconds since the epoch."""

    size: int
    mtime: int


class SparseData(NamedTuple):
    """Extents (offset, length) in order, and their bytes one after the other."""

    extents: list[tuple[int, int]]
    data: Buffer


class OmapKeys(NamedTuple):
    """Keys in byte order, and whether there are more behind them."""

    keys: list[str]
    more: bool


class OmapValues(NamedTuple):
    """Pairs in byte order of their keys, and whether there are more behind them."""

    values: dict[str, bytes]
    more: bool


class CloneInfo(NamedTuple):
    """A stored state of an object: the snapshots that see it, its size, what it shares with the next newer one."""

    clone_id: SnapId  # the newest snapshot there was when it was made; HEAD for the head
    snaps: tuple[SnapId, ...]  # oldest first; empty for the head
    size: int
    overlap: tuple[tuple[int, int], ...]  # extents (offset, length) unchanged in the next newer state


class Watcher(NamedTuple):
    """Who watches an object."""

    entity: str  # "client.4123"
    cookie: int
    timeout: int  # seconds
    address: str  # "127.0.0.1:0/40882352"


@dataclass(slots=True)
class Reply:
    """A completed op: an output per step (None for steps without one), and the object's version after it."""

    outputs: list[Any] = field(default_factory=list)
    version: int = 0
