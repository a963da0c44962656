"""Telling the kernel that what it caches is out of date.

Writing a notification can block until requests on the same inode or directory have been served, so a worker thread
does it, one at a time, while the trio thread goes on serving. Notifications keep their order. What the kernel does not
know (ENOENT) needs no telling.
"""

import logging
import os

import trio

from rbdfs.fuse.abi import inval_entry, inval_inode, store
from rbdfs.wire import Buffer

log = logging.getLogger(__name__)


class Notifier:
    """A queue of notifications; they go out once a device is there."""

    def __init__(self) -> None:
        self._is_writing = False
        self._queue: list[bytes] = []
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    def invalidate_attributes(self, inode: int) -> None:
        """Size, times and owner of an inode have changed."""
        self.send(inval_inode(inode, -1, 0))

    def invalidate_content(self, inode: int) -> None:
        """The bytes of a file have changed: drop its pages and its attributes."""
        self.send(inval_inode(inode, 0, 0))

    def file_has_grown(self, inode: int, size: int, last: Buffer) -> None:
        """A file ends with this byte now: appending to it goes by a size that only this, or a `stat`, corrects."""
        self.send(store(inode, size - 1, last))
        self.invalidate_content(inode)

    def invalidate_entry(self, parent: int, name: str) -> None:
        """A name has appeared, gone, or now means another file."""
        self.send(inval_entry(parent, os.fsencode(name)))

    def send(self, message: bytes) -> None:
        """Queue a notification; of repetitions that still wait, the last one goes."""
        if message in self._queue:
            self._queue.remove(message)
        self._queue.append(message)
        self._wake.set()
        if self._idle.is_set():
            self._idle = trio.Event()

    async def wait_sent(self) -> None:
        """Wait until the kernel has heard all that was queued."""
        await self._idle.wait()

    async def run(self, device_fd: int) -> None:
        """Write notifications to a device, until cancelled."""
        fd = os.dup(device_fd)  # our own: a write that is stuck at the end must not hit a descriptor reused by others
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                batch, self._queue = self._queue, []
                # A thread: the write may wait for requests that only the trio thread can answer.
                self._is_writing = True
                await trio.to_thread.run_sync(self._write, fd, batch, abandon_on_cancel=True)
                if not self._queue:
                    self._idle.set()
        finally:
            if not self._is_writing:
                os.close(fd)

    def _write(self, fd: int, batch: list[bytes]) -> None:
        for message in batch:
            try:
                os.write(fd, message)
            except FileNotFoundError:
                continue
            except OSError as err:
                log.debug("notification refused: %s", err)
        self._is_writing = False
