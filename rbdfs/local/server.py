"""The owner's side of the socket: attached processes come in, each gets a session on the engine.

A client greets (`hello`), then asks: a method, a number, arguments. Back come replies and errors by number, events of
its watches, and at the end `goodbye`: what it has no answer to by then was not applied, and it asks the next owner.
"""

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio

from rbdfs.errors import NotSupported, ProtocolError, RbdfsError, StoreFailure
from rbdfs.local import codec, store
from rbdfs.local.backend import Listing, Place
from rbdfs.local.engine import Client
from rbdfs.local.link import Link, short_address
from rbdfs.local.owner import Owner
from rbdfs.local.session import Session
from rbdfs.rados.api import NotifyEvent, Outcome, WatchEvent
from rbdfs.rados.ops import PoolId, Reply, SnapId

log = logging.getLogger(__name__)

_BACKLOG = 64
_NOT_YET = {errno.EAGAIN, errno.ECONNABORTED}
_RETRY = 0.5  # seconds; out of descriptors, for instance
_FAREWELL = 2.0  # seconds for a client to take what is left for it


class Server:
    """The socket of a store, and whoever is attached."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._seats: set[Seat] = set()
        self._path = owner.path / store.SOCKET
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._scope = trio.CancelScope()
        self._is_closing = False
        try:
            self._path.unlink(missing_ok=True)  # of an owner that died: we have the lock
            with short_address(owner.path, store.SOCKET) as address:
                self._listener.bind(address)
            self._path.chmod(0o600)
            self._listener.listen(_BACKLOG)
        except OSError as err:
            self._listener.close()
            raise store.from_os_error(self._path, err) from err

    async def run(self) -> None:
        """Let processes in, until `close`."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.lowlevel.wait_readable(self._listener)
                    try:
                        connected, _ = self._listener.accept()
                    except OSError as err:
                        if err.errno not in _NOT_YET:
                            log.warning("no other process can attach for now: %s", err)
                            await trio.sleep(_RETRY)
                        continue
                    nursery.start_soon(self._serve, Link(connected))

    async def _serve(self, link: Link) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run_sender)
            try:
                seat = await self._greet(link)
                if seat is not None:
                    self._seats.add(seat)
                    try:
                        await seat.run()
                    finally:
                        self._seats.discard(seat)
                        seat.session.close()
            except ProtocolError as err:
                log.warning("an attached process is dropped: %s", err)
            except Exception:
                log.exception("an attached process is dropped")
            with trio.move_on_after(_FAREWELL):
                await link.drain()
            link.close()
            nursery.cancel_scope.cancel()

    async def _greet(self, link: Link) -> "Seat | None":
        """Answer a client's hello; None where it does not come, comes too late, or speaks another version."""
        hello = await link.receive()
        if hello is None or self._is_closing:
            return None
        owner = self._owner
        if hello[0] != "hello":
            raise ProtocolError(f"{hello[0]!r} instead of hello")
        _, protocol, instance_id, address = hello
        if protocol != codec.PROTOCOL:
            error = NotSupported(f"{owner.path}: its owner speaks version {codec.PROTOCOL}, not {protocol}")
            link.send(lambda packer: ["error", 0, *codec.pack_error(error)])
            return None
        client = Client(instance_id, address) if instance_id else owner.new_client()
        client.process = link.peer
        link.send(lambda packer: ["reply", 0, [owner.engine.fsid, client.instance_id, client.address]])
        return Seat(link, owner.session(client))

    async def close(self, close_owner: Callable[[], Awaitable[None]]) -> None:
        """Let nobody in, finish what is under way, close the owner, and say goodbye.

        Whoever is not told goodbye takes it that what was not flushed is lost: as it is where closing failed.
        """
        self._is_closing = True  # whoever has not been greeted yet gets no seat: nothing is applied from here on
        with suppress(OSError):  # else the next owner removes it; what is here must be made durable
            self._path.unlink(missing_ok=True)
        for seat in self._seats:
            seat.stop()
        for seat in list(self._seats):
            await seat.stopped.wait()
        try:
            await close_owner()
            for seat in self._seats:
                seat.say_goodbye()
        finally:
            with trio.move_on_after(_FAREWELL):
                for seat in list(self._seats):
                    await seat.link.drain()
            self._scope.cancel()
            self._listener.close()
            for seat in list(self._seats):
                seat.link.close()


