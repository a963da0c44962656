"""The watch on an image's header object: hear what other clients say, tell them, and never be deaf for long.

A watch that is lost is made anew, as soon as that works. Whoever owns this is told at once that we are deaf
(`on_deaf`), and makes up for what may have been said meanwhile once we hear again (`on_rewatch`). Every notify is
answered: with an empty payload, unless the receiver of the message takes the answer upon itself.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import trio

from rbdfs.cls.notify import ClientId, HeaderUpdate, Message, Unknown, decode_message
from rbdfs.errors import Blocklisted, NotFound, RbdfsError, WireError
from rbdfs.rados.api import IoCtx, NotifyEvent, NotifyReply, Watch, WatchEvent, WatchLost

NOTIFY_SECONDS = 5.0  # librbd: watcher::Notifier::NOTIFY_TIMEOUT
_FIRST_DELAY, _LAST_DELAY = 0.1, 5.0


class Answer(Protocol):
    """Answers a notify, once."""

    def __call__(self, payload: bytes = b"") -> None: ...


async def announce_update(ioctx: IoCtx, header: str) -> None:
    """Tell whoever has an image open that its header has changed; who does not hear it sees it when it matters."""
    with suppress(RbdfsError):  # the change itself stands
        await ioctx.notify(header, HeaderUpdate().to_bytes())


OnMessage = Callable[[Message | Unknown, NotifyEvent, Answer], None]


class HeaderWatch:
    """A watch on one object."""

    def __init__(
        self,
        ioctx: IoCtx,
        name: str,
        nursery: trio.Nursery,
        on_message: OnMessage,
        on_deaf: Callable[[], None],
        on_rewatch: Callable[[RbdfsError], Awaitable[None]],
    ) -> None:
        self._ioctx = ioctx
        self._name = name
        self._nursery = nursery
        self._on_message = on_message
        self._on_deaf = on_deaf
        self._on_rewatch = on_rewatch  # with the reason for the loss, or why there is none
        self._watch: Watch | None = None
        self._error: RbdfsError | None = None  # why there is no watch; None while one is being made
        self._is_rewatching = False
        self._is_closed = False
        self._tried = trio.Event()  # the next attempt at a watch has ended
        self._early: list[WatchEvent] = []  # came before the store gave us the watch

    async def open(self) -> None:
        """Begin to watch."""
        await self._begin()

    async def close(self) -> None:
        """End the watch; one that is being made ends when it stands."""
        self._is_closed = True
        watch, self._watch = self._watch, None
        if watch is not None:
            with suppress(RbdfsError):  # gone with its object, or lost: it ends by itself
                await watch.close()

    async def cookie(self) -> int:
        """The cookie of the watch; waits for one that is being made, raises why none can be."""
        while self._watch is None:
            if self._error is not None:
                raise self._error
            await self._tried.wait()
        return self._watch.cookie

    async def client_id(self) -> ClientId:
        """How other clients know us."""
        return ClientId(self._ioctx.cluster.instance_id, await self.cookie())

    def is_self(self, client: ClientId) -> bool:
        """Whether a message speaks of this very watch."""
        return (
            self._watch is not None
            and client.instance_id == self._ioctx.cluster.instance_id
            and client.handle == self._watch.cookie
        )

    def tell_soon(self, message: Message) -> None:
        """Tell all watchers, without waiting for that; whoever misses it finds out by itself."""
        self._nursery.start_soon(self._tell, message)

    async def _tell(self, message: Message) -> None:
        with suppress(RbdfsError):
            await self.notify(message)

    async def notify(self, message: Message) -> NotifyReply:
        """Tell all watchers, and wait for their answers."""
        return await self._ioctx.notify(self._name, message.to_bytes(), NOTIFY_SECONDS)

    async def _begin(self) -> None:
        self._early = []
        watch = await self._ioctx.watch(self._name, self._on_event)
        if self._is_closed:
            with trio.CancelScope(shield=True), trio.move_on_after(NOTIFY_SECONDS), suppress(RbdfsError):
                await watch.close()
            return
        self._watch, self._error = watch, None
        early, self._early = self._early, []
        for event in early:
            self._on_event(event)

    def _on_event(self, event: WatchEvent) -> None:
        watch = self._watch
        if watch is None:
            self._early.append(event)
        elif isinstance(event, WatchLost):
            self._watch = self._error = None
            self._on_deaf()
            if not self._is_rewatching:
                self._is_rewatching = True
                self._nursery.start_soon(self._rewatch, event.error)
        else:
            self._dispatch(watch, event)

    def _dispatch(self, watch: Watch, event: NotifyEvent) -> None:
        def answer(payload: bytes = b"") -> None:
            watch.acknowledge(event.notify_id, payload)

        try:
            message = decode_message(event.payload)
        except WireError:
            answer()
        else:
            self._on_message(message, event, answer)

    async def _rewatch(self, reason: RbdfsError) -> None:
        delay = _FIRST_DELAY
        while self._watch is None and not self._is_closed:
            try:
                await self._begin()
            except (NotFound, Blocklisted) as err:  # nothing to watch any more, or never again
                self._error = reason = err
            except RbdfsError as err:
                self._error = err
            self._tried.set()
            self._tried = trio.Event()
            if isinstance(self._error, (NotFound, Blocklisted)):
                break
            if self._error is not None:
                await trio.sleep(delay)
                delay = min(2 * delay, _LAST_DELAY)
        self._is_rewatching = False
        await self._on_rewatch(reason)
