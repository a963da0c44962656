"""Watches and notifies, against OSDs in memory: they outlive connections, or say that they did not."""

import errno
from struct import Struct

import pytest
import trio
from ceph.osd_peer import Peers, ReceivedOp

from rbdfs.ceph.linger import CephWatch, Notification
from rbdfs.ceph.messages import WatchOpcode
from rbdfs.ceph.osd_ops import OpCode, WatchStep
from rbdfs.ceph.pool import PoolFlag
from rbdfs.errors import Blocklisted, NotConnected, NotFound, TimedOut
from rbdfs.rados.api import NotifyEvent, NotifyReply, WatchEvent, WatchLost
from rbdfs.rados.ops import Write, WriteOp

_WATCH = Struct("<QQBII")  # cookie, version, what, generation, timeout


def step(op: ReceivedOp) -> tuple[WatchStep, int]:
    """What a watch op does, and with which generation."""
    assert op.codes == [OpCode.WATCH]
    _, _, what, generation, _ = _WATCH.unpack_from(op.ops[0][2])
    return WatchStep(what), generation


async def answer_all(cluster: Peers, result: int = 0) -> list[tuple[WatchStep, int]]:
    """Let the OSDs answer what they have; gives what that was."""
    await cluster.settle()
    steps = [step(op) for op in cluster.ops]
    for op in list(cluster.ops):
        op.reply(result)
    await cluster.settle()
    return steps


class Watching:
    """A watch that stands."""

    def __init__(self, cluster: Peers) -> None:
        self.cluster = cluster
        self.events: list[WatchEvent] = []
        self.watch = CephWatch(cluster.client, cluster.target("header"), self.events.append, 30)

    async def start(self) -> "Watching":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watch.start)
            assert await answer_all(self.cluster) == [(WatchStep.WATCH, 0)]
        return self


async def test_a_watch_hears_what_is_notified_and_answers() -> None:
    cluster = Peers()
    async with cluster.objecter():
        watching = await Watching(cluster).start()
        cluster.connection(0).event(WatchOpcode.NOTIFY, watching.watch.cookie, 11, b"hello")
        assert watching.events == [NotifyEvent(11, 4242, b"hello")]
        watching.watch.acknowledge(11, b"yes")
        await cluster.settle()
        [op] = cluster.ops
        expected = Struct("<QQI").pack(11, watching.watch.cookie, 3) + b"yes"
        assert (op.codes, op.ops[0][3]) == ([OpCode.NOTIFY_ACK], expected)


async def test_what_is_notified_at_once_is_heard_with_the_watch_in_hand() -> None:
    cluster = Peers()
    async with cluster.objecter(), trio.open_nursery() as nursery:
        watches: list[CephWatch] = []
        heard: list[tuple[int, WatchEvent]] = []  # how many watches were in hand

        async def start() -> None:
            watch = CephWatch(cluster.client, cluster.target("header"), on_event, 30)
            await watch.start()
            watches.append(watch)

        def on_event(event: WatchEvent) -> None:
            heard.append((len(watches), event))

        nursery.start_soon(start)
        await cluster.settle()
        [op] = cluster.ops
        cookie, *_ = _WATCH.unpack_from(op.ops[0][2])
        op.reply()
        op.peer.event(WatchOpcode.NOTIFY, cookie, 11, b"hello")
        assert not heard
        await cluster.settle()
        assert heard == [(1, NotifyEvent(11, 4242, b"hello"))]


async def test_watching_a_missing_object_fails() -> None:
    cluster = Peers()
    async with cluster.objecter():
        watch = CephWatch(cluster.client, cluster.target("header"), lambda _: None, 30)
        with pytest.RaisesGroup(NotFound):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.start)
                await answer_all(cluster, -errno.ENOENT)


async def test_a_watch_is_renewed_under_a_new_generation_after_each_lost_connection(autojump_clock: object) -> None:
    cluster = Peers()
    async with cluster.objecter():
        watching = await Watching(cluster).start()
        for generation in (1, 2):
            await trio.sleep(2)
            cluster.cut(0)
            assert await answer_all(cluster) == [(WatchStep.RECONNECT, generation)]
        assert not watching.events