class Seat:
    """An attached process: its link and its session."""

    def __init__(self, link: Link, session: Session) -> None:
        self.link = link
        self.session = session
        self.stopped = trio.Event()  # nothing of this client is applied any more
        self._receiving = trio.CancelScope()
        self._notifying: set[trio.CancelScope] = set()

    async def run(self) -> None:
        """Serve until the client leaves, or until `say_goodbye`."""
        try:
            async with trio.open_nursery() as nursery:
                with self._receiving:
                    while (fields := await self.link.receive()) is not None:
                        self.session.client.heard = trio.current_time()
                        self._dispatch(fields, nursery)
                    self._stop_notifying()  # the client is gone: no answer is of use
        finally:
            self.stopped.set()
        if self._receiving.cancelled_caught:
            await trio.sleep_forever()  # until the server closes

    def stop(self) -> None:
        """Take no more requests; those under way are finished, but for notifies."""
        self._receiving.cancel()
        self._stop_notifying()

    def _stop_notifying(self) -> None:
        for scope in self._notifying:
            scope.cancel()

    def say_goodbye(self) -> None:
        """Tell the client that it is on its own."""
        self.link.send(lambda packer: ["goodbye"])

    def _dispatch(self, fields: list[Any], nursery: trio.Nursery) -> None:
        method, number, *arguments = fields
        if method == "op":
            place, name, op = codec.unpack_op(arguments)
            self.session.submit(place, name, op, lambda outcome: self._answer(number, outcome))
        elif method == "acknowledge":
            self.session.acknowledge(*arguments)
        elif method != "ping":
            request = _REQUESTS.get(method)
            if request is None:
                raise ProtocolError(f"unknown request {method!r}")
            nursery.start_soon(self._carry_out, request, number, arguments)

    def _answer(self, number: int, outcome: Outcome) -> None:
        if isinstance(outcome, Reply):
            reply = outcome
            self.link.send(lambda packer: ["reply", number, reply.version, packer.bulk(reply.outputs)])
        else:
            error = outcome
            self.link.send(lambda packer: ["error", number, *codec.pack_error(error)])

    async def _carry_out(self, request: "Request", number: int, arguments: list[Any]) -> None:
        try:
            if request is _notify:
                scope = trio.CancelScope()
                self._notifying.add(scope)
                with scope:  # one that is cut off here is asked of the next owner
                    value = await request(self, *arguments)
                self._notifying.discard(scope)
                if scope.cancelled_caught:
                    return
            else:
                value = await request(self, *arguments)
        except RbdfsError as err:
            error: RbdfsError = err
        except Exception:
            log.exception("request of an attached process")
            error = StoreFailure("internal error, see the owner's log")
        else:
            self.link.send(lambda packer: ["reply", number, value])
            return
        self.link.send(lambda packer: ["error", number, *codec.pack_error(error)])

    def deliver(self, cookie: int, event: WatchEvent) -> None:
        """Pass an event of a watch on."""
        if isinstance(event, NotifyEvent):
            self.link.send(lambda packer: ["notified", cookie, *event])
        else:
            self.link.send(lambda packer: ["lost", cookie, *codec.pack_error(event.error)])


Request = Callable[..., Awaitable[Any]]


async def _watch(seat: Seat, pool: int, namespace: str, name: str, cookie: int, seconds: int) -> None:
    place = Place(PoolId(pool), namespace)
    await seat.session.watch(place, name, cookie, lambda event: seat.deliver(cookie, event), seconds)


async def _notify(seat: Seat, pool: int, namespace: str, name: str, payload: bytes, seconds: float) -> Any:
    reply = await seat.session.notify(Place(PoolId(pool), namespace), name, bytes(payload), seconds)
    return [[[*watcher, answer] for watcher, answer in reply.acks.items()], reply.timeouts]


async def _list_page(
    seat: Seat, pool: int, namespace: str, after: str, prefix: str, of_snapshots: bool, limit: int
) -> Any:
    listing = Listing(after, prefix, of_snapshots)
    return await seat.session.list_page(Place(PoolId(pool), namespace), listing, limit)


async def _allocated_bytes(seat: Seat, pool: int, namespace: str, prefix: str) -> int:
    return await seat.session.allocated_bytes(Place(PoolId(pool), namespace), prefix)


async def _list_pools(seat: Seat) -> Any:
    return list((await seat.session.list_pools()).items())


async def _remove_snap_id(seat: Seat, pool: int, snap_id: int) -> None:
    await seat.session.remove_snap_id(PoolId(pool), SnapId(snap_id))


async def _check(seat: Seat) -> Any:
    report = await seat.session.check()
    return [report.findings, report.pools, report.objects, report.clones, report.blocks]


def _plain(method: Callable[..., Awaitable[Any]]) -> Request:
    """A request whose arguments and value go through as they are."""

    async def request(seat: Seat, *arguments: Any) -> Any:
        return await method(seat.session, *arguments)

    return request


_REQUESTS: dict[str, Request] = {
    "flush": _plain(Session.flush),
    "list_page": _list_page,
    "create_snap_id": _plain(Session.create_snap_id),
    "remove_snap_id": _remove_snap_id,
    "watch": _watch,
    "unwatch": _plain(Session.unwatch),
    "notify": _notify,
    "allocated_bytes": _allocated_bytes,
    "usage": _plain(Session.usage),
    "list_pools": _list_pools,
    "create_pool": _plain(Session.create_pool),
    "remove_pool": _plain(Session.remove_pool),
    "blocklist": _plain(Session.blocklist),
    "check": _check,
}
