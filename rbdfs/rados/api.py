"""The contract of an object store: what `local` and `ceph` implement and `image` relies on. No implementation.

The suite in tests/contract says the same in code, and every store passes it. Where stores may differ, the
difference is a stated property (`StoreProperties`), never an `if` on which store it is.

Hot path: `IoCtx.submit(name, op, on_complete)`. The callback is called exactly once, with a `Reply` or an error. It
may be called before `submit` returns (the local store, from the page cache) or later, from the store's own loop
(Ceph: the messenger's receive loop); always in the trio thread, and never inside a step of another op, so a
callback may submit. It must not raise and must not block. `operate` is the same, awaited. The data of a write stays
unchanged until both the callback was called and `submit` has returned.

What always holds:

- An op is atomic: all of its steps, or none.
- Ops of one client on one object apply in the order in which they were submitted.
- A completed write is seen by every later read of any client. It is durable when `flush` returns (at once, where
  `properties.durable_on_completion`); and what is durable is a prefix of the metadata changes, in order, so an
  object map that was updated before a write cannot miss what that write created.
- An op is never applied twice and never lost: it ends in a reply, in an error that says it was not applied, or
  (TimedOut, Blocklisted, StoreFailure) in one that leaves it open.
- Cancelling `operate` does not take the op back.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rbdfs.errors import RbdfsError
from rbdfs.rados.ops import PoolId, ReadOp, Reply, SnapId, WriteOp

Outcome = Reply | RbdfsError
OnComplete = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class StoreProperties:
    """What differs between stores."""

    durable_on_completion: bool  # flush has nothing to make durable
    clone_range: bool  # the CloneRange step works
    max_object_size: int  # bytes
    max_write_size: int  # bytes of data in one op
    needs_alloc_hint: bool  # SetAllocHint has an effect


class PoolUsage(NamedTuple):
    """Bytes used by this pool, bytes that can still be written to it (after replication), and its objects."""

    used: int
    available: int
    objects: int


class NotifyEvent(NamedTuple):
    """Somebody notifies the watchers of an object; answer with `Watch.acknowledge(notify_id, payload)`."""

    notify_id: int
    notifier: int  # the sender's Cluster.instance_id
    payload: bytes


class WatchLost(NamedTuple):
    """The watch is gone, and notifications may have been missed; make a new one and look at the object again."""

    error: RbdfsError


WatchEvent = NotifyEvent | WatchLost


class NotifyReply(NamedTuple):
    """Who answered a notify, and who did not in time. A watcher is (instance id, cookie)."""

    acks: dict[tuple[int, int], bytes]
    timeouts: list[tuple[int, int]]


class Watch(Protocol):
    """A watch on an object, renewed by the store until `close`, or until the event WatchLost."""

    @property
    def cookie(self) -> int:
        """The watch's number, unique within this client."""

    def acknowledge(self, notify_id: int, payload: bytes = b"") -> None:
        """Answer a NotifyEvent."""

    async def close(self) -> None:
        """End the watch; no event comes afterwards."""


class IoCtx(Protocol):
    """A handle on one pool and namespace. Cheap, not a resource; valid as long as its cluster."""

    @property
    def cluster(self) -> "Cluster":
        """The cluster it belongs to."""

    @property
    def pool_id(self) -> PoolId:
        """The pool's id."""

    @property
    def pool_name(self) -> str:
        """The pool's name when this handle was made."""

    @property
    def namespace(self) -> str:
        """The namespace; the empty string is the default one."""

    def with_namespace(self, namespace: str) -> "IoCtx":
        """The same pool, another namespace."""

    def submit(self, name: str, op: ReadOp | WriteOp, on_complete: OnComplete) -> None:
        """Do one op on one object; see the head of this file."""

    async def operate(self, name: str, op: ReadOp | WriteOp) -> Reply:
        """Do one op on one object, and wait; raises the op's error."""

    async def flush(self) -> None:
        """Make every write durable that completed before this call; waits for those under way, too."""

    def list_objects(self, prefix: str = "", *, of_snapshots: bool = False) -> AsyncIterator[str]:
        """The names, of those that begin so, of the objects of this pool and namespace that exist now, in no order.

        With `of_snapshots`, also of those that are gone but for what snapshots see of them. A store may have to look at
        all objects of the pool, in namespaces and with beginnings of any kind.
        """

    async def create_snap_id(self) -> SnapId:
        """A new id for a self-managed snapshot, larger than any before."""

    async def remove_snap_id(self, snap_id: SnapId) -> None:
        """Give the id up; the store trims, in its own time, the clones that no other snapshot sees."""

    async def watch(self, name: str, on_event: Callable[[WatchEvent], None], seconds: int = 30) -> Watch:
        """Watch an object; events come as calls in the trio thread. NotFound where it does not exist.

        A client that falls silent for `seconds` loses the watch.
        """

    async def notify(self, name: str, payload: bytes, seconds: float = 10.0) -> NotifyReply:
        """Tell all watchers of an object (this client's too), and wait for their answers or `seconds`."""

    async def allocated_bytes(self, prefix: str) -> int | None:
        """Bytes allocated by the heads of the objects whose name begins so; None where only asking each could tell."""

    async def usage(self) -> PoolUsage:
        """What the pool holds and can still take."""


class Option(NamedTuple):
    """A value that whoever runs the store has configured, and where."""

    value: str
    source: str


class Cluster(Protocol):
    """A connection to a store."""

    @property
    def properties(self) -> StoreProperties:
        """What differs between stores."""

    @property
    def fsid(self) -> str:
        """The store's UUID."""

    @property
    def instance_id(self) -> int:
        """This client's global id: its entity is `client.<instance_id>`, unique among the living."""

    @property
    def address(self) -> str:
        """This client's address as watchers and locks show it: `127.0.0.1:0/40882352`."""

    @property
    def description(self) -> str:
        """The store, for a person: `local store /var/lib/rbdfs`, `Ceph cluster <fsid> at <monitors>`."""

    async def option(self, name: str) -> Option | None:
        """What is configured for clients by the name of an option of Ceph's, such as `rbd_default_order`."""

    async def open_pool(self, pool: str | PoolId, namespace: str = "") -> IoCtx:
        """A handle on a pool; NotFound where there is none."""

    async def list_pools(self) -> dict[PoolId, str]:
        """All pools."""

    async def create_pool(self, name: str) -> PoolId:
        """Make a pool; Exists where the name is taken."""

    async def remove_pool(self, name: str) -> None:
        """Remove a pool and all it holds."""

    async def blocklist(self, address: str, seconds: float = 3600) -> None:
        """Fence a client (by its `address`): none of its later ops is applied."""
