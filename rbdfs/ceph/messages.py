"""The bodies of the messages that a client and a cluster exchange, but for the op and its reply (op_message.py).

`TYPE`, `VERSION` and `COMPAT` go into the header of a message that we send. Fields that a newer daemon appends are
ignored. Messages to a monitor begin with what Paxos once used: a version, a monitor's rank and a tid, all unused.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, ClassVar, NamedTuple, Self

from rbdfs.ceph.hobject import HObject
from rbdfs.errors import WireError
from rbdfs.wire import S8, S16, S32, S64, U8, U32, U64, Cursor, Raw, Record


class MessageType(IntEnum):
    """CEPH_MSG_*, MSG_*."""

    MON_MAP = 4
    STATFS = 13
    STATFS_REPLY = 14
    MON_SUBSCRIBE = 15
    MON_SUBSCRIBE_ACK = 16
    AUTH = 17
    AUTH_REPLY = 18
    MON_GET_VERSION = 19
    MON_GET_VERSION_REPLY = 20
    OSD_MAP = 41
    OSD_OP = 42
    OSD_OPREPLY = 43
    WATCH_NOTIFY = 44
    POOL_OP_REPLY = 48
    POOL_OP = 49
    MON_COMMAND = 50
    MON_COMMAND_ACK = 51
    OSD_BACKOFF = 61
    CONFIG = 62


class Message(Record):
    """What all bodies share."""

    __slots__ = ()
    TYPE: ClassVar[MessageType]
    VERSION: ClassVar[int] = 1
    COMPAT: ClassVar[int] = 1


Fsid = Annotated[bytes, Raw(16)]


# Between client and monitor.


@dataclass(slots=True)
class Subscription(Record):
    """ceph_mon_subscribe_item: from which version on, and whether only once."""

    ONETIME: ClassVar[int] = 1

    start: U64
    flags: U8 = 0


@dataclass(slots=True)
class MonSubscribe(Message):
    """MMonSubscribe: send me these maps as they change."""

    TYPE = MessageType.MON_SUBSCRIBE
    VERSION = 3

    what: dict[str, Subscription]
    hostname: str = ""


@dataclass(slots=True)
class MonMapMessage(Message):
    """MMonMap: the monitors."""

    TYPE = MessageType.MON_MAP

    monmap: bytes


@dataclass(slots=True)
class ConfigMessage(Message):
    """MConfig: the options that the monitors' configuration database sets for this client, all of them each time."""

    TYPE = MessageType.CONFIG

    options: dict[str, str]


@dataclass(slots=True)
class OSDMapMessage(Message):
    """MOSDMap: full maps and increments, by epoch, encoded; comes from monitors and from OSDs."""

    TYPE = MessageType.OSD_MAP

    fsid: Fsid
    increments: dict[U32, bytes]
    full_maps: dict[U32, bytes]
    oldest: U32 = 0  # of the epochs that the sender still has
    newest: U32 = 0


@dataclass(slots=True)
class MonGetVersion(Message):
    """MMonGetVersion: a question for the newest map."""

    TYPE = MessageType.MON_GET_VERSION

    handle: U64
    what: str


@dataclass(slots=True)
class MonGetVersionReply(Message):
    """MMonGetVersionReply: the range of versions that the monitors have."""

    TYPE = MessageType.MON_GET_VERSION_REPLY

    handle: U64
    version: U64
    oldest: U64


@dataclass(slots=True)
class Paxos(Record):
    """The head of PaxosServiceMessage; all unused."""

    version: U64 = 0
    monitor: S16 = -1
    tid: U64 = 0


@dataclass(slots=True)
class MonCommand(Message):
    """MMonCommand: a command as JSON; its input, where it has one, is the data segment."""

    TYPE = MessageType.MON_COMMAND

    paxos: Paxos
    fsid: Fsid
    words: list[str]


@dataclass(slots=True)
class MonCommandAck(Message):
    """MMonCommandAck: the result and a line for a person; the output is the data segment."""

    TYPE = MessageType.MON_COMMAND_ACK

    paxos: Paxos
    result: S32
    status: str
    words: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Statfs(Message):
    """MStatfs: a question for how full the cluster or a pool is."""

    TYPE = MessageType.STATFS
    VERSION = 2

    paxos: Paxos
    fsid: Fsid
    has_pool: bool
    pool: S64


