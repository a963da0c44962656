"""An op between its submission and its completion, and the object that it is for.

Here an op of the contract becomes what is sent, and an answer becomes the op's outcome; what happens between is the
objecter's. This is the hot path: an op that is one Read or one Write, or a hint and a Write, goes past the tables of
steps.
"""

import logging
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rbdfs.ceph import op_message
from rbdfs.ceph.hobject import OrderKey, head_object
from rbdfs.ceph.op_message import ALWAYS, OpFlag, OpReply
from rbdfs.ceph.osd_ops import (
    READING_STEPS,
    SNAP_DIR,
    Decoder,
    EncodedSteps,
    encode_hinted_write,
    encode_read,
    encode_steps,
    encode_write,
)
from rbdfs.ceph.placement import Placement
from rbdfs.errors import Corrupt, InvalidArgument, NotSupported, RbdfsError, WireError, from_result
from rbdfs.rados.api import OnComplete, Outcome
from rbdfs.rados.ops import (
    HEAD,
    NO_SNAPS,
    Buffer,
    ListSnaps,
    PoolId,
    Read,
    ReadOp,
    Reply,
    SetAllocHint,
    Write,
    WriteOp,
)

if TYPE_CHECKING:
    from rbdfs.ceph.session import OSDSession

log = logging.getLogger(__name__)

_READ_FLAGS = int(ALWAYS | OpFlag.READ)
_ORDERED_READ_FLAGS = int(ALWAYS | OpFlag.READ | OpFlag.RWORDERED)
_WRITE_FLAGS = int(ALWAYS | OpFlag.WRITE)
_READ_WRITE_FLAGS = int(ALWAYS | OpFlag.READ | OpFlag.WRITE)
_NO_OUTPUT: tuple[Decoder | None, ...] = (None,)
_NO_OUTPUTS: tuple[Decoder | None, ...] = (None, None)
_THE_DATA: tuple[Decoder | None, ...] = (lambda output: output,)
_WRITE = int(OpFlag.WRITE)
_MAX_ERRNO = 4094


class ObjectTarget:
    """An object, and where it is at some epoch; kept from op to op, with the parts of a message that depend on it."""

    __slots__ = (
        "epoch",
        "name",
        "name_part",
        "namespace",
        "placement",
        "pool_id",
        "prefix",
        "raw_hash",
        "session",
        "writes",
    )

    def __init__(self, pool_id: PoolId, namespace: str, name: str, raw_hash: int) -> None:
        self.pool_id = pool_id
        self.namespace = namespace
        self.name = name
        self.raw_hash = raw_hash
        self.name_part = op_message.name_part(pool_id, namespace, name)
        self.writes = 0  # under way by this handle
        # As of `epoch`; 0: not known.
        self.epoch = 0
        self.placement: Placement | None = None
        self.prefix = b""
        self.session: OSDSession | None = None

    def move(self, epoch: int, placement: Placement, session: "OSDSession | None") -> None:
        """Note where the object is now."""
        self.epoch, self.placement, self.session = epoch, placement, session
        self.prefix = op_message.prefix(placement, self.raw_hash, epoch)

    def order(self) -> OrderKey:
        """The object's place among those of its placement group."""
        return head_object(self.pool_id, self.raw_hash, self.namespace, self.name).order()

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class PendingOp:
    """An op that is not complete: what to send, now or again, and whom to tell."""

    __slots__ = (
        "attempt",
        "data",
        "deadline",
        "decoders",
        "flags",
        "is_ordered",
        "is_over",
        "mtime",
        "on_complete",
        "on_gone",
        "ops",
        "placement",
        "session",
        "tail",
        "target",
        "tid",
    )

    def __init__(
        self,
        tid: int,
        target: ObjectTarget,
        flags: int,
        mtime: bytes,
        ops: bytes,
        data: tuple[Buffer, ...],
        tail: bytes,
        decoders: tuple[Decoder | None, ...],
        on_complete: OnComplete,
    ) -> None:
        # Fixed for life.
        self.tid = tid
        self.target = target
        self.flags = flags
        self.mtime = mtime
        self.ops = ops
        self.data = data
        self.tail = tail
        self.decoders = decoders
        self.on_complete = on_complete
        self.is_ordered = True  # does not overtake a held write to its object
        self.deadline = 0.0  # 0: none
        # Where it stands.
        self.is_over = False
        self.attempt = -1  # the number of the last one sent
        self.session: OSDSession | None = None
        self.placement: Placement | None = None
        self.on_gone: list[Callable[[], None]] | None = None  # who else waits for it to be over
        if flags & _WRITE:
            target.writes += 1

    @property
    def is_write(self) -> bool:
        """Whether it changes its object."""
        return self.flags & _WRITE != 0

    def front(self) -> bytes:
        """The front of the message for the next attempt."""
        self.attempt += 1
        target = self.target
        if self.attempt == 0:
            flags, attempt = self.flags, op_message.FIRST_ATTEMPT
        else:
            flags, attempt = self.flags | OpFlag.RETRY, op_message.attempt_part(self.attempt)
        return b"".join(
            (target.prefix, op_message.flag_part(flags), self.mtime, target.name_part, self.ops, self.tail, attempt)
        )

    def complete(self, outcome: Outcome) -> None:
        """Tell the submitter, whose bugs must not harm anybody else's ops, and those who wait for the op to be over."""
        if self.is_over:
            return
        self.is_over = True
        if self.flags & _WRITE:
            self.target.writes -= 1
        try:
            self.on_complete(outcome)
        except Exception:
            log.exception("completion of an op on %s", self.target)
        if self.on_gone is not None:
            self._tell_gone()

    def abandon(self) -> None:
        """Its outcome does not matter any more: nobody is told, and it is not sent again."""
        if not self.is_over:
            self.is_over = True
            if self.flags & _WRITE:
                self.target.writes -= 1
            self._tell_gone()

    def _tell_gone(self) -> None:
        waiting, self.on_gone = self.on_gone or (), None
        for call in waiting:
            call()

    def outcome(self, reply: OpReply, data: Buffer) -> Outcome:
        """What an answer means."""
        if reply.is_redirected:
            return NotSupported(f"{self.target}: its pool is a cache tier, whose redirects this client does not follow")
        if reply.result < 0:
            return self._error(reply.result)
        decoders = self.decoders
        try:
            if len(decoders) == 1 == len(reply.lengths):
                decode = decoders[0]
                return Reply([None if decode is None else decode(data)], reply.version)
            outputs, start, view = [], 0, memoryview(data)
            for decode, length in zip(decoders, reply.lengths, strict=True):
                outputs.append(None if decode is None else decode(view[start : start + length]))
                start += length
            return Reply(outputs, reply.version)
        except (WireError, ValueError) as err:
            return Corrupt(f"{self.target}: {err}")

    def _error(self, result: int) -> RbdfsError:
        if result < -_MAX_ERRNO:  # where a comparison found a difference
            return from_result(result, str(self.target))
        return from_result(result, f"{self.target}: {os.strerror(-result).lower()}")


