"""Which blocks of the data file are in use, by how many states of objects, and which are handed out next.

A block is 64 KiB; a chunk is 64 blocks, as a data object of the default order has; a page is 2048 blocks, whose
reference counts make one row of the database. Counts are read page by page when asked for and a bounded number of
pages is kept; of every page the number of free blocks per chunk stays in memory, 32 bytes for 128 MiB.

A new object's blocks come from a chunk that was wholly free, each at the place in it that its index has in the object,
so that an object filled in any order ends up contiguous. The file is sparse: places left out cost nothing. Single
blocks of small objects share a chunk. Where the file cannot grow any more, any free block will do.

What always holds (a *generation* is what one commit makes durable):

- A free block reads as zeroes.
- A block whose count fell to zero is neither free nor in use until that is durable and it has been punched.
- A block is *exclusive*, may be overwritten in place, only if one state refers to it, now and in what is durable, and
  no thread is reading it.
"""

import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from rbdfs.errors import Corrupt, NoSpace
from rbdfs.local.batch import Batch

BLOCK_BITS = 16
BLOCK_SIZE = 1 << BLOCK_BITS
CHUNK = 64  # blocks
PAGE_BITS = 11
PAGE = 1 << PAGE_BITS  # blocks
CHUNKS_PER_PAGE = PAGE // CHUNK
PAGES_KEPT = 4096

_PAGE_MASK = PAGE - 1
_FREE_CHUNK = bytes([CHUNK])
_NO_BLOCKS = bytes(4 * PAGE)

LoadPage = Callable[[int], bytes | None]


class GrantsBlock(Protocol):
    """Whether there is room for a block more; see `Reserve.grants_block`."""

    def __call__(self, *, for_metadata: bool) -> bool: ...