@dataclass(slots=True)
class StatfsReply(Message):
    """MStatfsReply; of a pool: what its users wrote and can still write, after replication."""

    TYPE = MessageType.STATFS_REPLY

    fsid: Fsid
    version: U64
    total_kib: U64
    used_kib: U64
    available_kib: U64
    objects: U64


class PoolOpCode(IntEnum):
    """POOL_OP_*."""

    DELETE = 0x02
    CREATE_UNMANAGED_SNAP = 0x21
    DELETE_UNMANAGED_SNAP = 0x22


@dataclass(slots=True)
class PoolOp(Message):
    """MPoolOp: change a pool."""

    TYPE = MessageType.POOL_OP
    VERSION = 4
    COMPAT = 2

    paxos: Paxos
    fsid: Fsid
    pool: U32
    code: U32
    auid: U64 = 0
    snap_id: U64 = 0
    name: str = ""
    pad: U8 = 0
    crush_rule: S16 = 0


@dataclass(slots=True)
class PoolOpReply(Message):
    """MPoolOpReply: the result, the epoch of the map that shows it, and a value where the op makes one."""

    TYPE = MessageType.POOL_OP_REPLY

    paxos: Paxos
    fsid: Fsid
    result: S32
    epoch: U32
    value: bytes | None

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read one."""
        paxos, fsid = Paxos.decode(cursor), bytes(cursor.take(16))
        return cls(paxos, fsid, cursor.s32(), cursor.u32(), cursor.blob() if cursor.u8() else None)

    def encode(self, out: bytearray) -> None:
        """Append one."""
        self.paxos.encode(out)
        out += self.fsid + self.result.to_bytes(4, "little", signed=True) + self.epoch.to_bytes(4, "little")
        out.append(self.value is not None)
        if self.value is not None:
            out += len(self.value).to_bytes(4, "little") + self.value


# Between client and OSD.


@dataclass(slots=True)
class SpgId(Record, version=1):
    """spg_t: a placement group, and in an erasure-coded pool the shard of it that is addressed."""

    pg_version: U8
    pool: U64
    seed: U32
    preferred: S32
    shard: S8


class BackoffCode(IntEnum):
    """CEPH_OSD_BACKOFF_OP_*."""

    BLOCK = 1
    ACK_BLOCK = 2
    UNBLOCK = 3


@dataclass(slots=True)
class OSDBackoff(Message):
    """MOSDBackoff: send nothing for the objects from `begin` to `end` of this PG; or: send them again."""

    TYPE = MessageType.OSD_BACKOFF

    pg: SpgId
    epoch: U32
    code: U8
    id: U64
    begin: HObject
    end: HObject


class WatchOpcode(IntEnum):
    """CEPH_WATCH_EVENT_*."""

    NOTIFY = 1
    NOTIFY_COMPLETE = 2
    DISCONNECT = 3


@dataclass(slots=True)
class WatchNotify(Message):
    """MWatchNotify: somebody notifies; or our notify is complete, with the replies as data; or a watch is gone."""

    TYPE = MessageType.WATCH_NOTIFY
    VERSION = 3

    format: U8
    opcode: U8
    cookie: U64
    version: U64
    notify_id: U64
    payload: bytes
    return_code: S32
    notifier: U64


class NotifyResult(NamedTuple):
    """The data of a NOTIFY_COMPLETE: who answered what, and who did not; a watcher is (global id, cookie)."""

    acks: dict[tuple[int, int], bytes]
    timeouts: list[tuple[int, int]]

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> "NotifyResult":
        """Decode; an old OSD sends nothing where nobody watches."""
        if not len(data):
            return cls({}, [])
        cursor = Cursor(data)
        acks: dict[tuple[int, int], bytes] = {}
        for _ in range(cursor.count()):
            watcher = (cursor.u64(), cursor.u64())
            acks[watcher] = cursor.blob()
        return cls(acks, [(cursor.u64(), cursor.u64()) for _ in range(cursor.count())])


def check_fsid(found: bytes, expected: bytes) -> None:
    """Refuse a message that another cluster meant for its own clients."""
    if found != expected:
        raise WireError(f"message of cluster {found.hex()} on a session with {expected.hex()}")