async def test_a_registration_without_an_answer_is_made_anew_under_another_number(autojump_clock: object) -> None:
    cluster = Peers()
    async with cluster.objecter(), trio.open_nursery() as nursery:
        watch = CephWatch(cluster.client, cluster.target("header"), lambda _: None, 30)
        nursery.start_soon(watch.start)
        await cluster.settle()
        cluster.cut(0)
        await answer_all(cluster)
        assert len({tid for _, _, tid, _ in cluster.log}) == 2
        assert all(attempt == 0 for *_, attempt in cluster.log)


async def test_a_watch_follows_its_placement_group_where_no_connection_broke() -> None:
    cluster = Peers()
    async with cluster.objecter():
        watching = await Watching(cluster).start()
        cluster.take_map(acting=(2, 0, 1))
        assert await answer_all(cluster) == [(WatchStep.RECONNECT, 1)]
        assert cluster.connection(2).lost is None
        assert not watching.events


async def test_a_watch_that_ran_out_meanwhile_is_lost_and_silent_from_then_on(autojump_clock: object) -> None:
    cluster = Peers()
    async with cluster.objecter():
        watching = await Watching(cluster).start()
        cluster.cut(0)
        await answer_all(cluster, -errno.ENOTCONN)
        [event] = watching.events
        assert isinstance(event, WatchLost)
        assert isinstance(event.error, NotConnected)
        cluster.connection(0).event(WatchOpcode.NOTIFY, watching.watch.cookie, 12)
        await trio.sleep(60)
        assert len(watching.events) == 1
        assert not cluster.ops  # no pings either


async def test_a_watch_pings_with_its_generation(autojump_clock: object) -> None:
    cluster = Peers()
    async with cluster.objecter():
        await Watching(cluster).start()
        for _ in range(3):
            await trio.sleep(5)
            assert await answer_all(cluster) == [(WatchStep.PING, 0)]
        cluster.cut(0)
        assert await answer_all(cluster) == [(WatchStep.RECONNECT, 1)]
        await trio.sleep(6)
        assert await answer_all(cluster) == [(WatchStep.PING, 1)]


@pytest.mark.parametrize(("number", "error"), [(errno.ENOTCONN, NotConnected), (errno.ENOENT, NotFound)])
async def test_a_ping_tells_that_the_watch_is_gone(autojump_clock: object, number: int, error: type) -> None:
    cluster = Peers()
    async with cluster.objecter():
        watching = await Watching(cluster).start()
        await trio.sleep(6)
        await answer_all(cluster, -number)
        [event] = watching.events
        assert isinstance(event, WatchLost)
        assert isinstance(event.error, error)


async def test_a_ping_under_way_is_forgotten_with_its_connection(autojump_clock: object) -> None:
    cluster = Peers()
    async with cluster.objecter():
        await Watching(cluster).start()
        await trio.sleep(6)
        assert [step(op) for op in cluster.ops] == [(WatchStep.PING, 0)]
        cluster.cut(0)
        assert await answer_all(cluster) == [(WatchStep.RECONNECT, 1)]


async def test_the_osd_drops_a_watch() -> None:
    cluster = Peers()
    async with cluster.objecter():
        watching = await Watching(cluster).start()
        cluster.connection(0).event(WatchOpcode.DISCONNECT, watching.watch.cookie)
        assert isinstance(watching.events[0], WatchLost)


async def test_a_closed_watch_hears_nothing_more(autojump_clock: object) -> None:
    cluster = Peers()
    async with cluster.objecter(), trio.open_nursery() as nursery:
        watching = await Watching(cluster).start()
        nursery.start_soon(watching.watch.close)
        assert await answer_all(cluster) == [(WatchStep.UNWATCH, 0)]
        cluster.connection(0).event(WatchOpcode.NOTIFY, watching.watch.cookie, 12)
        await trio.sleep(20)
        assert not watching.events
        assert not cluster.ops


@pytest.mark.complains("is on the cluster's blocklist")
async def test_a_fenced_client_loses_its_watches() -> None:
    cluster = Peers()
    async with cluster.objecter():
        watching = await Watching(cluster).start()
        cluster.take_map(blocklist=frozenset({cluster.client.my_addr}))
        [event] = watching.events
        assert isinstance(event, WatchLost)
        assert isinstance(event.error, Blocklisted)