class HeldOps:
    """Ops that wait for the map to change."""

    def __init__(self) -> None:
        self._ops: dict[int, PendingOp] = {}  # by tid
        self._objects: Counter[bytes] = Counter()  # which objects they are for, and how many each

    def __bool__(self) -> bool:
        return bool(self._ops)

    def __iter__(self) -> Iterator[PendingOp]:
        return iter(self._ops.values())

    def add(self, op: PendingOp) -> None:
        """Hold an op."""
        self._ops[op.tid] = op
        self._objects[op.target.name_part] += 1

    def remove(self, op: PendingOp) -> None:
        """Hold it no longer, if it was held."""
        if self._ops.pop(op.tid, None) is None:
            return
        name = op.target.name_part
        self._objects[name] -= 1
        if not self._objects[name]:
            del self._objects[name]

    def has_object(self, target: ObjectTarget) -> bool:
        """Whether an op on that object is held."""
        return target.name_part in self._objects


def make_op(tid: int, target: ObjectTarget, op: ReadOp | WriteOp, on_complete: OnComplete) -> PendingOp:
    """Encode an op of the contract; raises what is wrong with it."""
    try:
        return _encode_op(tid, target, op, on_complete)
    except struct.error as err:
        raise InvalidArgument(f"{target}: {err}") from err


def _encode_op(tid: int, target: ObjectTarget, op: ReadOp | WriteOp, on_complete: OnComplete) -> PendingOp:
    steps = op.steps
    data: tuple[Buffer, ...]
    if type(op) is ReadOp:
        # An OSD lets other reads overtake writes that wait for the object to be recovered.
        flags = _ORDERED_READ_FLAGS if target.writes else _READ_FLAGS
        mtime, tail = op_message.NO_MTIME, op_message.read_tail(op.snap_id)
        if len(steps) == 1 and type(steps[0]) is Read:
            ops, data, decoders = encode_read(steps[0].offset, steps[0].length), (), _THE_DATA
        else:
            ops, data, decoders = encode_steps(steps)
            if any(type(step) is ListSnaps for step in steps):
                tail = op_message.read_tail(SNAP_DIR)
    else:
        assert type(op) is WriteOp
        flags, mtime, tail = _WRITE_FLAGS, _now(), op_message.write_tail(op.snapc)
        if len(steps) == 1 and type(steps[0]) is Write:
            ops = encode_write(steps[0].offset, len(steps[0].data))
            data, decoders = (steps[0].data,), _NO_OUTPUT
        elif len(steps) == 2 and type(steps[0]) is SetAllocHint and type(steps[1]) is Write:
            ops = encode_hinted_write(steps[0], steps[1].offset, len(steps[1].data))
            data, decoders = (steps[1].data,), _NO_OUTPUTS
        else:
            ops, data, decoders = encode_steps(steps)
            decoders = (None,) * len(decoders)
            if any(type(step) in READING_STEPS for step in steps):
                flags = _READ_WRITE_FLAGS
        if op.full_try:
            flags |= OpFlag.FULL_TRY
    return PendingOp(tid, target, flags, mtime, ops, data, tail, decoders, on_complete)


def make_encoded_op(
    tid: int, target: ObjectTarget, encoded: EncodedSteps, on_complete: OnComplete, *, is_write: bool, flags: int
) -> PendingOp:
    """An op that is no step of the contract: of a watch, a notify, a listing."""
    ops, data, decoders = encoded
    if is_write:
        flags, mtime, tail = flags | _WRITE_FLAGS, _now(), op_message.write_tail(NO_SNAPS)
    else:
        flags, mtime, tail = flags | _READ_FLAGS, op_message.NO_MTIME, op_message.read_tail(HEAD)
    op = PendingOp(tid, target, flags, mtime, ops, data, tail, decoders, on_complete)
    op.is_ordered = False
    return op


def _now() -> bytes:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return op_message.MTIME.pack(seconds, nanoseconds)
