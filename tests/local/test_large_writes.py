"""Large overwrites go to a thread, or are answered first; every op finds the object as the ops before it left it."""

import random
import time
from pathlib import Path

import calls
import pytest
import trio

from rbdfs.errors import NoSpace, StoreFailure
from rbdfs.local import engine, media
from rbdfs.local.cluster import check_store, open_store
from rbdfs.local.media import Media
from rbdfs.rados.api import IoCtx, Outcome
from rbdfs.rados.ops import CloneRange, Read, ReadOp, Reply, SnapContext, Truncate, Write, WriteOp, Zero
from rbdfs.wire import Buffer

SIZE = 1 << 20
KIB = 1 << 10


@pytest.fixture(autouse=True)
def most_writes_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_LARGE", 32 * KIB)
    monkeypatch.setattr(engine, "_ANSWERED_FIRST", 16 * KIB)
    monkeypatch.setattr(engine, "_PROBE", 3)


class Submitter:
    """Ops on one object, submitted without waiting, beside what they must make of it."""

    def __init__(self, ioctx: IoCtx, name: str, content: bytes) -> None:
        self.ioctx = ioctx
        self.name = name
        self.content = bytearray(content)
        self.snapc = SnapContext()
        self.left = 0
        self.done = trio.Event()
        self.answers: list[tuple[bytes, bytes]] = []  # of reads: what should be there, what was

    def write(self, offset: int, data: bytes, *, looks: bool = False) -> None:
        """`looks`: whoever hears of the end reads at once, from within the callback."""
        end = offset + len(data)
        self.content[offset:end] = data
        self._submit(WriteOp([Write(offset, data)], self.snapc), looks_at=offset if looks else None)

    def change(self, step: Zero | Truncate | CloneRange) -> None:
        self._submit(WriteOp([step], self.snapc))

    def read(self, offset: int, length: int) -> None:
        expected = bytes(self.content[offset : offset + length])
        self._submit(ReadOp([Read(offset, length)]), expected)

    def _submit(self, op: ReadOp | WriteOp, expected: bytes | None = None, *, looks_at: int | None = None) -> None:
        self.left += 1

        def on_complete(outcome: Outcome) -> None:
            assert isinstance(outcome, Reply), outcome
            if expected is not None:
                self.answers.append((expected, bytes(outcome.outputs[0])))
            if looks_at is not None:
                self.read(looks_at, 4 * KIB)
            self.left -= 1
            if not self.left:
                self.done.set()

        self.ioctx.submit(self.name, op, on_complete)

    async def wait(self) -> None:
        while self.left:
            self.done = trio.Event()
            await self.done.wait()


