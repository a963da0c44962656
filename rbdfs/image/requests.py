"""Operations that only the owner of the exclusive lock may carry out: done here, or asked of the owner, or served.

Each request has a number of its own, so that the owner does it once however often it is asked; the owner answers at
once, tells how far it is, and says at the end how it went (`cls/notify.py`).
"""

import errno
import itertools
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from rbdfs.cls.notify import (
    NO_REQUEST,
    AsyncComplete,
    AsyncProgress,
    AsyncRequestId,
    Message,
    Response,
    owner_result,
)
from rbdfs.errors import RbdfsError, from_result
from rbdfs.image.core import ImageCore
from rbdfs.image.header_watch import Answer
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.image.serving import SERVANTS, Serve

_SILENCE_SECONDS = 30.0  # librbd: rbd_request_timed_out_seconds
_RETRY_SECONDS = 0.5
_PROGRESS_SECONDS = 1.0
_REMEMBERED = 128  # requests whose result we still know when they are asked again

_AGAIN = {-errno.ETIMEDOUT, -errno.ERESTART, -errno.EAGAIN}  # the lock moved, or its owner is busy


@dataclass(slots=True)
class _Asked:
    """A request that we made."""

    on_progress: OnProgress
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    result: int | None = None

    def heard(self) -> None:
        """The owner is alive."""
        self.scope.deadline = trio.current_time() + _SILENCE_SECONDS


class Requests:
    """The requests of one open image, in both directions."""

    def __init__(self, image: ImageCore) -> None:
        self._image = image
        self._numbers = itertools.count(1)
        self._asked: dict[AsyncRequestId, _Asked] = {}
        self._serving: set[AsyncRequestId] = set()
        self._served: OrderedDict[AsyncRequestId, int] = OrderedDict()

    # Our own.

    async def carry_out(
        self,
        make_message: Callable[[AsyncRequestId], Message],
        here: Callable[[OnProgress], Awaitable[None]],
        on_progress: OnProgress = quiet,
    ) -> None:
        """Do the work here, where we own the lock or can have it for nothing; else ask its owner to."""
        image = self._image
        request: AsyncRequestId | None = None
        while True:
            lock = image.lock
            if request is not None and request in self._served:  # it was done, and we heard of it late
                if (result := self._served[request]) < 0:
                    raise self._refusal(result)
                await image.refresh()
                return
            if lock is None or lock.is_owner or await lock.acquire(ask_holder=False):
                if await self._try_here(here, on_progress):
                    return
            else:
                if request is None:
                    request = AsyncRequestId(await image.watcher.client_id(), next(self._numbers))
                if await self._ask(request, make_message(request), on_progress):
                    await image.refresh()
                    return

    async def _try_here(self, here: Callable[[OnProgress], Awaitable[None]], on_progress: OnProgress) -> bool:
        image = self._image
        async with image.maintenance:
            if image.lock is not None and not image.lock.is_owner:
                return False  # it was handed over while we waited
            await image.prepare_writes()
            await here(on_progress)
            return True

    async def _ask(self, request: AsyncRequestId, message: Message, on_progress: OnProgress) -> bool:
        """Ask the lock owner; False where there is none that can do it now."""
        asked = self._asked[request] = _Asked(on_progress)
        try:
            reply = await self._image.watcher.notify(message)
            result = asked.result if asked.result is not None else owner_result(reply.acks.values())
            if result == 0 and asked.result is None:
                asked.heard()
                with asked.scope:
                    await trio.sleep_forever()
                result = asked.result
            if result is None or result in _AGAIN:
                await trio.sleep(_RETRY_SECONDS)
                return False
            if result < 0:
                raise self._refusal(result)
            return True
        finally:
            del self._asked[request]

    def _refusal(self, result: int) -> RbdfsError:
        why = os.strerror(-result).lower()
        return from_result(result, f"{self._image.what}: the owner of the exclusive lock refused: {why}")

    def on_news(self, message: AsyncProgress | AsyncComplete) -> None:
        """The owner tells how a request goes."""
        asked = self._asked.get(message.request)
        if asked is None:
            if isinstance(message, AsyncComplete):  # another's, or ours come late: it may be asked for again
                self._remember(message.request, message.result)
        elif isinstance(message, AsyncProgress):
            asked.heard()
            asked.on_progress(message.offset, message.total)
        else:
            asked.result = message.result
            asked.scope.cancel()

    # Those of others.

    def on_request(self, message: Message, answer: Answer) -> None:
        """Another client asks us, who own the lock."""
        serve = SERVANTS.get(type(message))
        request: AsyncRequestId = getattr(message, "request", NO_REQUEST)
        if serve is None:
            answer(Response(-errno.EOPNOTSUPP).to_bytes())
        elif self._image.watcher.is_self(request.client):
            answer(Response(-errno.ERESTART).to_bytes())
        elif request in self._served:
            result = self._served[request]
            answer(Response(result).to_bytes())
            if result == 0:  # that it is done was told before, and not heard
                self._image.watcher.tell_soon(AsyncComplete(request, result))
        elif request in self._serving:
            answer(Response(0).to_bytes())
        elif self._image.lock is not None and not self._image.lock.accepts_requests:
            answer()  # the next owner gets it, when it is asked again (librbd: accept_request)
        elif request == NO_REQUEST:  # of an old client, which waits for the answer itself
            self._image.nursery.start_soon(self._run_and_answer, serve, message, answer)
        else:
            answer(Response(0).to_bytes())
            self._serving.add(request)
            self._image.nursery.start_soon(self._run_and_tell, serve, message, request)

    def _remember(self, request: AsyncRequestId, result: int) -> None:
        if result not in _AGAIN:
            self._served[request] = result
            while len(self._served) > _REMEMBERED:
                self._served.popitem(last=False)

    async def _run(self, serve: Serve, message: Message, on_progress: OnProgress) -> int:
        image = self._image
        try:
            async with image.maintenance:
                if image.lock is None or not image.lock.is_owner:
                    return -errno.ERESTART
                await serve(image, message, on_progress)
        except RbdfsError as err:
            return -err.errno
        return 0

    async def _run_and_answer(self, serve: Serve, message: Message, answer: Answer) -> None:
        answer(Response(await self._run(serve, message, quiet)).to_bytes())

    async def _run_and_tell(self, serve: Serve, message: Message, request: AsyncRequestId) -> None:
        told = trio.current_time()

        def on_progress(done: int, total: int) -> None:
            nonlocal told
            if trio.current_time() - told >= _PROGRESS_SECONDS:
                told = trio.current_time()
                self._image.watcher.tell_soon(AsyncProgress(request, done, total))

        result = await self._run(serve, message, on_progress)
        self._serving.discard(request)
        self._remember(request, result)
        self._image.watcher.tell_soon(AsyncComplete(request, result))
