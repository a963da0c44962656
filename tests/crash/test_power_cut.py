"""The engine is stopped at every write, punch, sync and commit of a story, and must come back right each time."""

import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import calls
import pytest
import trio
import trio.testing
from crash.model import History, Thing, Things
from crash.power import CutMedia, PowerCut

from rbdfs.errors import NotFound
from rbdfs.local import store
from rbdfs.local.backend import Place
from rbdfs.local.check import check_files
from rbdfs.local.cluster import open_store
from rbdfs.local.owner import Lock, Owner
from rbdfs.local.session import Session
from rbdfs.rados.api import IoCtx, Outcome
from rbdfs.rados.ops import (
    HEAD,
    Append,
    CloneRange,
    Create,
    OmapSet,
    PoolId,
    Remove,
    Reply,
    Rollback,
    SnapContext,
    SnapId,
    Truncate,
    Write,
    WriteFull,
    WriteOp,
    Zero,
)

BLOCK = 65_536
POOL = Place(PoolId(1), "")


@pytest.fixture(scope="module")
def empty_store() -> Iterator[Path]:
    """A store with one pool, on a filesystem whose syncs cost nothing."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as directory:
        path = Path(directory) / "empty"

        async def make() -> None:
            async with open_store(path, create=True) as cluster:
                await cluster.create_pool("rbd")

        trio.run(make)
        yield path


@asynccontextmanager
async def running(path: Path, media: CutMedia | None) -> AsyncIterator[tuple[Owner, Session]]:
    """The engine of a store, on that data file; left without closing anything in order."""
    lock = Lock.take(path)
    assert lock is not None
    owner: Owner | None = None
    try:
        async with trio.open_nursery() as nursery:
            owner = Owner.open(path, lock, nursery, media)
            yield owner, owner.session(owner.new_client())
            nursery.cancel_scope.cancel()
    finally:
        lock.release()
        if owner is not None:
            owner.engine.end_threads()
            owner.engine.database.close()
            owner.engine.media.close()


class Story:
    """Ops on a store and on the model beside it."""

    def __init__(self, session: Session, history: History, seed: int) -> None:
        self._session = session
        self._history = history
        self._chance = random.Random(seed)
        self._snapc = SnapContext()

    def _op(self, name: str, *steps: object) -> None:
        outcomes: list[Outcome] = []
        self._session.submit(POOL, name, WriteOp(list(steps), self._snapc), outcomes.append)  # type: ignore[arg-type]
        assert isinstance(outcomes[0], Reply), outcomes

    def _bytes(self, length: int) -> bytes:
        return self._chance.randbytes(min(length, 256)) * (length // 256 + 1)

    def write(self, name: str, offset: int, length: int) -> None:
        data = self._bytes(length)[:length]
        self._history.step().setdefault(name, Thing()).write(offset, data)
        self._op(name, Write(offset, data))

    def append(self, name: str, length: int) -> None:
        data = self._bytes(length)[:length]
        thing = self._history.step().setdefault(name, Thing())
        thing.write(len(thing.data), data)
        self._op(name, Append(data))

    def replace(self, name: str, length: int, **omap: bytes) -> None:
        """Data and omap in one op."""
        data = self._bytes(length)[:length]
        thing = self._history.step().setdefault(name, Thing())
        thing.data[:] = data
        thing.omap.update(omap)
        self._op(name, WriteFull(data), OmapSet(omap))

    def change(self, name: str, offset: int, length: int, **omap: bytes) -> None:
        """A part of the data, and omap, in one op."""
        data = self._bytes(length)[:length]
        thing = self._history.step().setdefault(name, Thing(is_ordered=True))
        thing.write(offset, data)
        thing.omap.update(omap)
        self._op(name, Write(offset, data), OmapSet(omap))

    def omap(self, name: str, **omap: bytes) -> None:
        self._history.step().setdefault(name, Thing()).omap.update(omap)
        self._op(name, OmapSet(omap))

    def zero(self, name: str, offset: int, length: int) -> None:
        self._history.step()[name].zero(offset, length)
        self._op(name, Zero(offset, length))

    def truncate(self, name: str, size: int) -> None:
        self._history.step()[name].truncate(size)
        self._op(name, Create(), Truncate(size))

    def remove(self, name: str) -> None:
        del self._history.step()[name]
        outcomes: list[Outcome] = []
        self._session.submit(POOL, name, WriteOp([Remove()], self._snapc), outcomes.append)
        assert isinstance(outcomes[0], Reply), outcomes

    def share(self, name: str, source: str, length: int) -> None:
        things = self._history.step()
        things.setdefault(name, Thing()).write(0, bytes(things[source].data[:length]).ljust(length, b"\0"))
        self._op(name, CloneRange(0, source, 0, length))

    def roll_back(self, name: str, snap_id: SnapId) -> None:
        old = self._history.snaps[snap_id].get(name)
        things = self._history.step()
        things.pop(name, None)
        if old is not None:
            things[name] = Thing(old.data[:], dict(old.omap))
        self._op(name, Rollback(snap_id))

    async def flush(self) -> None:
        await self._session.flush()
        self._history.flushed()

    async def snapshot(self) -> SnapId:
        await self.flush()
        snap_id = await self._session.create_snap_id(POOL.pool)
        self._snapc = SnapContext(snap_id, (snap_id, *self._snapc.snaps))
        self._history.snaps[snap_id] = {
            name: Thing(thing.data[:], dict(thing.omap)) for name, thing in self._history.now.items()
        }
        return snap_id

    async def forget_snapshot(self, snap_id: SnapId) -> None:
        del self._history.snaps[snap_id]
        self._snapc = SnapContext(self._snapc.seq, tuple(snap for snap in self._snapc.snaps if snap != snap_id))
        await self._session.remove_snap_id(POOL.pool, snap_id)

    async def tell(self) -> None:
        """Everything that an engine does, with blocks shared, copied, overwritten, freed and used again."""
        self.write("a", 0, 3 * BLOCK)
        self.write("b", BLOCK - 100, 200)
        self.omap("header", size=b"1")
        await self.flush()
        self.write("a", 1000, 4096)
        self.write("b", 0, 10)
        self.omap("header", size=b"2", order=b"22")
        self.append("log", 100)
        await self.flush()
        self.append("log", 100)
        self.change("map", 0, 5000, bits=b"1")
        self.change("map", 100, 8, bits=b"2")
        first = await self.snapshot()
        self.write("a", 5000, 300)
        self.zero("a", BLOCK, BLOCK)
        self.zero("a", 10, 20)
        self.truncate("b", 50)
        self.replace("header", 3000, size=b"3")
        await self.flush()
        self.change("map", 200, 8, bits=b"3")
        self.change("map", 100, 8, bits=b"4")
        self.append("log", 5000)
        self.truncate("b", 2 * BLOCK)
        self.write("b", BLOCK, 100)
        self.share("c", "a", 3 * BLOCK)
        self.remove("log")
        await self.flush()
        self.write("a", 2 * BLOCK, BLOCK)
        self.write("c", 5, 100)
        second = await self.snapshot()
        self.roll_back("a", first)
        self.write("a", 7, 7)
        self.remove("c")
        self.write("d", 0, 2 * BLOCK)
        await self.flush()
        self.write("e", 0, 2 * BLOCK)
        await self.forget_snapshot(first)
        await trio.testing.wait_all_tasks_blocked(0.01)
        self.write("a", 0, 100)
        self.zero("d", 100, 2 * BLOCK)
        await self.flush()
        await self.forget_snapshot(second)
        await trio.testing.wait_all_tasks_blocked(0.01)
        self.write("a", 50, 2 * BLOCK)
        self.remove("d")
        self.replace("header", 10, size=b"4")
        self.write("d", 10, 10)
        await self.flush()
        self.change("map", 50, 100, bits=b"5")
        self.append("e", 100)
        self.write("f", 0, 100)

    async def tell_at_random(self) -> None:
        """Random ops while flushes are under way; an op often falls into the middle of a commit."""
        names = ["a", "b", "c", "d"]
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                name, other = self._chance.sample(names, 2)
                offset, length = self._chance.randrange(3 * BLOCK), self._chance.choice([100, 4096, BLOCK, 2 * BLOCK])
                match self._chance.randrange(12):
                    case 0 if name in self._history.now:
                        self.zero(name, offset, length)
                    case 1 if name in self._history.now:
                        self.truncate(name, offset)
                    case 2 if name in self._history.now:
                        self.remove(name)
                    case 3 if other in self._history.now:
                        self.share(name, other, length)
                    case 4:
                        self.append(name, length)
                    case 5 | 6:
                        nursery.start_soon(self._flush_beside)
                        await trio.sleep(self._chance.choice([0, 0, 0.001]))
                    case 7:
                        self.change("map", offset % 1000, 8, bits=b"%d" % offset)
                    case _:
                        self.write(name, offset, length)

    async def _flush_beside(self) -> None:
        state = self._history.now
        await self._session.flush()
        if any(state is each for each in self._history.states):
            self._history.flushed(state)


async def found(ioctx: IoCtx, snap_id: SnapId = HEAD, names: set[str] | None = None) -> Things:
    """What the store holds, or what a snapshot shows of some names."""
    things: Things = {}
    if names is None:
        names = {name async for name in ioctx.list_objects()}
    for name in names:
        try:
            data = await calls.read(ioctx, name, 0, 0, snap_id)
        except NotFound:
            continue
        omap = {} if snap_id != HEAD else {key: value async for key, value in calls.omap_items(ioctx, name)}
        things[name] = Thing(bytearray(data), omap)
    return things


async def judge(path: Path, history: History) -> None:
    """The store as the crash left it must be clean, and hold what it may hold."""
    report = await check_files(path)
    assert report.findings == []
    async with open_store(path) as cluster:
        ioctx = await cluster.open_pool("rbd")
        assert history.explains(await found(ioctx)) == ""
        for snap_id, things in history.snaps.items():
            shown = await found(ioctx, SnapId(snap_id), {*things, "a", "b", "c", "d", "log"})
            assert {name: thing.data for name, thing in shown.items()} == {
                name: thing.data for name, thing in things.items()
            }
        # What lies behind an object's end must be empty, too.
        for name, thing in (await found(ioctx)).items():
            await ioctx.operate(name, WriteOp([Truncate(len(thing.data) + BLOCK)]))
            assert bytes(await calls.read(ioctx, name, len(thing.data), 0)) == bytes(BLOCK)
        # What is free must be empty: a new object reads as zeroes where nothing was written.
        await ioctx.operate("fresh", WriteOp([Write(40 * BLOCK, b"x"), *(Write(i * BLOCK, b"x") for i in range(40))]))
        fresh = await calls.read(ioctx, "fresh", 0, 0)
        assert fresh.count(b"\0") == len(fresh) - 41
    report = await check_files(path)
    assert report.findings == []


def copy_store(source: Path, target: Path) -> None:
    """Copy an empty store, its sparse data file as well."""
    target.mkdir()
    shutil.copy(source / store.METADATA, target)
    with (source / store.DATA).open("rb") as old, (target / store.DATA).open("wb") as new:
        new.write(old.read(BLOCK))
        new.truncate(old.seek(0, 2))


async def cut_once(path: Path, cut_at: int, tell: Callable[[Story], Awaitable[None]] = Story.tell) -> bool:
    """Tell a story until the cut, and judge; False where it came to its end before."""
    media = CutMedia(path / store.DATA, cut_at)
    history = History()
    finished = False
    try:
        async with running(path, media) as (_, session):
            await tell(Story(session, history, seed=cut_at))
            finished = True
    except BaseException as err:
        if not _is_cut(err):
            raise
        damaged = CutMedia(path / store.DATA, cut_at)
        damaged._versions, damaged._synced_size = media._versions, media._synced_size
        damaged.fall_apart(random.Random(cut_at))
        damaged.close()
    await judge(path, history)
    return not finished


def _is_cut(err: BaseException) -> bool:
    if isinstance(err, BaseExceptionGroup):
        return any(_is_cut(each) for each in err.exceptions)
    return isinstance(err, PowerCut)


@pytest.mark.complains("the engine stopped", "power")
@pytest.mark.parametrize("part", range(4))
async def test_power_cut_at_every_call(empty_store: Path, part: int) -> None:
    cut_at = 1 + part
    while True:
        path = empty_store.with_name(f"cut-{part}-{cut_at}")
        copy_store(empty_store, path)
        went_on = await cut_once(path, cut_at)
        shutil.rmtree(path)
        if not went_on:
            break
        cut_at += 4
    assert cut_at > 60


async def test_power_cut_while_ops_and_flushes_overlap(empty_store: Path) -> None:
    for cut_at in range(5, 125, 3):
        path = empty_store.with_name(f"overlap-{cut_at}")
        copy_store(empty_store, path)
        await cut_once(path, cut_at, Story.tell_at_random)
        shutil.rmtree(path)
