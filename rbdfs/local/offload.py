"""Threads for what takes long: reads that the page cache cannot answer, and large writes.

Cheaper than a trio task and a trio thread per job: a queue there, and a call in the trio thread back.
"""

import queue
import threading
from collections.abc import Callable

import trio

Work = Callable[[], None]


class Offload:
    """Threads that run work and report back to the trio thread. Made and closed in it.

    A single thread does its work, and reports, in the order of submission.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._most = threads
        self._token = trio.lowlevel.current_trio_token()
        self._queue: queue.SimpleQueue[tuple[Work, Callable[[Exception | None], None]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._idle = trio.Event()

    @property
    def is_busy(self) -> bool:
        """Whether work is under way, or done and not reported yet."""
        return self._waiting > 0

    def submit(self, work: Work, on_done: Callable[[Exception | None], None]) -> None:
        """Run `work` in a thread, then `on_done` in the trio thread with the exception that it raised, or None."""
        self._waiting += 1
        if self._waiting > len(self._threads) and len(self._threads) < self._most:
            thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._queue.put((work, on_done))

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
            self._token.run_sync_soon(self._done, on_done, error)

    def _done(self, on_done: Callable[[Exception | None], None], error: Exception | None) -> None:
        self._waiting -= 1
        on_done(error)
        if not self._waiting:
            self._idle.set()