@pytest.mark.parametrize("seed", range(6))
async def test_ops_in_any_mixture_are_done_in_order(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        content = chance.randbytes(SIZE)
        await calls.write(ioctx, "object", 0, content)
        await ioctx.flush()
        object_ = Submitter(ioctx, "object", content)
        snaps: list[tuple[int, bytes]] = []
        for _ in range(40):
            for _ in range(chance.randrange(1, 12)):
                offset = chance.randrange(SIZE)
                length = min(chance.choice([100, 4 * KIB, 64 * KIB, 300 * KIB]), SIZE - offset)
                match chance.randrange(10):
                    case 0 | 1:
                        object_.read(offset, length)
                    case 2:
                        object_.content[offset : offset + length] = bytes(length)
                        object_.change(Zero(offset, length))
                    case _:
                        object_.write(offset, chance.randbytes(length))
            if chance.random() < 0.1:
                snap = await ioctx.create_snap_id()
                snaps.append((snap, bytes(object_.content)))
                object_.snapc = SnapContext(snap, (snap, *object_.snapc.snaps))
            if chance.random() < 0.3:
                await ioctx.flush()
                assert object_.left == 0, "a flush waits for what is under way"
            if chance.random() < 0.3:
                await trio.lowlevel.checkpoint()
        object_.read(0, SIZE)
        await object_.wait()
        assert object_.answers
        assert all(expected == found for expected, found in object_.answers)
        for snap, seen in snaps:
            assert bytes(await calls.read(ioctx, "object", 0, SIZE, snap)) == seen
    assert (await check_store(path)).is_clean
    async with open_store(path) as cluster:
        assert bytes(await calls.read(await cluster.open_pool("rbd"), "object", 0, SIZE)) == object_.content


async def test_copies_of_what_is_being_written_are_whole(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "object", 0, bytes(SIZE))
        await calls.write(ioctx, "copy", 0, bytes(SIZE))
        for turn in range(1, 20):
            source = Submitter(ioctx, "object", bytes(SIZE))
            copy = Submitter(ioctx, "copy", bytes(SIZE))
            for at in range(0, SIZE, SIZE // 4):
                source.write(at, bytes([turn]) * (SIZE // 4))
            copy.change(CloneRange(0, "object", 0, SIZE))
            copy.content[:] = bytes([turn]) * SIZE
            copy.read(0, SIZE)
            await copy.wait()
            assert all(expected == found for expected, found in copy.answers)
            source.write(0, bytes([100 + turn]) * SIZE)
            await source.wait()
            assert set(bytes(await calls.read(ioctx, "copy", 0, SIZE))) == {turn}
            assert set(bytes(await calls.read(ioctx, "object", 0, SIZE))) == {100 + turn}


async def test_whoever_is_told_of_a_write_reads_it(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "object", 0, bytes(SIZE))
        object_ = Submitter(ioctx, "object", bytes(SIZE))
        for turn in range(1, 30):
            object_.write(turn * KIB, bytes([turn]) * (SIZE // 2), looks=True)
            await object_.wait()
        assert len(object_.answers) == 29
        assert all(expected == found for expected, found in object_.answers)


async def lose_a_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails under a write that has been answered: everybody is told, for good."""
    monkeypatch.setattr(Media, "has_room_to_overwrite", lambda *_: True)  # whatever the tests run on

    def fail(*_: object) -> None:
        raise StoreFailure("a bad sector")

    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "object", 0, b"o" * SIZE)
        await ioctx.flush()
        with monkeypatch.context() as patch:
            patch.setattr(Media, "write", fail)
            await calls.write(ioctx, "object", 0, b"n" * (SIZE // 2))
        for _ in range(2):
            with pytest.raises(StoreFailure, match="bad sector"):
                await ioctx.flush()
            with pytest.raises(StoreFailure, match="bad sector"):
                await calls.write(ioctx, "object", 0, b"later")
        assert bytes(await calls.read(ioctx, "object", 0, 0)) == b"o" * SIZE


@pytest.mark.complains("store failed")
async def test_a_write_that_fails_after_it_was_answered_fails_every_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    with pytest.raises(StoreFailure, match="bad sector"):
        await lose_a_write(path, monkeypatch)
    assert (await check_store(path)).is_clean
    async with open_store(path) as cluster:
        assert bytes(await calls.read(await cluster.open_pool("rbd"), "object", 0, SIZE)) == b"o" * SIZE


async def test_without_plenty_of_room_a_write_is_answered_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NoSpace("full")

    monkeypatch.setattr(media, "_PLENTY_OF_ROOM", 1 << 62)
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "object", 0, b"o" * SIZE)
        with monkeypatch.context() as patch:
            patch.setattr(Media, "write", fail)
            for _ in range(4):
                with pytest.raises(NoSpace):
                    await calls.write(ioctx, "object", 0, b"n" * (SIZE // 2))
        await ioctx.flush()
        await calls.write(ioctx, "object", 0, b"n" * (SIZE // 2))


async def test_a_write_into_what_was_never_written_is_answered_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever room there is when it is asked for: others may take it, and a quota may not let us have it."""

    def fail(*_: object) -> None:
        raise NoSpace("full")

    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        for offset in range(0, SIZE, 64 * KIB):
            await calls.write(ioctx, "object", offset, b"o" * 4096)
        await ioctx.flush()
        with monkeypatch.context() as patch:
            patch.setattr(Media, "write", fail)
            for _ in range(4):
                with pytest.raises(NoSpace):
                    await calls.write(ioctx, "object", 0, b"n" * (SIZE // 2))
        await ioctx.flush()
        await calls.write(ioctx, "object", 0, b"n" * (SIZE // 2))


async def test_removed_pool_and_closed_store_wait_for_the_thread(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        await cluster.create_pool("kept")
        ioctx, kept = await cluster.open_pool("rbd"), await cluster.open_pool("kept")
        for each in (ioctx, kept):
            await calls.write(each, "object", 0, bytes(SIZE))
        doomed, object_ = Submitter(ioctx, "object", bytes(SIZE)), Submitter(kept, "object", bytes(SIZE))
        for turn in range(8):
            doomed.write(0, bytes([turn]) * SIZE)
        await cluster.remove_pool("rbd")
        await doomed.wait()
        await kept.flush()
        for turn in range(8):
            object_.write(0, bytes([turn]) * SIZE)
        object_.change(Truncate(SIZE // 2))
    assert object_.left == 0
    assert (await check_store(path)).is_clean
    async with open_store(path) as cluster:
        assert bytes(await calls.read(await cluster.open_pool("kept"), "object", 0, SIZE)) == b"\7" * (SIZE // 2)


async def test_what_the_end_of_a_threads_write_submits_is_done_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block to be copied that is not in memory, another write for the thread, and one that keeps a snapshot."""
    read, read_cached = Media.read, Media.read_cached
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"0" * (SIZE + 64 * KIB))
        await ioctx.operate("p", WriteOp([CloneRange(0, "o", SIZE, 64 * KIB)]))  # the last block is shared now
        snap_id = await ioctx.create_snap_id()
        done = trio.Event()
        monkeypatch.setattr(engine, "_PROBE", 1)
        monkeypatch.setattr(Media, "read_cached", lambda *_: False)

        def read_slowly(self: Media, offset: int, view: Buffer) -> None:
            time.sleep(0.05)
            read(self, offset, view)

        write = Media.write

        def write_slowly(self: Media, offset: int, data: Buffer) -> None:
            if len(data) == SIZE and bytes(data[:1]) == b"B":
                time.sleep(0.3)
            write(self, offset, data)

        monkeypatch.setattr(Media, "read", read_slowly)
        monkeypatch.setattr(Media, "write", write_slowly)

        def more(_outcome: Outcome) -> None:
            ioctx.submit("o", WriteOp([Write(SIZE, b"A" * 4096)]), lambda _: None)
            ioctx.submit("o", WriteOp([Write(0, b"B" * SIZE)]), lambda _: None)
            newer = SnapContext(snap_id, (snap_id,))
            ioctx.submit("o", WriteOp([Write(0, b"C" * 4096)], newer), lambda _: done.set())

        ioctx.submit("o", WriteOp([Write(0, b"1" * SIZE)]), more)
        await done.wait()
        await ioctx.flush()
        monkeypatch.setattr(Media, "read_cached", read_cached)
        head = await calls.read(ioctx, "o", 0, 0)
        assert head == b"C" * 4096 + b"B" * (SIZE - 4096) + b"A" * 4096 + b"0" * (60 * KIB)
        kept = (await ioctx.operate("o", ReadOp([Read(0, 0)], snap_id))).outputs[0]
        assert bytes(kept) == b"B" * SIZE + b"A" * 4096 + b"0" * (60 * KIB)


async def test_what_is_cloned_when_a_write_was_just_answered_is_what_it_wrote(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "source", 0, b"o" * SIZE)
        await ioctx.flush()
        done = trio.Event()

        def clone(_outcome: Outcome) -> None:
            ioctx.submit("target", WriteOp([CloneRange(0, "source", 10, 20 * KIB)]), lambda _: done.set())

        ioctx.submit("source", WriteOp([Write(0, b"n" * (24 * KIB))]), clone)
        await done.wait()
        assert await calls.read(ioctx, "target", 0, 0) == b"n" * (20 * KIB)
