"""Large overwrites side by side go to a thread; every op still finds the object as the ops before it left it."""

import random
from pathlib import Path

import pytest
import trio

from rbdfs.local import engine
from rbdfs.local.cluster import check_store, open_store
from rbdfs.rados import calls
from rbdfs.rados.api import IoCtx, Outcome
from rbdfs.rados.ops import CloneRange, Read, ReadOp, Reply, SnapContext, Truncate, Write, WriteOp, Zero

SIZE = 1 << 20
KIB = 1 << 10


@pytest.fixture(autouse=True)
def most_writes_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_LARGE", 32 * KIB)
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

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self.content[offset:end] = data
        self._submit(WriteOp([Write(offset, data)], self.snapc))

    def change(self, step: Zero | Truncate | CloneRange) -> None:
        self._submit(WriteOp([step], self.snapc))

    def read(self, offset: int, length: int) -> None:
        expected = bytes(self.content[offset : offset + length])
        self._submit(ReadOp([Read(offset, length)]), expected)

    def _submit(self, op: ReadOp | WriteOp, expected: bytes | None = None) -> None:
        self.left += 1

        def on_complete(outcome: Outcome) -> None:
            assert isinstance(outcome, Reply), outcome
            if expected is not None:
                self.answers.append((expected, bytes(outcome.outputs[0])))
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
