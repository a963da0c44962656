"""Threads for what takes long: reads that the page cache cannot answer, and large writes.

Cheaper than a trio task and a trio thread per job: a queue there; and back, a list that the trio thread looks at
whenever it is here anyway. It is woken only where it may be asleep, once for all that is on the list by then.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable

import trio

Work = Callable[[], None]
OnDone = Callable[[Exception | None], None]


class Offload:
    """Threads that run work and report back to the trio thread. Made and closed in it.

    A single thread does its work, and reports, in the order of submission.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._most = threads
        self._token = trio.lowlevel.current_trio_token()
        self._queue: queue.SimpleQueue[tuple[Work, OnDone] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._idle = trio.Event()
        self.done: deque[tuple[OnDone, Exception | None]] = deque()  # work whose end has not been reported
        self._is_woken = False  # the trio thread will look at `done`
        self._is_reporting = False

    @property
    def is_busy(self) -> bool:
        """Whether work is under way, or done and not reported yet."""
        return self._waiting > 0

    def submit(self, work: Work, on_done: OnDone) -> None:
        """Run `work` in a thread, then `on_done` in the trio thread with the exception that it raised, or None."""
        self._waiting += 1
        if self._waiting > len(self._threads) and len(self._threads) < self._most:
            thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._queue.put((work, on_done))

    def report(self) -> None:
        """Call `on_done` of all work that is done; not from within such a call, which would change their order."""
        if self._is_reporting:
            return
        self._is_reporting = True
        try:
            while self.done:
                on_done, error = self.done.popleft()
                self._waiting -= 1
                on_done(error)
        finally:
            self._is_reporting = False
        if not self._waiting:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until nothing is under way."""
        while self._waiting:
            self._idle = trio.Event()
            await self._idle.wait()

    def close(self) -> None:
        """End the threads; nothing may be under way."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            work, on_done = job
            error: Exception | None = None
            try:
                work()
            except Exception as err:
                error = err
            self.done.append((on_done, error))
            if not self._is_woken:
                self._is_woken = True
                self._token.run_sync_soon(self._wake)

    def _wake(self) -> None:
        self._is_woken = False  # first: what is done from here on wakes again
        self.report()
