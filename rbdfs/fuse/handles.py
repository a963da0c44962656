"""Open files: the numbers that the kernel holds (`fh`), and what is behind each.

`namespace.py` opens and releases, `lane.py` reads and writes. Many handles on one image share one `OpenFile`, and so
one open image. The kernel sends RELEASE only after the last request on its handle, so a handle found here is valid
for as long as its request takes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from rbdfs.errors import RbdfsError
from rbdfs.wire import Buffer


class FileContent(Protocol):
    """What the data lane asks of an image; `image.Image` says more about each."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def is_read_only(self) -> bool:
        """Whether every write is refused, as for a snapshot."""

    def submit_read(self, offset: int, length: int, on_complete: Callable[[list[Buffer] | RbdfsError], None]) -> None:
        """Read; fewer bytes only at the end."""

    def submit_write(self, offset: int, data: Buffer, on_complete: Callable[[RbdfsError | None], None]) -> None:
        """Write, growing the file where it ends earlier; `data` stays unchanged until completion."""

    def submit_flush(self, on_complete: Callable[[RbdfsError | None], None]) -> None:
        """Make completed writes durable."""

    async def write_zeroes(self, offset: int, length: int) -> None:
        """Zero a range, freeing what can be freed."""

    async def grow(self, size: int) -> None:
        """Make it at least that large."""

    async def resize(self, size: int) -> None:
        """Set the size."""

    async def seek_data(self, offset: int) -> int | None:
        """Where data begins at or after an offset; None where only a hole follows."""

    async def seek_hole(self, offset: int) -> int:
        """Where a hole begins at or after an offset, the end counting as one."""


class OpenFile:
    """One image or snapshot, opened once for all its handles."""

    __slots__ = ("_resizes", "content", "inode", "known_size", "written_at")

    def __init__(self, inode: int, content: FileContent) -> None:
        self.inode = inode
        self.content = content
        self.known_size = content.size  # as the kernel has it, from what we told it and what it did itself
        self.written_at = 0  # ns; when this mount last changed the content
        self._resizes = 0

    def wrote_to(self, end: int) -> None:
        """The kernel is changing the content up to here."""
        self.written_at = time.time_ns()
        if end > self.known_size:
            self.known_size = end

    @property
    def is_resizing(self) -> bool:
        """Whether a size that differs from `known_size` is on its way to it, and nobody else's doing."""
        return self._resizes > 0

    def begin_resize(self) -> None:
        """This mount is changing the size."""
        self._resizes += 1

    def end_resize(self) -> None:
        """It has been changed, or could not be."""
        self._resizes -= 1
        if not self._resizes:
            self.known_size = self.content.size

    @contextmanager
    def resizing(self) -> Iterator[None]:
        """This mount changes the size inside the block."""
        self.begin_resize()
        try:
            yield
        finally:
            self.end_resize()


class Handle:
    """One open of a file."""

    __slots__ = ("content", "fh", "file", "is_dirty", "is_new", "is_synchronous", "is_writable")

    def __init__(self, fh: int, file: OpenFile, *, is_writable: bool, is_new: bool = False) -> None:
        self.fh = fh
        self.file = file
        self.content = file.content
        self.is_writable = is_writable
        self.is_new = is_new  # made by this open
        self.is_dirty = False  # written to since the last flush
        self.is_synchronous = False  # the kernel leaves the sync after each write to us


class Handles:
    """All open files of a mount."""

    def __init__(self) -> None:
        self._by_number: dict[int, Handle] = {}
        self._last = 0
        self._none = trio.Event()
        self.get = self._by_number.get

    def __len__(self) -> int:
        return len(self._by_number)

    def open(self, file: OpenFile, *, is_writable: bool, is_new: bool = False) -> Handle:
        """A new handle on an open file."""
        self._last += 1
        handle = Handle(self._last, file, is_writable=is_writable, is_new=is_new)
        self._by_number[handle.fh] = handle
        return handle

    def release(self, fh: int) -> Handle:
        """Forget a handle; it must exist."""
        handle = self._by_number.pop(fh)
        if not self._by_number:
            self._none.set()
            self._none = trio.Event()
        return handle

    async def wait_none(self) -> None:
        """Wait until no file is open."""
        while self._by_number:
            await self._none.wait()

    def is_being_made(self, inode: int) -> bool:
        """Whether the open that made this file has not ended yet."""
        return any(handle.is_new and handle.file.inode == inode for handle in self._by_number.values())
