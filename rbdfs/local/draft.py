"""What an op makes of its object, step by step, without anybody seeing it until it is applied.

A draft begins as a state. Its data goes into fresh blocks (copy-on-write), so that dropping the draft undoes
everything and a crash finds the old state; only the last step of an op that changes nothing else may overwrite
exclusive blocks where they are (`in_place`). Reading a state is a draft, too: one that is never applied.

In a block, bytes behind the object's size are zero: a draft that shortens the object copies its last block, and what
an unclean end may have left there is zeroed when the object is loaded.
"""

from array import array
from collections.abc import Mapping

from rbdfs.errors import NoData, NotFound, TooLarge
from rbdfs.local import extents
from rbdfs.local.blocks import BLOCK_BITS, BLOCK_SIZE, CHUNK, Blocks
from rbdfs.local.media import Media
from rbdfs.local.objects import State, StoredObject
from rbdfs.local.omap import merge
from rbdfs.local.pools import Pool
from rbdfs.rados.ops import Buffer

MAX_OBJECT_SIZE = 128 << 20  # as osd_max_object_size

_EMPTY = State()
_ZERO_BLOCK = bytes(BLOCK_SIZE)
_COPY = bytearray(BLOCK_SIZE)  # for a block on its way; there is one engine thread


def near(ledger: Blocks, blocks: "array[int]", index: int) -> int:
    """A free block that keeps an object contiguous with one of its blocks; 0 where there is none."""
    if index and (before := blocks[index - 1]) and ledger.is_free(before + 1):
        return before + 1
    first = index - index % CHUNK
    seen = set()  # after a snapshot the blocks of an object lie in two chunks: old ones, and copies
    for place, block in enumerate(blocks[first : first + CHUNK], first):
        if block and (candidate := block + index - place) not in seen:
            if candidate > 0 and ledger.is_free(candidate):
                return candidate
            seen.add(candidate)
    return 0


class ColdBlock(Exception):
    """A block must be copied and is not in memory; dropping the draft and trying again later is better than waiting."""

    def __init__(self, block: int) -> None:
        super().__init__(block)
        self.block = block


