"""Room kept back for metadata, so that a full disk can still be told what is removed.

Data may fill a filesystem to the last block, and then nothing could be committed, not even what frees blocks; nor
could an object map be changed, which removing an image begins with. So a file of a few MiB lies beside the store. A
commit, or a change of metadata, that finds no room takes its place, and until the file is back, no fresh blocks are
handed out for anything else. Changes may have a quarter of it: the rest is for commits, without which nothing ever
becomes free.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

from rbdfs.errors import NoSpace
from rbdfs.local.batch import Batch
from rbdfs.local.blocks import BLOCK_BITS
from rbdfs.local.database import Database
from rbdfs.local.media import Media

NAME = "reserve"
_SIZE = 16 << 20  # bytes, or an eighth of a small filesystem


class Reserve:
    """The file."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._lock = threading.Lock()  # the thread that commits, and the event loop
        self.is_intact = False
        self._left = 0  # blocks that changes of metadata may have
        self.restore()

    def restore(self) -> None:
        """Take the room, if it is there."""
        with self._lock:
            if self.is_intact:
                return
            room = os.statvfs(self._path.parent)
            size = min(_SIZE, room.f_blocks * room.f_frsize // 8)
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(descriptor, 0, size)
                finally:
                    os.close(descriptor)
            except OSError:
                self._drop()
                room = os.statvfs(self._path.parent)
                self._left = max(room.f_bavail * room.f_frsize - size * 3 // 4, 0) >> BLOCK_BITS
            else:
                self.is_intact = True
                self._left = size // 4 >> BLOCK_BITS

    def grants_block(self, *, for_metadata: bool) -> bool:
        """Whether a block more may be filled; in the reserve's room, one less is left."""
        if self.is_intact:
            return True
        with self._lock:
            if not for_metadata or not self._left:
                return False
            self._left -= 1
            return True

    def give_up(self) -> bool:
        """Make its room free for what cannot wait; False where that has been done."""
        with self._lock:
            was_intact = self.is_intact
            self._drop()
            return was_intact

    def commit(self, media: Media, database: Database, batch: Batch) -> None:
        """Commit a batch, in the reserve's room where there is no other."""
        try:
            media.commit(database, batch)
        except NoSpace:
            self.give_up()  # or it has been, a moment ago, for an op
            media.commit(database, batch)

    def _drop(self) -> None:
        self.is_intact = False
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
