"""What clients of an image tell each other by notify on its header object (`librbd/WatchNotifyTypes.h`).

A message is an envelope { u32 code, the fields of that code }; what a version added is marked at the field. Version 7
is what Ceph 16.2 to 20.2 send. An empty payload means HeaderUpdate: old clients and krbd send it so.

Every watcher answers every message: with an empty payload, or, where it owns the exclusive lock and was asked for
something, with `Response(result)`. A request that only the lock owner can carry out has an AsyncRequestId. The owner
answers it at once with result 0 and, when the work is done, notifies AsyncComplete with that id; AsyncProgress, in
between, says that it is alive. The owner answers a snapshot, rename or feature request of version 6 or older, which
has no id, with the result itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rbdfs.cls.rbd_types import USER, SnapNamespace
from rbdfs.errors import WireError
from rbdfs.wire import S32, U64, Buffer, Cursor, Record, envelope, since

VERSION = 7


@dataclass(slots=True, frozen=True)
class ClientId(Record):
    """A client that has the image open: its instance id, and the cookie of its watch."""

    instance_id: U64 = 0
    handle: U64 = 0


@dataclass(slots=True, frozen=True)
class AsyncRequestId(Record):
    """A request to the lock owner: who asks, and that client's own number for it."""

    client: ClientId = field(default_factory=ClientId)
    number: U64 = 0


NO_CLIENT = ClientId()
NO_REQUEST = AsyncRequestId()


class Message(Record):
    """What all messages share: `CODE`, and its place in front of the fields."""

    __slots__ = ()
    CODE: ClassVar[int]

    def __init_subclass__(cls, code: int = -1, **kwargs: Any) -> None:
        super().__init_subclass__(version=VERSION, compat=1, **kwargs)
        if code >= 0:
            cls.CODE = code
        if "CODE" in cls.__dict__:  # dataclass(slots=True) makes the class a second time: the latter counts
            _MESSAGES[cls.CODE] = cls

    def encode(self, out: bytearray) -> None:
        """Append the encoding to `out`."""
        with envelope(out, VERSION, 1):
            out += self.CODE.to_bytes(4, "little")
            self.encode_fields(out)


_MESSAGES: dict[int, type[Message]] = {}


@dataclass(slots=True)
class AcquiredLock(Message, code=0):
    """I own the exclusive lock now."""

    client: ClientId = since(2, default=NO_CLIENT)


@dataclass(slots=True)
class ReleasedLock(Message, code=1):
    """I no longer own the exclusive lock."""

    client: ClientId = since(2, default=NO_CLIENT)


@dataclass(slots=True)
class RequestLock(Message, code=2):
    """I want the exclusive lock; the owner answers 0 and gives it up when it can, or says why not."""

    client: ClientId = since(2, default=NO_CLIENT)
    force: bool = since(3, default=False)


@dataclass(slots=True)
class HeaderUpdate(Message, code=3):
    """The header has changed: read it again."""


@dataclass(slots=True)
class AsyncProgress(Message, code=4):
    """A request is under way: `offset` of `total` is done."""

    request: AsyncRequestId
    offset: U64
    total: U64


@dataclass(slots=True)
class AsyncComplete(Message, code=5):
    """A request is done: 0, or a negative errno."""

    request: AsyncRequestId
    result: S32


@dataclass(slots=True)
class Flatten(Message, code=6):
    """Copy all from the parent, and cut the tie."""

    request: AsyncRequestId


@dataclass(slots=True)
class Resize(Message, code=7):
    """Change the size."""

    size: U64
    request: AsyncRequestId
    allow_shrink: bool = since(4, default=True)


@dataclass(slots=True)
class SnapCreate(Message, code=8):
    """Create a snapshot."""

    snap_name: str
    namespace: SnapNamespace = since(5, default=USER)
    request: AsyncRequestId = since(7, default=NO_REQUEST)
    flags: U64 = since(7, default=0)  # 1: no quiesce, 2: ignore errors of the quiesce


@dataclass(slots=True)
class SnapRemove(Message, code=9):
    """Remove a snapshot."""

    snap_name: str
    namespace: SnapNamespace = since(6, default=USER)
    request: AsyncRequestId = since(7, default=NO_REQUEST)


@dataclass(slots=True)
class RebuildObjectMap(Message, code=10):
    """Make the object map anew."""

    request: AsyncRequestId


@dataclass(slots=True)
class SnapRename(Message, code=11):
    """Rename a snapshot."""

    snap_id: U64
    new_name: str
    namespace: SnapNamespace = since(6, default=USER)
    request: AsyncRequestId = since(7, default=NO_REQUEST)


@dataclass(slots=True)
class SnapProtect(Message, code=12):
    """Protect a snapshot from removal."""

    snap_name: str
    namespace: SnapNamespace = since(6, default=USER)
    request: AsyncRequestId = since(7, default=NO_REQUEST)


@dataclass(slots=True)
class SnapUnprotect(Message, code=13):
    """Allow a snapshot to be removed."""

    snap_name: str
    namespace: SnapNamespace = since(6, default=USER)
    request: AsyncRequestId = since(7, default=NO_REQUEST)


@dataclass(slots=True)
class Rename(Message, code=14):
    """Rename the image."""

    image_name: str
    request: AsyncRequestId = since(7, default=NO_REQUEST)


@dataclass(slots=True)
class UpdateFeatures(Message, code=15):
    """Turn features on or off."""

    features: U64
    enabled: bool
    request: AsyncRequestId = since(7, default=NO_REQUEST)


@dataclass(slots=True)
class Migrate(Message, code=16):
    """Copy all from the source of the migration."""

    request: AsyncRequestId


@dataclass(slots=True)
class Sparsify(Message, code=17):
    """Free what is zero in runs of that size."""

    request: AsyncRequestId
    sparse_size: U64


@dataclass(slots=True)
class Quiesce(Message, code=18):
    """A snapshot is about to be made: bring what uses the image to rest, and answer."""

    request: AsyncRequestId


@dataclass(slots=True)
class Unquiesce(Message, code=19):
    """The snapshot is made, or was given up: go on."""

    request: AsyncRequestId


@dataclass(slots=True)
class MetadataUpdate(Message, code=20):
    """Set a pair of image metadata, or remove it (None)."""

    key: str
    value: str | None
    request: AsyncRequestId = since(7, default=NO_REQUEST)


@dataclass(slots=True)
class Unknown:
    """A message of a newer client; its code says no more."""

    code: int


def decode_message(payload: Buffer) -> Message | Unknown:
    """Read what a client told; WireError where the bytes are no message."""
    if not len(payload):
        return HeaderUpdate()
    cursor = Cursor(payload)
    with cursor.envelope(VERSION, "notify") as version:
        code = cursor.u32()
        kind = _MESSAGES.get(code)
        return kind.decode_fields(cursor, version) if kind else Unknown(code)


@dataclass(slots=True)
class Response(Record, version=1, compat=1):
    """What the lock owner answers to a request: 0, or a negative errno."""

    result: S32


def decode_response(payload: Buffer) -> int | None:
    """The lock owner's answer among those of all watchers; None for the empty answer of any other."""
    return Response.from_bytes(payload).result if len(payload) else None


def owner_result(payloads: Iterable[Buffer]) -> int | None:
    """The answer of the lock owner, among those of all watchers; None where no owner answered."""
    for payload in payloads:
        try:
            result = decode_response(payload)
        except WireError:
            continue  # not the owner's: librbd looks further, too (`image_watcher::NotifyLockOwner`)
        if result is not None:
            return result
    return None
