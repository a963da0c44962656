"""When an image was last read and last written, as its header says it: told at most once a minute, as librbd does.

A write is told when it is the first for a minute; those after it within the minute, at its end or when the image is
closed. So the header is wrong by a minute at most. Reads are told likewise, without the second half.
"""

import time
from contextlib import suppress

import trio

from rbdfs.cls import rbd
from rbdfs.cls.query import change
from rbdfs.errors import RbdfsError
from rbdfs.image.core import ImageCore

_INTERVAL = 60.0  # librbd: rbd_atime_update_interval, rbd_mtime_update_interval
_NANOSECONDS = 10**9


class Timestamps:
    """The access and modify timestamps of one open image; the data path only reads the flags."""

    def __init__(self, image: ImageCore) -> None:
        age = time.time_ns() - image.header.access_timestamp
        self._image = image
        self._is_telling = False
        self.has_new_writes = False  # set by each write
        self.modify_is_due = True
        self.access_is_due = not image.is_read_only and age >= _INTERVAL * _NANOSECONDS

    def note_access(self) -> None:
        """The image is being read."""
        self.access_is_due = False
        self._image.header.access_timestamp = time.time_ns()
        self._image.nursery.start_soon(self._tell_access)

    def note_modify(self) -> None:
        """The image is being written."""
        self.has_new_writes = True
        if self.modify_is_due and not self._image.is_read_only:
            self.modify_is_due = False
            self._image.nursery.start_soon(self._tell_modify)

    async def close(self) -> None:
        """Tell the last writes; nothing is due any more."""
        self.modify_is_due = self.access_is_due = False
        await self.settle()

    async def settle(self) -> None:
        """Tell the last writes now."""
        if (self.has_new_writes or self._is_telling) and not self._image.is_read_only:
            await self._tell_once()

    async def _tell_access(self) -> None:
        with suppress(RbdfsError):  # not worth failing a read, which says itself what is wrong
            await change(self._image.ioctx, self._image.header_name, rbd.set_access_timestamp())
        await trio.sleep(_INTERVAL)
        self.access_is_due = True

    async def _tell_modify(self) -> None:
        while self.has_new_writes:
            self._is_telling = True
            await self._tell_once()
            self._is_telling = False
            await trio.sleep(_INTERVAL)
        self.modify_is_due = True

    async def _tell_once(self) -> None:
        self.has_new_writes = False
        self._image.header.modify_timestamp = time.time_ns()
        with suppress(RbdfsError):
            await change(self._image.ioctx, self._image.header_name, rbd.set_modify_timestamp())
