"""The allocator against a dictionary: random operations, with what must always hold checked after each."""

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rbdfs.errors import NoSpace
from rbdfs.local import blocks as blocks_module
from rbdfs.local.batch import Batch
from rbdfs.local.blocks import CHUNK, PAGE, Blocks, Settlement


class BlocksMachine(RuleBasedStateMachine):
    """Counts, pins and generations of a data file, and what a dictionary says they are."""

    @initialize()
    def start(self) -> None:
        self.stored: dict[int, tuple[bytes, bytes]] = {}
        self.grown = 0
        self.blocks = Blocks({}, self.load, self.grow)
        self.counts: dict[int, int] = {0: 1}
        self.dirty_content: set[int] = {0}  # blocks that may hold bytes: in use, or freed and not punched yet
        self.loose: set[int] = set()
        self.pins: dict[int, int] = {}
        self.under_way: list[tuple[Batch, Settlement, set[int]]] = []

    def load(self, number: int) -> bytes | None:
        return self.stored[number][1] if number in self.stored else None

    def grow(self, count: int) -> None:
        self.grown = max(self.grown, count)

    def in_use(self) -> list[int]:
        return sorted(block for block, count in self.counts.items() if count and block)

    @rule(index=st.integers(0, 200), want=st.integers(1, 100), small=st.booleans(), preferred=st.integers(0, 300))
    def allocate(self, index: int, want: int, small: bool, preferred: int) -> None:
        first, got = self.blocks.allocate(index, want, preferred, small=small)
        assert 1 <= got <= want
        for block in range(first, first + got):
            assert 0 < block < self.grown
            assert not self.counts.get(block), "handed out twice"
            assert block not in self.dirty_content, "handed out before it was punched"
            self.counts[block] = 1
            self.dirty_content.add(block)
            assert self.blocks.is_exclusive(block)

    @precondition(lambda self: self.in_use())
    @rule(data=st.data())
    def retain(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.in_use()))
        self.blocks.retain(block)
        self.counts[block] += 1

    @precondition(lambda self: self.in_use())
    @rule(data=st.data(), many=st.booleans())
    def release(self, data: st.DataObject, many: bool) -> None:
        block = data.draw(st.sampled_from(self.in_use()))
        for each in range(block, block + (CHUNK if many else 1)):
            if self.counts.get(each):
                self.counts[each] -= 1
                assert self.blocks.release(each) == (self.counts[each] == 0)
                if self.counts[each]:
                    self.loose.add(each)

    @precondition(lambda self: self.in_use())
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.in_use()))
        self.blocks.pin([block])
        self.pins[block] = self.pins.get(block, 0) + 1

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.pins)))
        self.blocks.unpin([block])
        self.pins[block] -= 1
        if not self.pins[block]:
            del self.pins[block]

    @precondition(lambda self: not self.under_way)
    @rule()
    def take(self) -> None:
        batch = Batch()
        settlement = self.blocks.take(batch)
        assert not set(settlement.freed) & set(self.pins), "punched under a reader"
        self.under_way.append((batch, settlement, self.loose))
        self.loose = set()

    @precondition(lambda self: self.under_way)
    @rule()
    def commit(self) -> None:
        batch, settlement, _ = self.under_way.pop()
        self.stored.update({number: (free, counts) for number, free, counts in batch.pages})
        for first, count in settlement.freed_runs():
            self.dirty_content -= set(range(first, first + count))
        settlement.settle()

    @precondition(lambda self: not self.under_way and not self.pins)
    @rule()
    def reopen(self) -> None:
        self.take()
        self.commit()
        self.take()
        self.commit()
        self.blocks = Blocks({number: free for number, (free, _) in self.stored.items()}, self.load, self.grow)
        free = {block for first, count in self.blocks.free_runs() for block in range(first, first + count)}
        assert free == set(range(self.blocks.end)) - {0, *self.in_use()}
        self.dirty_content = {0, *self.in_use()}

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "blocks"):
            return
        unsettled = self.loose.union(*(loose for _, _, loose in self.under_way))
        for block, count in self.counts.items():
            assert self.blocks.count(block) == count
            if block:
                exclusive = count == 1 and block not in unsettled and block not in self.pins
                assert self.blocks.is_exclusive(block) == exclusive


TestBlocks = BlocksMachine.TestCase
TestBlocks.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def fresh() -> Blocks:
    return Blocks({}, lambda number: None, lambda count: None)


def test_object_filled_in_any_order_is_contiguous() -> None:
    blocks = fresh()
    first, got = blocks.allocate(5, 1, 0)
    assert got == 1
    assert blocks.allocate(3, 2, first - 2) == (first - 2, 2)
    assert blocks.allocate(6, 58, first + 1) == (first + 1, 58)


def test_small_objects_share_a_chunk() -> None:
    blocks = fresh()
    found = {blocks.allocate(0, 1, 0, small=True)[0] // CHUNK for _ in range(CHUNK)}
    assert len(found) == 1


def test_file_that_cannot_grow_is_filled_to_the_last_block() -> None:
    limit = 2 * PAGE

    def grow(count: int) -> None:
        if count > limit:
            raise NoSpace("as large as a file can be")

    blocks = Blocks({}, lambda number: None, grow)
    found = {blocks.allocate(index * CHUNK, 1, 0)[0] for index in range(limit - 1)}
    assert found == set(range(1, limit))
    with pytest.raises(NoSpace):
        blocks.allocate(0, 1, 0)


def test_a_page_of_two_generations_stays_until_both_are_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "PAGES_KEPT", 1)
    stored: dict[int, bytes] = {}
    blocks = Blocks({}, stored.get, lambda count: None)
    older, newer = Batch(), Batch()
    first, _ = blocks.allocate(0, 1, 0)
    settlement = blocks.take(older)
    second, _ = blocks.allocate(1, 1, first + 1)
    blocks.take(newer)
    stored.update((number, counts) for number, _, counts in older.pages)
    settlement.settle()
    blocks.is_exclusive(PAGE)  # brings another page in, and sends one away
    assert blocks.is_exclusive(second)
