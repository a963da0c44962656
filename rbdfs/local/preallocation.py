"""Room that the filesystem sets aside for copies about to come.

After a snapshot the blocks of an object are copied one by one, into a chunk of their own. To write 64 KiB into a hole
takes ext4 25 us, into room set aside 9 us (Linux 6.18): so the second copy into a chunk has room set aside for all of
it. What is not used for a while is given back by a commit, and what a crash leaves when the store is opened.
"""

import time

from rbdfs.local.blocks import BLOCK_BITS, CHUNK, Blocks
from rbdfs.local.media import Media

IDLE = 5.0  # seconds, at least, that room waits for a copy


class Preallocation:
    """The chunks of a data file that have room set aside."""

    def __init__(self, media: Media, blocks: Blocks) -> None:
        self._media = media
        self._blocks = blocks
        self._begun: set[int] = set()  # chunks with a single copy so far
        self._kept: set[int] = set()  # chunks with room set aside ...
        self._used: set[int] = set()  # ... and those of them that had a copy since the last look
        self._looked = 0.0

    def copied(self, block: int) -> None:
        """A copy goes to this block: others may follow into its chunk."""
        chunk = block // CHUNK
        if chunk in self._used:
            return
        if chunk not in self._kept:
            if chunk not in self._begun:
                self._begun.add(chunk)
                return
            self._media.set_aside(chunk * CHUNK << BLOCK_BITS, CHUNK << BLOCK_BITS)
            self._kept.add(chunk)
        self._used.add(chunk)

    def expire(self) -> bool:
        """Give back what was not used for a while, with the commit that follows; whether anything is left."""
        now = time.monotonic()
        if now - self._looked >= IDLE:
            self._looked = now
            self._keep(self._used)
        return bool(self._kept)

    def end(self) -> None:
        """Give everything back, with the commit that follows."""
        self._keep(set())

    def _keep(self, chunks: set[int]) -> None:
        for chunk in self._kept - chunks:
            self._blocks.give_back(chunk * CHUNK)
        self._kept, self._used, self._begun = chunks, set(), set()
