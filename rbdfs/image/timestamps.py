"""When an image was last read and last written, as its header says it: told at most once a minute, as librbd does."""

import time
from contextlib import suppress

import trio

from rbdfs.cls import rbd
from rbdfs.cls.query import change
from rbdfs.errors import RbdfsError
from rbdfs.image.core import ImageCore
from rbdfs.rados.ops import Call

_INTERVAL = 60.0  # librbd: rbd_atime_update_interval, rbd_mtime_update_interval
_NANOSECONDS = 10**9


class Timestamps:
    """The access and modify timestamps of one open image; `*_is_due` spares the data path any more than a look."""

    def __init__(self, image: ImageCore) -> None:
        now = time.time_ns()
        self._image = image
        self.modify_is_due = not image.is_read_only
        self.access_is_due = not image.is_read_only and now - image.header.access_timestamp >= _INTERVAL * _NANOSECONDS

    def close(self) -> None:
        """Nothing is due any more."""
        self.modify_is_due = self.access_is_due = False

    def note_access(self) -> None:
        """The image is being read."""
        if self.access_is_due:
            self.access_is_due = False
            self._image.header.access_timestamp = time.time_ns()
            self._image.nursery.start_soon(self._tell_access)

    def note_modify(self) -> None:
        """The image is being written."""
        if self.modify_is_due:
            self.modify_is_due = False
            self._image.header.modify_timestamp = time.time_ns()
            self._image.nursery.start_soon(self._tell_modify)

    async def _tell_access(self) -> None:
        await self._tell(rbd.set_access_timestamp())
        await trio.sleep(_INTERVAL)
        self.access_is_due = True

    async def _tell_modify(self) -> None:
        await self._tell(rbd.set_modify_timestamp())
        await trio.sleep(_INTERVAL)
        self.modify_is_due = True

    async def _tell(self, step: Call) -> None:
        with suppress(RbdfsError):  # not worth failing a read or a write, which says what is wrong itself
            await change(self._image.ioctx, self._image.header_name, step)