async def test_a_full_pool_is_no_reason_to_lose_a_watch(autojump_clock: object) -> None:
    cluster = Peers()
    async with cluster.objecter():
        watching = await Watching(cluster).start()
        cluster.take_map(pool_flags=PoolFlag.HASHPSPOOL | PoolFlag.FULL)
        write = WriteOp([Write(0, b"x")])
        cluster.client.submit(cluster.target("header"), write, lambda _: None)  # waits, and holds nothing else
        await trio.sleep(6)
        assert await answer_all(cluster) == [(WatchStep.PING, 0)]
        cluster.cut(0)
        assert await answer_all(cluster) == [(WatchStep.RECONNECT, 1)]
        watching.watch.acknowledge(11)
        await cluster.settle()
        assert [op.codes for op in cluster.ops] == [[OpCode.NOTIFY_ACK]]


async def test_closing_the_cluster_is_no_event() -> None:
    cluster = Peers()
    async with cluster.objecter():
        watching = await Watching(cluster).start()
    assert not watching.events


class TestNotify:
    """A notify and its answers."""

    DATA = Struct("<IQQI3sIQQ").pack(1, 4242, 5, 3, b"yes", 1, 4243, 6)

    async def notify(self, cluster: Peers, replies: list[NotifyReply]) -> None:
        replies.append(await Notification(cluster.client, cluster.target("header"), b"hello", 7).run())

    async def test_it_gives_the_answers_and_who_was_silent(self) -> None:
        cluster = Peers()
        replies: list[NotifyReply] = []
        async with cluster.objecter(), trio.open_nursery() as nursery:
            nursery.start_soon(self.notify, cluster, replies)
            await cluster.settle()
            [op] = cluster.ops
            assert (op.codes, op.ops[0][3]) == ([OpCode.NOTIFY], Struct("<III").pack(1, 7, 5) + b"hello")
            [cookie] = Struct("<Q").unpack_from(op.ops[0][2])
            op.reply(data=Struct("<Q").pack(99))
            op.peer.event(WatchOpcode.NOTIFY_COMPLETE, cookie, 98, data=b"of another notify")
            assert not replies
            op.peer.event(WatchOpcode.NOTIFY_COMPLETE, cookie, 99, data=self.DATA)
        assert replies == [NotifyReply({(4242, 5): b"yes"}, [(4243, 6)])]

    async def test_it_is_sent_anew_after_a_lost_connection(self, autojump_clock: object) -> None:
        cluster = Peers()
        replies: list[NotifyReply] = []
        async with cluster.objecter(), trio.open_nursery() as nursery:
            nursery.start_soon(self.notify, cluster, replies)
            await cluster.settle()
            [op] = cluster.ops
            op.reply(data=Struct("<Q").pack(99))
            cluster.cut(0)
            await cluster.settle()
            [again] = cluster.ops
            assert again.tid != op.tid
            [cookie] = Struct("<Q").unpack_from(again.ops[0][2])
            again.reply(data=Struct("<Q").pack(100))
            again.peer.event(WatchOpcode.NOTIFY_COMPLETE, cookie, 100, data=Struct("<II").pack(0, 0))
        assert replies == [NotifyReply({}, [])]

    async def test_one_that_the_osd_forgets_times_out(self, autojump_clock: object) -> None:
        cluster = Peers()
        async with cluster.objecter():
            with pytest.RaisesGroup(TimedOut):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.notify, cluster, [])
                    await trio.sleep(3600)  # nobody takes it: that may last
                    [op] = cluster.ops
                    op.reply(data=Struct("<Q").pack(99))
            assert 3607 < trio.current_time() < 3700

    async def test_one_that_is_answered_late_has_its_time_after_each_lost_connection(
        self, autojump_clock: object
    ) -> None:
        cluster = Peers()
        replies: list[NotifyReply] = []
        async with cluster.objecter(), trio.open_nursery() as nursery:
            nursery.start_soon(self.notify, cluster, replies)
            await cluster.settle()
            [op] = cluster.ops
            op.reply(data=Struct("<Q").pack(99))
            await trio.sleep(7)
            cluster.cut(0)
            await trio.sleep(60)
            [again] = cluster.ops
            [cookie] = Struct("<Q").unpack_from(again.ops[0][2])
            again.reply(data=Struct("<Q").pack(100))
            await trio.sleep(7)
            again.peer.event(WatchOpcode.NOTIFY_COMPLETE, cookie, 100, data=Struct("<II").pack(0, 0))
        assert replies == [NotifyReply({}, [])]
