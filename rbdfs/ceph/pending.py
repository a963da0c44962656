"""An op between its submission and its completion, and the object that it is for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rbdfs.ceph import op_message
from rbdfs.ceph.hobject import OrderKey, head_object
from rbdfs.ceph.op_message import OpFlag
from rbdfs.ceph.osd_ops import Decoder
from rbdfs.ceph.placement import Placement
from rbdfs.errors import RbdfsError
from rbdfs.rados.api import OnComplete
from rbdfs.rados.ops import Buffer, PoolId

if TYPE_CHECKING:
    from rbdfs.ceph.session import OSDSession


class ObjectTarget:
    """An object, and where it is at some epoch; kept from op to op, with the parts of a message that depend on it."""

    __slots__ = ("epoch", "name", "name_part", "namespace", "placement", "pool_id", "prefix", "raw_hash", "session")

    def __init__(self, pool_id: PoolId, namespace: str, name: str, raw_hash: int) -> None:
        self.pool_id = pool_id
        self.namespace = namespace
        self.name = name
        self.raw_hash = raw_hash
        self.name_part = op_message.name_part(pool_id, namespace, name)
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
        "is_abandoned",
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
        self.deadline = 0.0  # 0: none
        # Where it stands.
        self.is_abandoned = False  # nobody waits for it any more, so it is not sent again
        self.attempt = -1  # the number of the last one sent
        self.session: OSDSession | None = None
        self.placement: Placement | None = None
        self.on_gone: list[Callable[[], None]] | None = None  # who else waits for it to be over

    @property
    def is_write(self) -> bool:
        """Whether it changes its object."""
        return bool(self.flags & OpFlag.WRITE)

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

    def gone(self) -> None:
        """Tell those who wait for the op to be over, whatever came of it."""
        if self.on_gone is not None:
            waiting, self.on_gone = self.on_gone, None
            for call in waiting:
                call()

    def fail(self, error: RbdfsError) -> None:
        """End the op with an error."""
        self.on_complete(error)
        self.gone()