class Draft:
    """An object in the making. `base` is the state it begins as, None where there is none."""

    def __init__(self, media: Media, blocks: Blocks, pool: Pool, obj: StoredObject, base: State | None) -> None:
        self._media = media
        self._ledger = blocks
        self._pool = pool
        self.obj = obj
        self.base = base
        start = base or _EMPTY
        self.exists = base is not None
        self.changed = False
        self.in_place = False
        self.in_reserve = False  # may take the last room of the filesystem
        self.patient = True  # wait for the disk where a block must be copied
        self.wrote_data = False  # into the data file
        self.size = start.size
        self.blocks: array[int] = start.blocks
        self.xattrs = start.xattrs
        self.omap_header = start.omap_header
        self.omap_base: Mapping[bytes, bytes] | None = None if start.has_omap else {}  # None: not looked at yet
        self.omap_changes: dict[bytes, bytes | None] = {}
        self.omap_cleared = False
        self._owns_blocks = False  # `blocks` is a copy
        self._fresh: set[int] = set()  # blocks that only this draft refers to
        self._acquired: list[int] = []  # references taken, given back by `drop`
        self._released: list[int] = []  # references of the base, given back by `settle`

    # Existence.

    def require(self) -> None:
        """NotFound where the object does not exist."""
        if not self.exists:
            raise NotFound(f"{self.obj.key.name}: no such object")

    def create(self) -> None:
        """Make it exist."""
        if not self.exists:
            self.exists = True
            self.changed = True

    def remove(self) -> None:
        """Make it not exist."""
        self.require()
        self.become(_EMPTY, {})
        self.exists = False

    def become(self, state: State, omap: Mapping[bytes, bytes]) -> None:
        """Take the content of another state, sharing its blocks."""
        self.changed = self.exists = True
        for index in range(len(self.blocks)):
            self._set(index, 0)
        self._own_blocks(len(state.blocks))
        for index, block in enumerate(state.blocks):
            if block:
                self._share(index, block)
        self.size = state.size
        self.xattrs = state.xattrs
        self.clear_omap()
        self.omap_header = state.omap_header
        self.omap_changes = dict(omap)

    # Data.

    def read(self, offset: int, end: int) -> bytearray:
        """Bytes as they are in this draft; `end` is not past the size."""
        view = State()
        view.blocks = self.blocks
        return extents.read(self._media, view, offset, end)

    def write(self, offset: int, data: Buffer) -> None:
        """Put bytes at an offset."""
        end = offset + len(data)
        self._grow_to(end)
        if not len(data):
            return
        view = memoryview(data).cast("B")
        self.wrote_data = True
        first, last = offset >> BLOCK_BITS, end - 1 >> BLOCK_BITS
        self._own_blocks(last + 1)
        index, begin, finish = first, offset, end  # what is left to write
        while index <= last:
            block = self.blocks[index]
            if block and self._may_overwrite(block):
                index += 1
                continue
            start, stop = max(offset, index << BLOCK_BITS), min(end, index + 1 << BLOCK_BITS)
            if block and stop - start < BLOCK_SIZE:
                self._copy_block(index, start, view[start - offset : stop - offset])
                if index == first:
                    begin = stop
                else:
                    finish = start
                index += 1
                continue
            # A run of holes and of blocks that are replaced whole: fresh ones, in a row where possible.
            run = index + 1
            while run <= last and not self._keeps_something(run, end):
                run += 1
            while index < run:
                index += self._map_fresh(index, run - index)
        for piece in extents.pieces(self.blocks, begin, finish):
            part = piece.offset - offset
            self._media.write(piece.file_offset, view[part : part + piece.length])

    def _keeps_something(self, index: int, end: int) -> bool:
        block = self.blocks[index]
        return bool(block) and (self._may_overwrite(block) or index + 1 << BLOCK_BITS > end)

    def zero(self, offset: int, length: int) -> None:
        """Zero a range within the object; whole blocks are given back."""
        end = min(offset + length, self.size)
        if not self.exists or offset >= end:
            return
        self.changed = True
        last = min(end - 1 >> BLOCK_BITS, len(self.blocks) - 1)
        for index in range(offset >> BLOCK_BITS, last + 1):
            block = self.blocks[index]
            if not block:
                continue
            block_start = index << BLOCK_BITS
            start, stop = max(offset, block_start), min(end, block_start + BLOCK_SIZE)
            if start == block_start and stop == min(self.size, block_start + BLOCK_SIZE):
                self._set(index, 0)
            else:
                self._zero_part(index, start - block_start, stop - block_start)

    def _zero_part(self, index: int, start: int, stop: int) -> None:
        self.wrote_data = True
        if not self._may_overwrite(self.blocks[index]):
            self._copy_block(index)
        at = self.blocks[index] << BLOCK_BITS
        self._media.zero(at + start, stop - start)
        if not self._media.data_ranges(at, at + BLOCK_SIZE):
            self._set(index, 0)

    def truncate(self, size: int) -> None:
        """Cut, or extend with zeroes."""
        if size >= self.size:
            self._grow_to(size)
            return
        self.changed = True
        kept = size + BLOCK_SIZE - 1 >> BLOCK_BITS
        for index in range(kept, len(self.blocks)):
            self._set(index, 0)
        self.size = size
        if size % BLOCK_SIZE and extents.block_at(self.blocks, kept - 1):
            self._copy_block(kept - 1)  # never in place: what is durable may still be longer

    def replace(self, data: Buffer) -> None:
        """Make `data` the whole content."""
        self.changed = self.exists = True
        for index in range(len(self.blocks)):
            self._set(index, 0)
        self.size = 0
        self.write(0, data)

    def take(self, source: State, source_offset: int, offset: int, length: int) -> None:
        """Take bytes of another state, sharing its blocks where both align; zeroes for what it lacks."""
        end = offset + length
        self._grow_to(end)
        position = offset
        while position < end:
            start = source_offset + position - offset
            if position % BLOCK_SIZE == 0 and start % BLOCK_SIZE == 0 and self._fills_block(position, end):
                self._take_block(source, start >> BLOCK_BITS, position >> BLOCK_BITS)
                position += BLOCK_SIZE
                continue
            step = min(end - position, BLOCK_SIZE - position % BLOCK_SIZE)
            stop = min(start + step, source.size)
            self.zero(position, step)
            for piece in extents.pieces(source.blocks, start, stop):
                data = bytearray(piece.length)
                self._media.read(piece.file_offset, data)
                self.write(offset + piece.offset - source_offset, data)
            position += step

    def _fills_block(self, position: int, end: int) -> bool:
        return end - position >= BLOCK_SIZE or end == self.size

    def _take_block(self, source: State, source_index: int, index: int) -> None:
        block = extents.block_at(source.blocks, source_index)
        self._own_blocks(index + 1)
        start = source_index << BLOCK_BITS
        limit = min(self.size - (index << BLOCK_BITS), BLOCK_SIZE)
        if not block or source.size <= start:
            self._set(index, 0)
        elif min(source.size - start, BLOCK_SIZE) > limit:
            # The rest of the source's block must not show through when this object grows.
            data = extents.read(self._media, source, start, min(source.size, start + limit))
            self._set(index, 0)
            self.write(index << BLOCK_BITS, data)
        else:
            self._set(index, 0)
            self._share(index, block)

    # Attributes and omap.

    def get_xattr(self, name: str) -> bytes:
        """An extended attribute."""
        self.require()
        value = self.xattrs.get(name)
        if value is None:
            raise NoData(f"{self.obj.key.name}: no attribute {name}")
        return value

    def set_xattr(self, name: str, value: bytes) -> None:
        """Set an extended attribute."""
        self.create()
        self.changed = True
        self.xattrs = {**self.xattrs, name: bytes(value)}

    def remove_xattr(self, name: str) -> None:
        """Remove an extended attribute, if it is there."""
        self.require()
        if name in self.xattrs:
            self.changed = True
            self.xattrs = {key: value for key, value in self.xattrs.items() if key != name}

    def change_omap(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Set pairs, and remove those whose value is None."""
        self.changed = True
        self.omap_changes.update(changes)

    def set_omap_header(self, value: bytes) -> None:
        """Set the omap header."""
        self.create()
        self.changed = True
        self.omap_header = bytes(value)

    def clear_omap(self) -> None:
        """Remove the omap header and all pairs."""
        self.changed = True
        self.omap_header = b""
        self.omap_cleared = True
        self.omap_base = {}
        self.omap_changes = {}

    def omap_value(self, key: bytes) -> bytes | None:
        """The value of a key as it is in this draft; the base's omap must be known."""
        if key in self.omap_changes:
            return self.omap_changes[key]
        assert self.omap_base is not None
        return self.omap_base.get(key)

    def omap_pairs(self) -> Mapping[bytes, bytes]:
        """All pairs as they are in this draft, in no order; the base's omap must be known."""
        assert self.omap_base is not None
        return merge(self.omap_base, self.omap_changes) if self.omap_changes else self.omap_base

    # The end.

    def drop(self) -> None:
        """Nothing of this happened."""
        for block in self._acquired:
            self._give_back(block)
        self._acquired, self._released = [], []
        if self.in_place and self.wrote_data and self.base is not None:
            self._zero_tail(self.base)

    def _zero_tail(self, base: State) -> None:
        """Zero what writing in place has left behind the end of the object."""
        block = extents.block_at(base.blocks, base.size >> BLOCK_BITS)
        within = base.size % BLOCK_SIZE
        if block and within and self._ledger.is_exclusive(block):
            self._media.zero((block << BLOCK_BITS) + within, BLOCK_SIZE - within)

    def settle(self) -> None:
        """The draft is what the object is now: what the base alone referred to is given back."""
        for block in self._released:
            self._give_back(block)
        self._acquired, self._released = [], []

    def _give_back(self, block: int) -> None:
        if self._ledger.release(block):
            self._pool.used -= 1

    # Blocks.

    def _grow_to(self, end: int) -> None:
        if end > MAX_OBJECT_SIZE:
            raise TooLarge(f"{self.obj.key.name}: an object ends at {MAX_OBJECT_SIZE} bytes, {end} wanted")
        self.create()
        self.changed = True
        self.size = max(self.size, end)

    def _own_blocks(self, count: int) -> None:
        if not self._owns_blocks:
            self.blocks = self.blocks[:]
            self._owns_blocks = True
        if len(self.blocks) < count:
            self.blocks.extend([0] * (count - len(self.blocks)))

    def _may_overwrite(self, block: int) -> bool:
        return block in self._fresh or (self.in_place and self._ledger.is_exclusive(block))

    def _set(self, index: int, block: int) -> None:
        """Map an index to a block that is counted already (0: to none)."""
        self._own_blocks(index + 1)
        old = self.blocks[index]
        if old in self._fresh:
            self._fresh.discard(old)
            self._acquired.remove(old)
            self._give_back(old)
        elif old:
            self._released.append(old)
        self.blocks[index] = block

    def _share(self, index: int, block: int) -> None:
        self._ledger.retain(block)
        self._acquired.append(block)
        self._set(index, block)

    def _map_fresh(self, index: int, want: int) -> int:
        """Map up to `want` indexes from this one on to fresh blocks; gives how many."""
        is_small = index == 0 and want == 1 and self.size <= BLOCK_SIZE
        place = near(self._ledger, self.blocks, index)
        block, got = self._ledger.allocate(index, want, place, small=is_small, in_reserve=self.in_reserve)
        self._pool.used += got
        fresh = range(block, block + got)
        self._fresh.update(fresh)
        self._acquired.extend(fresh)
        for place in range(got):
            self._set(index + place, block + place)
        return got

    def _copy_block(self, index: int, at: int = 0, patch: Buffer = b"") -> None:
        """Replace a block by a fresh one with the same bytes up to the object's size, and a `patch` at offset `at`."""
        old, start = self.blocks[index], index << BLOCK_BITS
        length = min(self.size - start, BLOCK_SIZE)
        data = _COPY if length == BLOCK_SIZE else bytearray(length)
        if not self._media.read_cached(old << BLOCK_BITS, data):
            if not self.patient:
                raise ColdBlock(old)
            self._media.read(old << BLOCK_BITS, data)
        if len(patch):
            data[at - start : at - start + len(patch)] = patch
        self.wrote_data = True
        self._own_blocks(index + 1)
        self._map_fresh(index, 1)
        if data[0] or data != _ZERO_BLOCK[:length]:
            self._media.write(self.blocks[index] << BLOCK_BITS, data)
