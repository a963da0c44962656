"""The ops that need no draft: reading, and writing where bytes are already. What is fast is fast here.

A read is answered from the page cache, without leaving the event loop, or by a thread; the blocks that a thread reads
are pinned meanwhile, so that later ops leave them as they are. A write goes to blocks that are the object's alone, here
or in a thread; one that falls into a single block that is not is answered by copying that block.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from rbdfs.errors import RbdfsError, StoreFailure
from rbdfs.local.blocks import BLOCK_BITS, BLOCK_SIZE, CHUNK, Blocks
from rbdfs.local.draft import ColdBlock, near
from rbdfs.local.extents import Piece, blocks_of, clip, pieces
from rbdfs.local.journal import Journal
from rbdfs.local.media import Media
from rbdfs.local.objects import State
from rbdfs.local.offload import Offload
from rbdfs.local.pools import Pool
from rbdfs.local.preallocation import Preallocation
from rbdfs.rados.api import OnComplete
from rbdfs.rados.ops import Buffer, Read, Reply, SparseData, SparseRead, Write

log = logging.getLogger(__name__)

_BLOCK_MASK = BLOCK_SIZE - 1


class Direct:
    """Reads and writes of an engine's data file."""

    def __init__(
        self, media: Media, blocks: Blocks, preallocation: Preallocation, readers: Offload, journal: Journal
    ) -> None:
        self._media = media
        self._blocks = blocks
        self._preallocation = preallocation
        self._readers = readers
        self._journal = journal
        self._copy = bytearray(BLOCK_SIZE)  # a block on its way

    def read(self, state: State, version: int, step: Read, on_complete: OnComplete) -> Reply | None:
        """Bytes of a state; None where a thread reads them."""
        offset, length = step
        size = state.size
        end = offset + length if length and offset + length <= size else clip(size, offset, length)
        index = offset >> BLOCK_BITS
        if offset < end <= (index + 1) << BLOCK_BITS:
            data = bytearray(end - offset)
            blocks = state.blocks
            block = blocks[index] if index < len(blocks) else 0
            if not block:
                return Reply([data], version)
            at = block << BLOCK_BITS | offset & _BLOCK_MASK
            if self._media.read_cached(at, data):
                return Reply([data], version)
            self._read_in_thread([(at, data)], [block], Reply([data], version), on_complete)
            return None
        data = bytearray(max(end - offset, 0))
        return self._fill(
            memoryview(data), pieces(state.blocks, offset, end), offset, Reply([data], version), on_complete
        )

    def sparse_read(self, state: State, version: int, step: SparseRead, on_complete: OnComplete) -> Reply | None:
        plan = pieces(state.blocks, step.offset, clip(state.size, step.offset, step.length))
        data = bytearray(sum(piece.length for piece in plan))
        found, packed, position = [], [], 0
        for piece in plan:
            found.append((piece.offset, piece.length))
            packed.append(Piece(position, piece.length, piece.file_offset))
            position += piece.length
        return self._fill(memoryview(data), packed, 0, Reply([SparseData(found, data)], version), on_complete)

    def _fill(
        self, view: memoryview, plan: list[Piece], start: int, reply: Reply, on_complete: OnComplete
    ) -> Reply | None:
        """Read pieces to where they belong in the view, which begins at offset `start`."""
        for number, piece in enumerate(plan):
            position = piece.offset - start
            if not self._media.read_cached(piece.file_offset, view[position : position + piece.length]):
                left = plan[number:]
                parts = [
                    (each.file_offset, view[each.offset - start : each.offset - start + each.length]) for each in left
                ]
                self._read_in_thread(parts, blocks_of(left), reply, on_complete)
                return None
        return reply

    def _read_in_thread(
        self, parts: Sequence[tuple[int, Buffer]], used: list[int], reply: Reply, on_complete: OnComplete
    ) -> None:
        self._blocks.pin(used)

        def work() -> None:
            for at, view in parts:
                self._media.read(at, view)

        def done(error: Exception | None) -> None:
            self._blocks.unpin(used)
            on_complete(_known(error, "read") or reply)

        self._readers.submit(work, done)

    def overwrite(self, head: State, step: Write) -> bool:
        """Write where every block is there and exclusive; False, and nothing done, where that is not so."""
        offset, data = step
        length = len(data)
        end = offset + length
        blocks = head.blocks
        first = offset >> BLOCK_BITS
        if first == (end - 1) >> BLOCK_BITS and length:  # the usual case, without a plan
            block = blocks[first] if end <= head.size and first < len(blocks) else 0
            if not block or not self._blocks.is_exclusive(block):
                return False
            self._journal.data_dirty = True
            self._media.write(block << BLOCK_BITS | offset & _BLOCK_MASK, data)
            return True
        plan = self.plan_overwrite(head, step)
        if plan is not None:
            self.write(step, plan)
        return plan is not None

    def plan_overwrite(self, head: State, step: Write) -> list[Piece] | None:
        """Where an overwrite goes; None where not every block is there and exclusive."""
        offset, data = step
        end = offset + len(data)
        if end > head.size or not len(data) or not self._are_exclusive(head, offset, end):
            return None
        return pieces(head.blocks, offset, end)

    def has_room_to_write(self, plan: list[Piece]) -> bool:
        """Whether a planned overwrite cannot run out of room; the parts of a block that were never written may."""
        return all(self._media.has_room_to_overwrite(file_offset, size) for _, size, file_offset in plan)

    def write(self, step: Write, plan: list[Piece]) -> None:
        """Write to where it was planned."""
        self._journal.data_dirty = True
        self._put(step, plan)

    def write_in_thread(
        self, step: Write, plan: list[Piece], writer: Offload, on_done: Callable[[RbdfsError | None], None]
    ) -> None:
        """The same, in a thread; until `on_done` nobody may change which blocks the head has."""

        def done(error: Exception | None) -> None:
            self._journal.data_dirty = True  # only now: a sync that ran meanwhile may not have seen all of it
            on_done(_known(error, "write"))

        writer.submit(partial(self._put, step, plan), done)

    def _put(self, step: Write, plan: list[Piece]) -> None:
        offset, data = step
        view = memoryview(data).cast("B")
        for at, size, file_offset in plan:
            self._media.write(file_offset, view[at - offset : at - offset + size])

    def _are_exclusive(self, head: State, offset: int, end: int) -> bool:
        blocks = head.blocks
        first, last = offset >> BLOCK_BITS, (end - 1) >> BLOCK_BITS
        if last >= len(blocks):
            return False
        for index in range(first, last + 1):
            if not blocks[index] or not self._blocks.is_exclusive(blocks[index]):
                return False
        return True

    def copy_and_write(self, pool: Pool, head: State, step: Write, *, patient: bool) -> bool:
        """Write into one whole block of the object that is shared, by copying it; False where that is not so."""
        offset, data = step
        end = offset + len(data)
        index = offset >> BLOCK_BITS
        start = index << BLOCK_BITS
        blocks = head.blocks
        if start + BLOCK_SIZE > head.size or not offset < end <= start + BLOCK_SIZE or index >= len(blocks):
            return False
        old = blocks[index]
        if not old:
            return False
        copy = self._copy
        if not self._media.read_cached(old << BLOCK_BITS, copy):
            if not patient:
                raise ColdBlock(old)
            self._media.read(old << BLOCK_BITS, copy)
        copy[offset - start : end - start] = data
        place = head.copies + index % CHUNK
        if not head.copies or not self._blocks.is_free(place):
            place = near(self._blocks, blocks, index)
        fresh, _ = self._blocks.allocate(index, 1, place)
        head.copies = fresh - fresh % CHUNK
        self._preallocation.copied(fresh)
        try:
            self._media.write(fresh << BLOCK_BITS, copy)
        except BaseException:
            self._blocks.release(fresh)
            raise
        finally:
            self._journal.data_dirty = True
        blocks[index] = fresh
        if not self._blocks.release(old):
            pool.used += 1
        return True


def _known(error: Exception | None, act: str) -> RbdfsError | None:
    """What a thread failed with, as an error of the store."""
    if error is None or isinstance(error, RbdfsError):
        return error
    log.error("%s in a thread", act, exc_info=error)
    return StoreFailure(f"{act}: {error}")
