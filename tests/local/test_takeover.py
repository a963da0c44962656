"""Several processes on one store: who owns it, who is attached, and what happens when the owner goes or dies."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import calls
import pytest
import trio
import trio.testing
from local.slow_media import MIB, slow_down_large_writes

from rbdfs.errors import Busy, StoreFailure
from rbdfs.image import directory
from rbdfs.image.features import Feature
from rbdfs.image.image import open_image
from rbdfs.local import cluster as cluster_module, remote, store
from rbdfs.local.absentees import Process
from rbdfs.local.cluster import LocalCluster, open_store
from rbdfs.local.engine import Engine
from rbdfs.local.link import Link
from rbdfs.local.media import Media
from rbdfs.local.owner import Lock
from rbdfs.local.remote import Remote
from rbdfs.local.session import Session
from rbdfs.rados.api import IoCtx, NotifyEvent, NotifyReply, Outcome, WatchEvent, WatchLost
from rbdfs.rados.ops import Append, Create, Reply, Write, WriteOp

ROOT = Path(__file__).parents[2]


class OwnerProcess:
    """Another process that has the store open."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("owner_process.py")), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
        )
        assert self.process.stdout.readline() == "ready\n"

    def tell(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        if line != "leave":
            assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[OwnerProcess]:
    process = OwnerProcess(tmp_path / "store")
    yield process
    process.end()


@contextlib.asynccontextmanager
async def open_owner(path: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A store with a pool, open in a task of its own; gives what makes that leave, and waits until it has."""
    opened, leaving, left = trio.Event(), trio.Event(), trio.Event()
    failures: list[BaseException] = []

    async def own() -> None:
        try:
            async with open_store(path, create=True) as cluster:
                await cluster.create_pool("rbd")
                opened.set()
                await leaving.wait()
        except StoreFailure as err:
            failures.append(err)
        left.set()

    async def leave() -> None:
        leaving.set()
        await left.wait()
        if failures:
            raise failures.pop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(own)
        await opened.wait()
        yield leave
        leaving.set()


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> dict[LocalCluster, trio.Event]:
    """Who does not look for the next owner before its event, as a process that does not run."""
    events: dict[LocalCluster, trio.Event] = {}
    reach = LocalCluster._reach

    async def reach_late(self: LocalCluster, patience: float) -> Lock | Link:
        if self in events:
            await events[self].wait()
        return await reach(self, patience)

    monkeypatch.setattr(LocalCluster, "_reach", reach_late)
    return events


async def until_owner(cluster: LocalCluster) -> None:
    with trio.fail_after(20):
        while not isinstance(cluster.backend, Session):  # noqa: ASYNC110  # no event tells that
            await trio.sleep(0.01)


async def content(ioctx: IoCtx, name: str) -> bytes:
    return bytes(await calls.read(ioctx, name, 0, 0))


async def test_second_process_attaches_and_sees_the_same(owner: OwnerProcess, tmp_path: Path) -> None:
    owner.tell("write greeting hello")
    async with open_store(tmp_path / "store") as cluster:
        assert isinstance(cluster.backend, Remote)
        ioctx = await cluster.open_pool("rbd")
        assert await content(ioctx, "greeting") == b"hello"
        await calls.write(ioctx, "answer", 0, b"x" * 3_000_000)
        assert len(await content(ioctx, "answer")) == 3_000_000


async def test_owner_leaves_and_an_attached_process_goes_on(owner: OwnerProcess, tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as cluster:
        ioctx = await cluster.open_pool("rbd")
        identity = (cluster.instance_id, cluster.address, cluster.fsid)
        await calls.write(ioctx, "o", 0, b"not flushed by us")
        owner.tell("leave")
        assert await content(ioctx, "o") == b"not flushed by us"
        await until_owner(cluster)
        assert (cluster.instance_id, cluster.address, cluster.fsid) == identity
        await calls.write(ioctx, "o", 0, b"N")
    async with open_store(tmp_path / "store") as cluster:
        assert await content(await cluster.open_pool("rbd"), "o") == b"Not flushed by us"


async def test_ops_during_the_change_of_owners_are_done_once_each(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        leave = trio.Event()

        async def own(task_status: trio.TaskStatus[None]) -> None:
            async with open_store(tmp_path / "store", create=True) as first:
                await first.create_pool("rbd")
                task_status.started()
                await leave.wait()

        await nursery.start(own)
        async with open_store(tmp_path / "store") as cluster:
            ioctx = await cluster.open_pool("rbd")
            for number in range(200):
                if number == 100:
                    leave.set()
                await ioctx.operate(f"o.{number:03}", WriteOp([Create(exclusive=True)]))
            await until_owner(cluster)
            assert len([name async for name in ioctx.list_objects()]) == 200


@pytest.mark.complains("store failed", "its owner died")
async def test_owner_that_cannot_flush_does_not_leave_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(_self: Media) -> None:
        raise StoreFailure("a bad sector")

    async def write_and_flush(leave: Callable[[], Awaitable[None]]) -> None:
        async with open_store(tmp_path / "store") as cluster:
            ioctx = await cluster.open_pool("rbd")
            await calls.write(ioctx, "o", 0, b"taken, and not flushed")
            with monkeypatch.context() as broken:
                broken.setattr(Media, "sync", sync)
                with pytest.raises(StoreFailure, match="a bad sector"):
                    await leave()
            with pytest.raises(StoreFailure, match="may be lost"):
                await ioctx.flush()

    async with open_owner(tmp_path / "store") as leave:
        with pytest.raises(StoreFailure, match="may be lost"):  # at the end, too
            await write_and_flush(leave)


async def test_who_comes_while_the_owner_closes_is_served_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection waits in the owner's backlog, and its greeting is read when the engine is closed already."""
    close_engine, link_connect = store.close_engine, Link.connect
    connected, may_close = trio.Event(), trio.Event()

    async def close_late(engine: Engine) -> None:
        await close_engine(engine)
        may_close.set()
        await trio.sleep(0.3)

    def connect(path: Path, name: str) -> Link:
        link = link_connect(path, name)
        connected.set()
        return link

    async with open_owner(tmp_path / "store") as leave, trio.open_nursery() as nursery:
        monkeypatch.setattr(store, "close_engine", close_late)
        monkeypatch.setattr(Link, "connect", connect)

        async def come() -> None:
            async with open_store(tmp_path / "store") as cluster:
                ioctx = await cluster.open_pool("rbd")
                await calls.write(ioctx, "o", 0, b"kept")
                await ioctx.flush()
                await until_owner(cluster)
                assert await calls.read(ioctx, "o", 0, 0) == b"kept"

        greet = LocalCluster._greet

        async def greet_late(self: LocalCluster, link: Link) -> None:
            with trio.move_on_after(5):
                await may_close.wait()
            await greet(self, link)

        monkeypatch.setattr(LocalCluster, "_greet", greet_late)
        nursery.start_soon(come)
        await connected.wait()
        await leave()
    async with open_store(tmp_path / "store") as cluster:
        assert await calls.read(await cluster.open_pool("rbd"), "o", 0, 0) == b"kept"


async def test_owner_may_take_its_time_to_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_engine = store.close_engine

    async def close_slowly(engine: Engine) -> None:
        await trio.sleep(1)
        await close_engine(engine)

    monkeypatch.setattr(cluster_module, "_PATIENCE", 0.2)
    async with open_owner(tmp_path / "store") as leave, open_store(tmp_path / "store") as cluster:
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"before")
        monkeypatch.setattr(store, "close_engine", close_slowly)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            await trio.sleep(0.1)
            await calls.write(ioctx, "o", 0, b"during")
        monkeypatch.setattr(store, "close_engine", close_engine)
        await until_owner(cluster)
        assert await calls.read(ioctx, "o", 0, 0) == b"during"


async def test_what_waits_when_the_owner_leaves_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An op waits behind a write in a thread: the owner does it, and says so."""
    async with open_owner(tmp_path / "store") as leave, open_store(tmp_path / "store") as cluster:
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"a" * MIB)
        slow_down_large_writes(monkeypatch)
        outcomes: list[object] = []
        ioctx.submit("o", WriteOp([Write(0, b"b" * MIB)]), outcomes.append)
        ioctx.submit("o", WriteOp([Append(b"once")]), outcomes.append)
        await trio.sleep(0.1)
        await leave()
        await until_owner(cluster)
        assert [type(outcome) for outcome in outcomes] == [Reply, Reply]
        assert await calls.read(ioctx, "o", 0, 0) == b"b" * MIB + b"once"


async def test_who_takes_over_does_its_ops_in_order(tmp_path: Path, away: dict[LocalCluster, trio.Event]) -> None:
    """One is submitted when the first one that nobody has answered yet is: it comes behind all of these."""
    async with open_owner(tmp_path / "store") as leave, open_store(tmp_path / "store") as cluster:
        ioctx = await cluster.open_pool("rbd")
        may_reach = away[cluster] = trio.Event()
        await leave()
        done: list[bytes] = []

        def append(text: bytes, *more: bytes) -> None:
            def on_complete(_outcome: Outcome) -> None:
                done.append(text)
                for each in more:
                    append(each)

            ioctx.submit("o", WriteOp([Append(text)]), on_complete)

        append(b"1st ", b"4th")
        append(b"2nd ")
        append(b"3rd ")
        may_reach.set()
        await until_owner(cluster)
        assert await content(ioctx, "o") == b"".join(done) == b"1st 2nd 3rd 4th"


async def test_watch_is_lost_with_the_owner(owner: OwnerProcess, tmp_path: Path) -> None:
    owner.tell("write o x")
    events: list[WatchEvent] = []
    async with open_store(tmp_path / "store") as cluster:
        ioctx = await cluster.open_pool("rbd")
        await ioctx.watch("o", events.append)
        owner.tell("leave")
        await until_owner(cluster)
        await trio.testing.wait_all_tasks_blocked()
        assert [type(event) for event in events] == [WatchLost]
        watch = await ioctx.watch("o", events.append)
        assert len(await calls.list_watchers(ioctx, "o")) == 1
        await watch.close()


async def test_next_owner_knows_who_watched_and_notifies_it(
    tmp_path: Path, away: dict[LocalCluster, trio.Event]
) -> None:
    path = tmp_path / "store"
    async with open_owner(path) as leave, open_store(path) as next_owner, open_store(path) as watcher:
        theirs, ours = await watcher.open_pool("rbd"), await next_owner.open_pool("rbd")
        await calls.write(theirs, "o", 0, b"x")
        events: list[WatchEvent] = []
        lost = trio.Event()

        def on_event(event: WatchEvent) -> None:
            events.append(event)
            lost.set()

        old = await theirs.watch("o", on_event)
        away[watcher] = trio.Event()
        await leave()
        await until_owner(next_owner)
        assert [each.cookie for each in await calls.list_watchers(ours, "o")] == [old.cookie]
        replies: list[NotifyReply] = []

        async def notify() -> None:
            replies.append(await ours.notify("o", b"news"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(notify)
            await trio.sleep(0.1)
            assert not replies
            away.pop(watcher).set()
            await lost.wait()
            new = await theirs.watch("o", events.append)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert [type(event) for event in events] == [WatchLost, NotifyEvent]
            new.acknowledge(events[1].notify_id, b"heard")
        assert replies == [NotifyReply({(watcher.instance_id, new.cookie): b"heard"}, [])]
        assert [each.cookie for each in await calls.list_watchers(ours, "o")] == [new.cookie]


async def watchers_until_gone(tmp_path: Path, away: dict[LocalCluster, trio.Event], *, comes: bool) -> float:
    """Seconds for which the next owner keeps the place of who watched, and does not watch again."""
    path = tmp_path / "store"
    async with open_owner(path) as leave, open_store(path) as next_owner, open_store(path) as watcher:
        theirs, ours = await watcher.open_pool("rbd"), await next_owner.open_pool("rbd")
        await calls.write(theirs, "o", 0, b"x")
        await theirs.watch("o", lambda _: None, seconds=30)
        away[watcher] = trio.Event()
        await leave()
        await until_owner(next_owner)
        if comes:
            away[watcher].set()
        begin = trio.current_time()
        with trio.fail_after(60):
            while await calls.list_watchers(ours, "o"):  # noqa: ASYNC110  # no event tells that
                await trio.sleep(0.5)
        away.pop(watcher).set()
        return trio.current_time() - begin


async def test_who_does_not_come_is_waited_for_as_long_as_its_watch_says(
    tmp_path: Path, away: dict[LocalCluster, trio.Event], autojump_clock: trio.testing.MockClock
) -> None:
    assert 29 < await watchers_until_gone(tmp_path, away, comes=False) < 33


async def test_who_comes_and_does_not_watch_again_is_not_waited_for_long(
    tmp_path: Path, away: dict[LocalCluster, trio.Event], autojump_clock: trio.testing.MockClock
) -> None:
    assert await watchers_until_gone(tmp_path, away, comes=True) < 10


async def test_whose_process_has_gone_is_not_waited_for(
    tmp_path: Path, away: dict[LocalCluster, trio.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Process, "has_gone", True)
    assert await watchers_until_gone(tmp_path, away, comes=False) < 10


async def test_fenced_client_is_not_waited_for(tmp_path: Path, away: dict[LocalCluster, trio.Event]) -> None:
    path = tmp_path / "store"
    async with open_owner(path) as leave, open_store(path) as next_owner, open_store(path) as watcher:
        theirs, ours = await watcher.open_pool("rbd"), await next_owner.open_pool("rbd")
        await calls.write(theirs, "o", 0, b"x")
        await theirs.watch("o", lambda _: None)
        away[watcher] = trio.Event()
        await leave()
        await until_owner(next_owner)
        await next_owner.blocklist(watcher.address)
        assert await calls.list_watchers(ours, "o") == []
        away.pop(watcher).set()


async def test_image_in_use_is_not_removed_while_the_store_changes_hands(
    tmp_path: Path, away: dict[LocalCluster, trio.Event]
) -> None:
    path = tmp_path / "store"
    async with open_owner(path) as leave, open_store(path) as next_owner, open_store(path) as user:
        theirs, ours = await user.open_pool("rbd"), await next_owner.open_pool("rbd")
        await directory.create(theirs, "vm", 8 * MIB, features=Feature.LAYERING)
        async with open_image(theirs, "vm") as image:
            await image.write(0, b"precious")
            away[user] = trio.Event()
            await leave()
            await until_owner(next_owner)
            with trio.move_on_after(2), contextlib.suppress(Busy):
                await directory.remove(ours, "vm")
            away.pop(user).set()
            assert await image.read(0, 8) == b"precious"


@pytest.mark.complains("its owner died")
async def test_owner_dies_and_a_process_without_unflushed_writes_goes_on(owner: OwnerProcess, tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as cluster:
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"flushed")
        await ioctx.flush()
        owner.process.send_signal(signal.SIGKILL)
        assert await content(ioctx, "o") == b"flushed"
        await until_owner(cluster)
        await calls.write(ioctx, "o", 0, b"F")
        assert await content(ioctx, "o") == b"Flushed"


@pytest.mark.complains("its owner died")
async def test_owner_dies_with_unflushed_writes_of_an_attached_process(owner: OwnerProcess, tmp_path: Path) -> None:
    async def write_and_flush() -> None:
        async with open_store(tmp_path / "store") as cluster:
            ioctx = await cluster.open_pool("rbd")
            await calls.write(ioctx, "o", 0, b"not flushed")
            owner.process.send_signal(signal.SIGKILL)
            with pytest.raises(StoreFailure, match="may be lost"):
                await content(ioctx, "o")
            with pytest.raises(StoreFailure, match="may be lost"):
                await ioctx.flush()

    with pytest.raises(StoreFailure, match="may be lost"):  # at the end, too: for who waits only for that
        await write_and_flush()
    async with open_store(tmp_path / "store") as cluster:  # the store itself is fine
        await calls.write(await cluster.open_pool("rbd"), "o", 0, b"new")


@pytest.mark.complains("its owner died")
async def test_what_nobody_flushes_is_flushed_before_long(
    owner: OwnerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PING_INTERVAL", 0.1)
    async with open_store(tmp_path / "store") as cluster:
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"not flushed by us")
        await trio.sleep(1)
        owner.process.send_signal(signal.SIGKILL)
        assert await content(ioctx, "o") == b"not flushed by us"
        await until_owner(cluster)
        await calls.write(ioctx, "o", 0, b"N")


async def test_socket_of_a_dead_owner_is_in_nobodys_way(owner: OwnerProcess, tmp_path: Path) -> None:
    owner.end()
    assert (tmp_path / "store" / store.SOCKET).exists()
    async with open_store(tmp_path / "store") as cluster:
        assert isinstance(cluster.backend, Session)


async def test_owner_that_does_not_answer_is_named(
    owner: OwnerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_PATIENCE", 0.2)
    owner.process.send_signal(signal.SIGSTOP)
    with pytest.raises(Busy, match=f"process {owner.process.pid}, which does not answer"):
        async with open_store(tmp_path / "store"):
            pass


async def test_who_has_changed_nothing_leaves_an_owner_that_does_not_run(owner: OwnerProcess, tmp_path: Path) -> None:
    has_left = False

    async def run_again() -> None:
        await trio.sleep(5)
        owner.process.send_signal(signal.SIGCONT)
        assert has_left

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_again)
        async with open_store(tmp_path / "store") as cluster:
            ioctx = await cluster.open_pool("rbd")
            await calls.write(ioctx, "o", 0, b"flushed")
            await ioctx.flush()
            owner.process.send_signal(signal.SIGSTOP)
            with trio.move_on_after(0.1) as interrupted:
                await content(ioctx, "o")
            assert interrupted.cancelled_caught
        has_left = True
        nursery.cancel_scope.cancel()


async def test_silent_client_loses_its_watch(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with (
        open_store(tmp_path / "store", create=True) as owner_cluster,
        open_store(tmp_path / "store") as attached,
    ):
        await owner_cluster.create_pool("rbd")
        ioctx = await owner_cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"x")
        events: list[WatchEvent] = []
        await (await attached.open_pool("rbd")).watch("o", events.append, seconds=30)
        await trio.sleep(300)  # it is alive, and says so
        assert len(await calls.list_watchers(ioctx, "o")) == 1
        session = attached.backend
        assert isinstance(session, Remote)
        session.stop_pinging()
        await trio.sleep(40)
        assert [type(event) for event in events] == [WatchLost]
        assert await calls.list_watchers(ioctx, "o") == []


async def test_cancelled_body_still_closes_in_order(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_store(tmp_path / "store", create=True) as cluster:
            await cluster.create_pool("rbd")
            await calls.write(await cluster.open_pool("rbd"), "o", 0, b"written")
            scope.cancel()
            await trio.sleep_forever()
    async with open_store(tmp_path / "store") as cluster:
        assert await content(await cluster.open_pool("rbd"), "o") == b"written"


async def test_deep_directory(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 100) / ("e" * 100) / "store"
    async with open_store(path, create=True), open_store(path) as cluster:
        assert isinstance(cluster.backend, Remote)
