"""A local store as `rados.api`: the one entry is `open_store`.

A cluster has a backend: the engine itself where this process owns the store, else a connection to the process that
does. When an owner leaves in order, its clients carry on: one of them becomes the owner, and what was under way is
done there. When it dies, those that had nothing unflushed carry on, too; the others are told (StoreFailure), since
what they wrote may be lost.
"""

import itertools
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from rbdfs.errors import Blocklisted, Busy, PoolNotFound, RbdfsError, StoreFailure
from rbdfs.local import codec, store
from rbdfs.local.backend import Backend, Listing, Place
from rbdfs.local.check import CheckReport, check_files
from rbdfs.local.draft import MAX_OBJECT_SIZE
from rbdfs.local.engine import Client
from rbdfs.local.link import EndOfLink, Link
from rbdfs.local.owner import Lock, Owner, lock_holder
from rbdfs.local.remote import Remote
from rbdfs.local.server import Server
from rbdfs.local.session import Session
from rbdfs.rados.api import NotifyReply, OnComplete, Option, Outcome, PoolUsage, StoreProperties, WatchEvent, WatchLost
from rbdfs.rados.ops import PoolId, ReadOp, Reply, SnapId, WriteOp

_PROPERTIES = StoreProperties(
    durable_on_completion=False,
    clone_range=True,
    max_object_size=MAX_OBJECT_SIZE,
    max_write_size=MAX_OBJECT_SIZE,
    needs_alloc_hint=False,
)
_LIST_PAGE = 1000
_PATIENCE = 10.0  # seconds for an owner to come or to answer, where we come anew
_RETRY = 0.05  # seconds

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_store(path: Path | str, *, create: bool = False) -> AsyncIterator["LocalCluster"]:
    """Open the store in a directory, or attach to the process that has it open; `create` makes one where none is."""
    failure: BaseException | None = None
    cluster: LocalCluster | None = None
    ended = trio.Event()

    async def host(task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Run the cluster's tasks, and leave, in a task that a cancelled body, or Ctrl-C in it, does not touch."""
        nonlocal failure
        with trio.CancelScope() as shelter:
            async with trio.open_nursery() as services:
                task_status.started(services)
                if trio.current_effective_deadline() > -math.inf:  # else the body has been interrupted before it began
                    shelter.shield = True
                await ended.wait()
                if cluster is not None:
                    try:
                        await cluster.leave()
                    except RbdfsError as err:
                        failure = failure or err
                services.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        try:
            cluster = LocalCluster(Path(path), await nursery.start(host))
            await cluster.connect(create=create)
            yield cluster
        except BaseException as err:  # raised below, as it is: a nursery would wrap it in a group
            failure = err
        ended.set()
    if failure is not None:
        raise failure


async def check_store(path: Path | str) -> CheckReport:
    """Verify a store, whether a process owns it or it lies there as a crash has left it; changes nothing."""
    path = Path(path)
    store.require_store(path)
    lock = Lock.take(path)
    if lock is None:
        async with open_store(path) as cluster:
            return await cluster.backend.check()
    try:
        return await check_files(path)
    finally:
        lock.release()


class LocalCluster:
    """`rados.api.Cluster` on a local store. Made by `open_store`."""

    backend: Backend

    def __init__(self, path: Path, nursery: trio.Nursery) -> None:
        self._path = path
        self._nursery = nursery
        self._owner: Owner | None = None
        self._server: Server | None = None
        self._client: Client | None = None  # who this is, whoever owns the store
        self._fsid = ""
        self._cookies = itertools.count(1)
        self._leaving = False

    # Coming, staying and going.

    async def connect(self, *, create: bool) -> None:
        """Own the store, or attach to its owner."""
        if create:
            store.make_directory(self._path)
        else:
            store.require_store(self._path)
        reached = await self._reach(_PATIENCE)
        if isinstance(reached, Lock):
            self.backend = self._own(reached)
        else:
            remote = Remote(reached)
            self.backend = remote
            self._nursery.start_soon(self._attend, remote)
            self._nursery.start_soon(remote.ping)

    async def _reach(self, patience: float) -> Lock | Link:
        """The store's lock, or a link to the process that has it, after at most so many seconds; else Busy."""
        reason = "does not let anybody in"
        with trio.move_on_after(patience):
            while True:
                if (lock := Lock.take(self._path)) is not None:
                    return lock
                try:
                    link = Link.connect(self._path, store.SOCKET)
                except OSError:
                    await trio.sleep(_RETRY)  # it is just coming or going
                    continue
                reason = "does not answer"
                try:
                    await self._greet(link)
                except BaseException as err:
                    link.close()
                    if isinstance(err, EndOfLink):
                        continue
                    raise
                self._nursery.start_soon(link.run_sender)
                return link
        raise Busy(f"{self._path}: held by {lock_holder(self._path)}, which {reason}")

    async def _greet(self, link: Link) -> None:
        client = self._client
        link.send(
            lambda packer: [
                "hello",
                codec.PROTOCOL,
                client.instance_id if client else 0,
                client.address if client else "",
            ]
        )
        answer = await link.receive()
        if answer is None:
            raise EndOfLink
        kind, _, *rest = answer
        if kind != "reply":
            raise codec.unpack_error(rest)
        self._fsid, instance_id, address = rest[0]
        self._client = client or Client(instance_id, address)

    def _own(self, lock: Lock) -> Session:
        try:
            if not store.is_store(self._path):
                store.create_store(self._path)
            owner = Owner.open(self._path, lock, self._nursery)
        except BaseException:
            lock.release()
            raise
        self._owner = owner
        self._fsid = owner.engine.fsid
        self._client = self._client or owner.new_client()
        try:
            self._server = Server(owner)
        except RbdfsError as err:  # a filesystem without sockets: the store is ours alone
            log.warning("no other process can attach: %s", err)
        else:
            self._nursery.start_soon(self._server.run)
        return owner.session(self._client)

    async def _attend(self, remote: Remote) -> None:
        """Stay attached, to whoever owns the store, or own it."""
        while True:
            left_in_order = await remote.attend()
            if self._leaving:
                return
            if not left_in_order:
                remote.mourn()
                log.warning("%s: its owner died", self._path)
            if remote.failure is not None:
                remote.lose_watches()
                return
            try:
                reached = await self._reach(math.inf)  # an owner that goes, or comes after a crash, has its reasons
                session = self._own(reached) if isinstance(reached, Lock) else None
            except RbdfsError as err:
                log.error("%s: lost: %s", self._path, err)
                remote.give_up(StoreFailure(f"{self._path}: its owner has gone, and there is no other: {err}"))
                return
            if session is not None:
                remote.hand_over(session, self._nursery)
                self.backend = session
                remote.lose_watches()
                return
            assert isinstance(reached, Link)
            remote.attach(reached)
            remote.lose_watches()

    async def leave(self) -> None:
        """Flush and give the store up; those who are attached carry on without us."""
        if self._client is None:  # never got in
            return
        failure: RbdfsError | None = None
        if isinstance(self.backend, Remote):
            failure = self.backend.failure
            if failure is None and self.backend.has_unflushed:  # else an owner that does not run is nothing to wait for
                with suppress(Blocklisted):  # a fenced client has nothing to say any more
                    await self.backend.flush()  # this process may be the owner afterwards
        self._leaving = True
        if self._owner is not None:
            if self._server is not None:
                await self._server.close(self._close_owner)
            else:
                await self._close_owner()
        elif isinstance(self.backend, Remote):
            self.backend.close()
        if failure is not None:  # whoever waits for this process to end is told, too, that writes may be lost
            raise failure

    async def _close_owner(self) -> None:
        assert self._owner is not None
        self._identity.refusal = StoreFailure(f"{self._path}: the store has been closed")
        await self._owner.close()

    @property
    def properties(self) -> StoreProperties:
        """What differs between stores."""
        return _PROPERTIES

    @property
    def fsid(self) -> str:
        """The store's UUID."""
        return self._fsid

    @property
    def instance_id(self) -> int:
        """This client's number."""
        return self._identity.instance_id

    @property
    def address(self) -> str:
        """This client's address."""
        return self._identity.address

    @property
    def description(self) -> str:
        """The store, for a person."""
        return f"local store {self._path}"

    async def option(self, name: str) -> Option | None:
        """Nothing is configured for a local store."""
        return None

    async def open_pool(self, pool: str | PoolId, namespace: str = "") -> "LocalIoCtx":
        """A handle on a pool."""
        for number, name in (await self.backend.list_pools()).items():
            if pool in (number, name):
                return LocalIoCtx(self, number, name, namespace)
        raise PoolNotFound(f"pool {pool}: no such pool")

    async def list_pools(self) -> dict[PoolId, str]:
        """All pools."""
        return await self.backend.list_pools()

    async def create_pool(self, name: str) -> PoolId:
        """Make a pool."""
        return await self.backend.create_pool(name)

    async def remove_pool(self, name: str) -> None:
        """Remove a pool and all it holds."""
        await self.backend.remove_pool(name)

    async def blocklist(self, address: str, seconds: float = 3600) -> None:
        """Fence a client."""
        await self.backend.blocklist(address, seconds)

    @property
    def _identity(self) -> Client:
        assert self._client is not None
        return self._client

    def next_cookie(self) -> int:
        """A number for a watch."""
        return next(self._cookies)


class LocalIoCtx:
    """`rados.api.IoCtx` on a local store."""

    def __init__(self, cluster: LocalCluster, pool_id: PoolId, pool_name: str, namespace: str) -> None:
        self._cluster = cluster
        self._pool_name = pool_name
        self._place = Place(pool_id, namespace)

    @property
    def cluster(self) -> LocalCluster:
        """The cluster it belongs to."""
        return self._cluster

    @property
    def pool_id(self) -> PoolId:
        """The pool's id."""
        return self._place.pool

    @property
    def pool_name(self) -> str:
        """The pool's name when this handle was made."""
        return self._pool_name

    @property
    def namespace(self) -> str:
        """The namespace; the empty string is the default one."""
        return self._place.namespace

    def with_namespace(self, namespace: str) -> "LocalIoCtx":
        """The same pool, another namespace."""
        return LocalIoCtx(self._cluster, self.pool_id, self._pool_name, namespace)

    def submit(self, name: str, op: ReadOp | WriteOp, on_complete: OnComplete) -> None:
        """Do one op on one object."""
        self._cluster.backend.submit(self._place, name, op, on_complete)

    async def operate(self, name: str, op: ReadOp | WriteOp) -> Reply:
        """Do one op on one object, and wait; raises the op's error."""
        found: list[Outcome] = []
        done: trio.Event | None = None

        def on_complete(outcome: Outcome) -> None:
            found.append(outcome)
            if done is not None:
                done.set()

        self.submit(name, op, on_complete)
        if found:
            await trio.lowlevel.checkpoint()
        else:
            done = trio.Event()
            await done.wait()
        if isinstance(found[0], RbdfsError):
            raise found[0]
        return found[0]

    async def flush(self) -> None:
        """Make every write durable that completed before this call."""
        await self._cluster.backend.flush()

    async def list_objects(self, prefix: str = "", *, of_snapshots: bool = False) -> AsyncIterator[str]:
        """The names of the objects that exist now, or also of those that only snapshots see."""
        listing, more = Listing("", prefix, of_snapshots), True
        while more:
            names, more = await self._cluster.backend.list_page(self._place, listing, _LIST_PAGE)
            for name in names:
                yield name
            if names:
                listing = listing._replace(after=names[-1])

    async def create_snap_id(self) -> SnapId:
        """A new id for a self-managed snapshot."""
        return await self._cluster.backend.create_snap_id(self.pool_id)

    async def remove_snap_id(self, snap_id: SnapId) -> None:
        """Give the id up."""
        await self._cluster.backend.remove_snap_id(self.pool_id, snap_id)

    async def watch(self, name: str, on_event: Callable[[WatchEvent], None], seconds: int = 30) -> "LocalWatch":
        """Watch an object."""
        cookie = self._cluster.next_cookie()
        watch = LocalWatch(self._cluster, cookie, on_event)
        await self._cluster.backend.watch(self._place, name, cookie, watch.deliver, seconds)
        return watch

    async def notify(self, name: str, payload: bytes, seconds: float = 10.0) -> NotifyReply:
        """Tell all watchers of an object, and wait for their answers."""
        return await self._cluster.backend.notify(self._place, name, payload, seconds)

    async def allocated_bytes(self, prefix: str) -> int | None:
        """Bytes allocated by the heads of the objects whose name begins so."""
        return await self._cluster.backend.allocated_bytes(self._place, prefix)

    async def usage(self) -> PoolUsage:
        """What the pool holds and can still take."""
        return await self._cluster.backend.usage(self.pool_id)


class LocalWatch:
    """`rados.api.Watch` on a local store."""

    def __init__(self, cluster: LocalCluster, cookie: int, on_event: Callable[[WatchEvent], None]) -> None:
        self._cluster = cluster
        self._cookie = cookie
        self._on_event = on_event
        self._is_open = True

    @property
    def cookie(self) -> int:
        """The watch's number."""
        return self._cookie

    def deliver(self, event: WatchEvent) -> None:
        """Pass an event on, unless the watch is closed; none follows WatchLost."""
        if self._is_open:
            self._is_open = not isinstance(event, WatchLost)
            self._on_event(event)

    def acknowledge(self, notify_id: int, payload: bytes = b"") -> None:
        """Answer a NotifyEvent."""
        if self._is_open:
            self._cluster.backend.acknowledge(self._cookie, notify_id, payload)

    async def close(self) -> None:
        """End the watch."""
        self._is_open = False
        await self._cluster.backend.unwatch(self._cookie)
