"""Writing back early what a stream of large writes leaves in the page cache.

A stream ends with a sync: closing a file is one. Begun only then, writing back takes the disk a third as long as the
writes have taken; begun on the way, next to nothing is left to wait for. What is written a second time before it is
synced gains nothing by that, and stays in memory until then.
"""

from rbdfs.local.extents import Piece
from rbdfs.local.media import Media
from rbdfs.local.offload import Offload

_STRETCH = 32 << 20  # bytes


def _ignore(error: Exception | None) -> None:
    """The sync that follows meets it, too."""


class WriteBehind:
    """Has a thread write back each stretch of a stream."""

    def __init__(self, media: Media) -> None:
        self._media = media
        self._thread = Offload("rbdfs-write-behind", 1)
        self._stretch: list[tuple[int, int]] = []  # offset in the data file, length
        self._length = 0
        self._begun: set[int] = set()  # where in the data file stretches were written back since the last sync
        self._syncs = 0

    def wrote(self, plan: list[Piece]) -> None:
        """A large write, which had no other at its side, wrote these bytes."""
        for _, length, offset in plan:
            self._length += length
            if self._stretch and sum(self._stretch[-1]) == offset:
                offset, before = self._stretch.pop()
                length += before
            self._stretch.append((offset, length))
        if self._length < _STRETCH:
            return
        stretch = self._stretch
        self.reset()
        if self._syncs != self._media.syncs:
            self._syncs = self._media.syncs
            self._begun.clear()
        where = stretch[0][0] // _STRETCH
        if where in self._begun or self._thread.is_busy:  # busy: the disk is behind, and the sync does the rest
            return
        self._begun.add(where)

        def work() -> None:
            for offset, length in stretch:
                self._media.write_back(offset, length)

        self._thread.submit(work, _ignore)

    def reset(self) -> None:
        """What was written so far is not part of a stream."""
        self._stretch, self._length = [], 0

    def close(self) -> None:
        """End the thread."""
        self._thread.close()