class Blocks:
    """The reference counts and the free blocks of one data file."""

    def __init__(
        self,
        free: dict[int, bytes],
        load_page: LoadPage,
        grow: Callable[[int], None],
        grants_block: GrantsBlock = lambda **_: True,
    ) -> None:
        """`free` has the free blocks per chunk of the pages there are; `grow` makes the file hold that many blocks."""
        self._grants_block = grants_block
        self._load_page = load_page
        self._grow = grow
        self._pages: dict[int, array[int]] = {}
        self._dirty: set[int] = set()
        self._committing: Counter[int] = Counter()  # pages: how many generations that are not durable have them
        self._free = [
            bytearray(free.get(number, _FREE_CHUNK * CHUNKS_PER_PAGE)) for number in range(max(free, default=-1) + 1)
        ]
        self._first_page = 0  # no page before it has a wholly free chunk
        self._scanned = 0  # where a free block was last found in a used chunk
        self._small_next = 0  # in the chunk that small objects share; at its end, another one is begun
        self._can_grow = True
        self._pending: set[int] = set()  # count 0, not yet reusable
        self._freed: list[int] = []  # of this generation
        self._loosened: list[int] = []  # of this generation: count fell, not to 0
        self._frozen: dict[int, int] = {}  # block -> reasons why it must not be overwritten in place
        self._pinned: dict[int, int] = {}  # block -> threads reading it
        if not self._free:
            self._add_page()
            self._claim(0)  # the file's header

    # Counts.

    def count(self, block: int) -> int:
        """How many states refer to a block."""
        page = self._pages.get(block >> PAGE_BITS)
        if page is None:
            page = self._load(block >> PAGE_BITS)
        return page[block & _PAGE_MASK]

    def is_exclusive(self, block: int) -> bool:
        """Whether the block may be overwritten in place."""
        page = self._pages.get(block >> PAGE_BITS)
        if page is None:
            page = self._load(block >> PAGE_BITS)
        return page[block & _PAGE_MASK] == 1 and block not in self._frozen

    def retain(self, block: int) -> None:
        """One more state refers to it."""
        number = block >> PAGE_BITS
        page = self._pages.get(number) or self._load(number)
        assert page[block & _PAGE_MASK] > 0, block
        page[block & _PAGE_MASK] += 1
        self._dirty.add(number)

    def release(self, block: int) -> bool:
        """One state less refers to it; True where it was the last one."""
        number = block >> PAGE_BITS
        page = self._pages.get(number) or self._load(number)
        index = block & _PAGE_MASK
        if page[index] == 0:
            raise Corrupt(f"block {block}: released more often than it was referred to")
        page[index] -= 1
        self._dirty.add(number)
        if page[index] == 0:
            self._pending.add(block)
            self._freed.append(block)
            return True
        self._loosened.append(block)
        self._freeze(block)
        return False

    # Threads that read.

    def pin(self, blocks: Iterable[int]) -> None:
        """A thread reads them: they are neither overwritten nor reused before `unpin`."""
        for block in blocks:
            self._pinned[block] = self._pinned.get(block, 0) + 1
            self._freeze(block)

    def unpin(self, blocks: Iterable[int]) -> None:
        """The thread is done."""
        for block in blocks:
            left = self._pinned[block] - 1
            if left:
                self._pinned[block] = left
            else:
                del self._pinned[block]
            self._thaw(block)

    def _freeze(self, block: int) -> None:
        self._frozen[block] = self._frozen.get(block, 0) + 1

    def _thaw(self, block: int) -> None:
        left = self._frozen[block] - 1
        if left:
            self._frozen[block] = left
        else:
            del self._frozen[block]

    # Handing out.

    def allocate(
        self, index: int, want: int, preferred: int, *, small: bool = False, in_reserve: bool = False
    ) -> tuple[int, int]:
        """Give (first block, 1 to `want` blocks in a row), zeroed and counted once, for index `index` of an object.

        `preferred` is where they should begin, 0 for anywhere; `small` says that the object has few blocks,
        `in_reserve` that they are for metadata, and may take of the last room.
        """
        if not self._grants_block(for_metadata=in_reserve):
            raise NoSpace("the store's filesystem is full")
        start = preferred if preferred and self.is_free(preferred) else self._find(index, small=small)
        got = 1
        self._claim(start)
        while got < want and (start + got) % CHUNK and self.is_free(start + got):
            if not self._grants_block(for_metadata=in_reserve):
                break
            self._claim(start + got)
            got += 1
        return start, got

    def give_back(self, chunk: int) -> None:
        """Have the next commit punch the free blocks of a chunk, whose first block this is, before they are used."""
        for block in range(chunk, chunk + CHUNK):
            if self.is_free(block):
                self._free[block >> PAGE_BITS][(block & _PAGE_MASK) // CHUNK] -= 1
                self._pending.add(block)
                self._freed.append(block)

    def is_free(self, block: int) -> bool:
        """Whether the block may be handed out."""
        number = block >> PAGE_BITS
        if number >= len(self._free) or not self._free[number][(block & _PAGE_MASK) // CHUNK]:
            return False
        return self.count(block) == 0 and block not in self._pending

    def _claim(self, block: int) -> None:
        number, index = block >> PAGE_BITS, block & _PAGE_MASK
        page = self._pages.get(number) or self._load(number)
        assert page[index] == 0, block
        page[index] = 1
        self._free[number][index // CHUNK] -= 1
        self._dirty.add(number)

    def _find(self, index: int, *, small: bool) -> int:
        if small:
            block: int | None = self._small_next
            if not self._small_next % CHUNK or not self.is_free(self._small_next):
                block = self._free_chunk()
            if block is not None:
                self._small_next = block + 1
                return block
        elif (chunk := self._free_chunk()) is not None:
            return chunk + index % CHUNK
        for turn in range(len(self._free)):
            number = (self._scanned + turn) % len(self._free)
            for place, left in enumerate(self._free[number]):
                if left and (block := self._free_in_chunk((number << PAGE_BITS) + place * CHUNK)) is not None:
                    self._scanned = number
                    return block
        raise NoSpace("the data file can hold no more blocks")

    def _free_chunk(self) -> int | None:
        """First block of a wholly free chunk; the file grows where there is none."""
        for number in range(self._first_page, len(self._free)):
            place = self._free[number].find(_FREE_CHUNK)
            if place >= 0:
                self._first_page = number
                return (number << PAGE_BITS) + place * CHUNK
        self._first_page = len(self._free)
        if not self._can_grow:
            return None
        try:
            self._add_page()
        except NoSpace:  # the filesystem's largest file, not its room: a hole costs none
            self._can_grow = False
            return None
        return self._first_page << PAGE_BITS

    def _free_in_chunk(self, chunk: int) -> int | None:
        return next((block for block in range(chunk, chunk + CHUNK) if self.is_free(block)), None)

    def _add_page(self) -> None:
        self._grow((len(self._free) + 1) << PAGE_BITS)
        self._pages[len(self._free)] = block_array(_NO_BLOCKS)
        self._dirty.add(len(self._free))
        self._free.append(bytearray(_FREE_CHUNK * CHUNKS_PER_PAGE))

    # Generations.

    @property
    def is_dirty(self) -> bool:
        """Whether a commit has something to write or to make reusable."""
        return bool(self._dirty or self._freed)

    @property
    def unsettled(self) -> int:
        """How many blocks wait for a commit before they can be reused or overwritten."""
        return len(self._freed) + len(self._loosened)

    def take(self, batch: Batch) -> "Settlement":
        """Put the changed pages into a batch, and end the generation."""
        for number in sorted(self._dirty):
            page = self._pages[number]
            batch.pages.append((number, _free_per_chunk(page), stored_array(page)))
        settlement = Settlement(self, self._freed, self._loosened, self._dirty)
        self._committing.update(self._dirty)
        self._freed, self._loosened, self._dirty = [], [], set()
        return settlement

    def _load(self, number: int) -> "array[int]":
        stored = self._load_page(number)
        if stored is not None and len(stored) != len(_NO_BLOCKS):
            raise Corrupt(f"page {number} of the block counts has {len(stored)} bytes")
        page = self._pages[number] = block_array(stored or _NO_BLOCKS)
        if len(self._pages) > PAGES_KEPT:
            self._evict(number)
        return page

    def _evict(self, but: int) -> None:
        for number in list(self._pages):
            if number != but and number not in self._dirty and number not in self._committing:
                del self._pages[number]
                if len(self._pages) <= PAGES_KEPT * 3 // 4:
                    break

    def free_runs(self) -> Iterator[tuple[int, int]]:
        """All runs (first block, blocks) that nothing refers to; only right after opening."""
        first = length = 0
        for number, chunks in enumerate(self._free):
            counts = None
            for place, left in enumerate(chunks):
                start = (number << PAGE_BITS) + place * CHUNK
                if left in (0, CHUNK):
                    free = [(start, left)]
                else:
                    # The first page is in memory, and not stored before the first commit: block 0 is the header.
                    counts = counts or self._pages.get(number) or block_array(self._load_page(number) or _NO_BLOCKS)
                    chunk = counts[place * CHUNK : (place + 1) * CHUNK]
                    free = [(start + index, 1) for index, count in enumerate(chunk) if not count]
                for block, got in free:
                    if block == first + length:
                        length += got
                        continue
                    if length:
                        yield first, length
                    first, length = block, got
        if length:
            yield first, length

    @property
    def end(self) -> int:
        """The number of blocks that the pages speak for."""
        return len(self._free) << PAGE_BITS


class Settlement:
    """What becomes possible once a generation is durable."""

    def __init__(self, blocks: Blocks, freed: list[int], loosened: list[int], pages: set[int]) -> None:
        self._blocks = blocks
        self._loosened = loosened
        self._pages = pages
        self._later = [block for block in freed if block in blocks._pinned]
        kept = set(self._later)
        self.freed = sorted(block for block in freed if block not in kept)  # to be punched, then `settle`

    def freed_runs(self) -> list[tuple[int, int]]:
        """The freed blocks as runs (first block, blocks)."""
        runs: list[tuple[int, int]] = []
        for block in self.freed:
            if runs and runs[-1][0] + runs[-1][1] == block:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((block, 1))
        return runs

    def keep(self, block: int, count: int) -> None:
        """These freed blocks could not be punched: the next generation tries again."""
        failed = set(range(block, block + count))
        self.freed = [each for each in self.freed if each not in failed]
        self._later.extend(sorted(failed))

    def settle(self) -> None:
        """The commit is durable and the freed blocks are punched: they may be handed out."""
        blocks = self._blocks
        for block in self.freed:
            blocks._pending.discard(block)
            number = block >> PAGE_BITS
            blocks._free[number][(block & _PAGE_MASK) // CHUNK] += 1
            blocks._first_page = min(blocks._first_page, number)
        for block in self._loosened:
            blocks._thaw(block)
        blocks._freed += self._later  # a thread still reads them, or they are not punched
        blocks._committing -= Counter(self._pages)


def block_array(stored: bytes) -> "array[int]":
    """The numbers of a stored array of u32."""
    counts = array("I")
    counts.frombytes(stored)
    return _swapped(counts)


def stored_array(values: "array[int]") -> bytes:
    """An array of u32 as it is stored."""
    return (_swapped(values[:]) if sys.byteorder == "big" else values).tobytes()


def _swapped(values: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _free_per_chunk(page: "array[int]") -> bytes:
    return bytes(page[start : start + CHUNK].count(0) for start in range(0, PAGE, CHUNK))
