"""The attached side of the socket: a `Backend` that asks the owner.

What is asked and not answered is kept, in order. When the owner leaves in order, none of that has been applied, and
all of it is asked again at the next one. When it dies, nobody knows: what would have changed something fails, and if
anything that was done is not flushed yet, so does everything from then on.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import trio

from rbdfs.errors import NotConnected, ProtocolError, RbdfsError, StoreFailure
from rbdfs.local import codec
from rbdfs.local.backend import Backend, Listing, Place
from rbdfs.local.check import CheckReport
from rbdfs.local.link import Link
from rbdfs.rados.api import NotifyEvent, NotifyReply, OnComplete, PoolUsage, WatchEvent, WatchLost
from rbdfs.rados.ops import PoolId, ReadOp, SnapId, WriteOp

log = logging.getLogger(__name__)

T = TypeVar("T")

PING_INTERVAL = 5.0  # seconds; keeps watches alive

_READ_ONLY = {"flush", "list_page", "allocated_bytes", "usage", "list_pools", "watch", "unwatch", "notify", "check"}


@dataclass(slots=True)
class _Op:
    """An op that is not answered yet."""

    place: Place
    name: str
    op: ReadOp | WriteOp
    on_complete: OnComplete

    @property
    def changes_something(self) -> bool:
        return isinstance(self.op, WriteOp)

    def send(self, link: Link, number: int) -> None:
        link.send(lambda packer: ["op", number, *codec.pack_op(packer, self.place, self.name, self.op)])

    def answer(self, fields: list[Any]) -> None:
        version, outputs = fields
        self.on_complete(codec.unpack_reply(self.op, version, outputs))

    def fail(self, error: RbdfsError) -> None:
        self.on_complete(error)

    def ask(self, backend: Backend, nursery: trio.Nursery) -> None:
        backend.submit(self.place, self.name, self.op, self.on_complete)


class _Question(Generic[T]):
    """Any other request that is not answered yet; `again` asks it of another backend, `decode` reads the answer."""

    def __init__(
        self,
        method: str,
        arguments: list[Any],
        again: Callable[[Backend], Awaitable[T]],
        decode: Callable[[Any], T],
    ) -> None:
        self._method = method
        self._arguments = arguments
        self._again = again
        self._decode = decode
        self._answered = trio.Event()
        self._values: list[T] = []
        self._error: RbdfsError | None = None

    @property
    def changes_something(self) -> bool:
        return self._method not in _READ_ONLY

    def send(self, link: Link, number: int) -> None:
        link.send(lambda packer: [self._method, number, *self._arguments])

    def answer(self, fields: list[Any]) -> None:
        self._values.append(self._decode(fields[0]))
        self._answered.set()

    def fail(self, error: RbdfsError) -> None:
        self._error = error
        self._answered.set()

    def ask(self, backend: Backend, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._ask, backend)

    async def _ask(self, backend: Backend) -> None:
        try:
            self._values.append(await self._again(backend))
        except RbdfsError as err:
            self._error = err
        self._answered.set()

    async def wait(self) -> T:
        await self._answered.wait()
        if self._error is not None:
            raise self._error
        return self._values[0]


class Remote:
    """A client's way to an engine in another process; see `Backend`."""

    def __init__(self, link: Link) -> None:
        self._link: Link | None = link
        self._pending: dict[int, _Op | _Question[Any]] = {}
        self._number = 0
        self._watches: dict[int, Callable[[WatchEvent], None]] = {}
        self._established: set[int] = set()  # the cookies that an owner knows
        self._done = 0  # writes that are answered
        self._flushed = 0  # of those, how many a flush has made durable
        self._pinging = trio.CancelScope()
        self.failure: RbdfsError | None = None  # for good

    # The link.

    async def attend(self) -> bool:
        """Take what the owner says until it is gone; True where it left in order."""
        link = self._link
        assert link is not None
        try:
            while (fields := await link.receive()) is not None:
                kind, *rest = fields
                if kind == "goodbye":
                    self._flushed = self._done  # it has closed the store, and so made all of it durable
                    return True
                _HANDLERS[kind](self, *rest)
        except (ProtocolError, KeyError, TypeError, ValueError) as err:
            log.error("the owner of the store said what is not understood: %r", err)
        finally:
            self._link = None
            link.close()
        return False

    async def ping(self) -> None:
        """Let the owner know that this process lives, until `stop_pinging`; have flushed what was left unflushed.

        The owner commits what nobody flushes, but does not tell; and where it dies, only what was flushed is known to
        be there.
        """
        seen = 0
        with self._pinging:
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.sleep(PING_INTERVAL)
                    if self._link is None:
                        continue
                    self._link.send(lambda packer: ["ping", 0])
                    if self._flushed < self._done == seen:
                        nursery.start_soon(self._flush_quietly)
                    seen = self._done

    def stop_pinging(self) -> None:
        """Fall silent: watches end in their time."""
        self._pinging.cancel()

    async def drain(self) -> None:
        """Wait until everything is sent."""
        if self._link is not None:
            await self._link.drain()

    def close(self) -> None:
        """Leave the owner."""
        if self._link is not None:
            self._link.close()

    def _reply(self, number: int, *fields: Any) -> None:
        waiting = self._pending.pop(number)
        if waiting.changes_something:
            self._done += 1
        waiting.answer(list(fields))

    def _error(self, number: int, *fields: Any) -> None:
        self._pending.pop(number).fail(codec.unpack_error(list(fields)))

    def _notified(self, cookie: int, notify_id: int, notifier: int, payload: bytes) -> None:
        if (on_event := self._watches.get(cookie)) is not None:
            on_event(NotifyEvent(notify_id, notifier, bytes(payload)))

    def _lost(self, cookie: int, *fields: Any) -> None:
        self._established.discard(cookie)
        if (on_event := self._watches.pop(cookie, None)) is not None:
            on_event(WatchLost(codec.unpack_error(list(fields))))

    # When the owner is gone.

    def mourn(self) -> None:
        """The owner died: fail what may have been lost, and everything where something done was."""
        death = StoreFailure("the process that owned the store died")
        if self._done > self._flushed:
            self.failure = StoreFailure(
                "the process that owned the store died, and writes since the last flush may be lost"
            )
        for number, waiting in list(self._pending.items()):
            if waiting.changes_something or self.failure is not None:
                del self._pending[number]
                waiting.fail(self.failure or death)

    def give_up(self, error: RbdfsError) -> None:
        """There is no owner any more: fail what is not answered, and everything from now on."""
        self.failure = error
        pending, self._pending = self._pending, {}
        for waiting in pending.values():
            waiting.fail(error)
        self.lose_watches()

    def lose_watches(self) -> None:
        """Watches do not move to another owner: tell whoever watches."""
        lost, self._established = self._established, set()
        for cookie in sorted(lost):
            self._watches.pop(cookie)(WatchLost(NotConnected("the process that owned the store has gone")))

    def attach(self, link: Link) -> None:
        """Another owner: ask it what is not answered."""
        self._link = link
        for number, waiting in self._pending.items():
            waiting.send(link, number)

    def hand_over(self, backend: Backend, nursery: trio.Nursery) -> None:
        """This process owns the store now: carry out what is not answered, in order.

        Until this returns, whatever is submitted comes here: what an answer leads to is carried out behind the rest.
        """
        while self._pending:
            pending, self._pending = self._pending, {}
            for waiting in pending.values():
                waiting.ask(backend, nursery)

    # Asking.

    def _add(self, waiting: "_Op | _Question[Any]") -> None:
        if self.failure is not None:
            waiting.fail(self.failure)
            return
        self._number += 1
        self._pending[self._number] = waiting
        if self._link is not None:
            waiting.send(self._link, self._number)

    async def _ask(
        self,
        method: str,
        arguments: list[Any],
        again: Callable[[Backend], Awaitable[T]],
        decode: Callable[[Any], T],
    ) -> T:
        question = _Question(method, arguments, again, decode)
        self._add(question)
        return await question.wait()

    def submit(self, place: Place, name: str, op: ReadOp | WriteOp, on_complete: OnComplete) -> None:
        """Do one op on one object."""
        self._add(_Op(place, name, op, on_complete))

    async def flush(self) -> None:
        """Make durable what has completed."""
        done = self._done
        await self._ask("flush", [], lambda backend: backend.flush(), _nothing)
        self._flushed = max(self._flushed, done)

    @property
    def has_unflushed(self) -> bool:
        """Whether this client has changed something, or is changing it, that no flush has made durable."""
        return self._done > self._flushed or any(waiting.changes_something for waiting in self._pending.values())

    async def _flush_quietly(self) -> None:
        with suppress(RbdfsError):  # whoever cares meets it, too
            await self.flush()

    async def list_page(self, place: Place, listing: Listing, limit: int) -> tuple[list[str], bool]:
        """Names of objects, and whether there are more."""
        return await self._ask(
            "list_page",
            [*place, *listing, limit],
            lambda backend: backend.list_page(place, listing, limit),
            lambda value: (value[0], value[1]),
        )

    async def create_snap_id(self, pool: PoolId) -> SnapId:
        """A new snap id."""
        return await self._ask("create_snap_id", [pool], lambda backend: backend.create_snap_id(pool), SnapId)

    async def remove_snap_id(self, pool: PoolId, snap_id: SnapId) -> None:
        """Give a snap id up."""
        await self._ask(
            "remove_snap_id", [pool, snap_id], lambda backend: backend.remove_snap_id(pool, snap_id), _nothing
        )

    async def watch(
        self, place: Place, name: str, cookie: int, on_event: Callable[[WatchEvent], None], seconds: int
    ) -> None:
        """Begin a watch."""

        def established(_value: Any) -> None:  # with the answer: the owner may leave before this task goes on
            self._established.add(cookie)

        self._watches[cookie] = on_event
        try:
            await self._ask(
                "watch",
                [*place, name, cookie, seconds],
                lambda backend: backend.watch(place, name, cookie, on_event, seconds),
                established,
            )
        except BaseException:
            self._established.discard(cookie)
            self._watches.pop(cookie, None)
            raise

    async def unwatch(self, cookie: int) -> None:
        """End a watch."""
        self._established.discard(cookie)
        if self._watches.pop(cookie, None) is not None:
            await self._ask("unwatch", [cookie], lambda backend: backend.unwatch(cookie), _nothing)

    def acknowledge(self, cookie: int, notify_id: int, payload: bytes) -> None:
        """Answer a notify."""
        if self._link is not None:
            self._link.send(lambda packer: ["acknowledge", 0, cookie, notify_id, payload])

    async def notify(self, place: Place, name: str, payload: bytes, seconds: float) -> NotifyReply:
        """Tell the watchers of an object."""
        return await self._ask(
            "notify",
            [*place, name, payload, seconds],
            lambda backend: backend.notify(place, name, payload, seconds),
            _notify_reply,
        )

    async def allocated_bytes(self, place: Place, prefix: str) -> int:
        """Bytes allocated by the heads whose names begin so."""
        return await self._ask(
            "allocated_bytes", [*place, prefix], lambda backend: backend.allocated_bytes(place, prefix), int
        )

    async def usage(self, pool: PoolId) -> PoolUsage:
        """What the pool holds."""
        return await self._ask("usage", [pool], lambda backend: backend.usage(pool), lambda value: PoolUsage(*value))

    async def list_pools(self) -> dict[PoolId, str]:
        """All pools."""
        return await self._ask("list_pools", [], lambda backend: backend.list_pools(), dict)

    async def create_pool(self, name: str) -> PoolId:
        """Make a pool."""
        return await self._ask("create_pool", [name], lambda backend: backend.create_pool(name), PoolId)

    async def remove_pool(self, name: str) -> None:
        """Remove a pool."""
        await self._ask("remove_pool", [name], lambda backend: backend.remove_pool(name), _nothing)

    async def blocklist(self, address: str, seconds: float) -> None:
        """Fence a client."""
        await self._ask("blocklist", [address, seconds], lambda backend: backend.blocklist(address, seconds), _nothing)

    async def check(self) -> CheckReport:
        """Verify the whole store."""
        return await self._ask("check", [], lambda backend: backend.check(), lambda value: CheckReport(*value))


def _nothing(value: Any) -> None:
    return None


def _notify_reply(value: Any) -> NotifyReply:
    acks, timeouts = value
    return NotifyReply(
        {(instance, cookie): bytes(answer) for instance, cookie, answer in acks},
        [(instance, cookie) for instance, cookie in timeouts],
    )


_HANDLERS: dict[str, Callable[..., None]] = {
    "reply": Remote._reply,
    "error": Remote._error,
    "notified": Remote._notified,
    "lost": Remote._lost,
}
