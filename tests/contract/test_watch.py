"""Watches and notifies, between clients."""

import calls
import pytest
import trio

from rbdfs.errors import NotFound
from rbdfs.rados.api import IoCtx, NotifyEvent, Watch, WatchEvent, WatchLost
from rbdfs.rados.ops import Create, WriteOp


class Listener:
    """Watches an object and answers."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.events: list[WatchEvent] = []
        self.watch: Watch | None = None

    async def start(self, ioctx: IoCtx, name: str) -> "Listener":
        self.watch = await ioctx.watch(name, self)
        return self

    def __call__(self, event: WatchEvent) -> None:
        self.events.append(event)
        if isinstance(event, NotifyEvent) and self.answer is not None and self.watch is not None:
            self.watch.acknowledge(event.notify_id, self.answer)


async def test_notify_reaches_every_watcher_and_brings_the_answers(ioctx: IoCtx, peer: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Create()]))
    own, other = await Listener(b"own").start(ioctx, "o"), await Listener(b"other").start(peer, "o")
    reply = await ioctx.notify("o", b"hello")
    assert reply.acks == {
        (ioctx.cluster.instance_id, own.watch.cookie): b"own",
        (peer.cluster.instance_id, other.watch.cookie): b"other",
    }
    assert reply.timeouts == []
    for listener in (own, other):
        (event,) = listener.events
        assert isinstance(event, NotifyEvent)
        assert (event.payload, event.notifier) == (b"hello", ioctx.cluster.instance_id)


async def test_watcher_that_does_not_answer_is_named(ioctx: IoCtx, peer: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Create()]))
    silent = await Listener(None).start(peer, "o")
    await Listener(b"here").start(ioctx, "o")
    reply = await ioctx.notify("o", b"hello", seconds=1)
    assert list(reply.acks.values()) == [b"here"]
    assert reply.timeouts == [(peer.cluster.instance_id, silent.watch.cookie)]


async def test_notify_without_watchers(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Create()]))
    assert await ioctx.notify("o", b"") == ({}, [])


async def test_closed_watch_hears_nothing(ioctx: IoCtx, peer: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Create()]))
    listener = await Listener(b"").start(peer, "o")
    await listener.watch.close()
    assert (await ioctx.notify("o", b"hello")).acks == {}
    assert listener.events == []
    assert await calls.list_watchers(ioctx, "o") == []


async def test_missing_object_can_be_neither_watched_nor_notified(ioctx: IoCtx) -> None:
    with pytest.raises(NotFound):
        await ioctx.watch("missing", lambda event: None)
    with pytest.raises(NotFound):
        await ioctx.notify("missing", b"")


async def test_watchers_are_listed(ioctx: IoCtx, peer: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Create()]))
    watch = await peer.watch("o", lambda event: None, seconds=20)
    (watcher,) = await calls.list_watchers(ioctx, "o")
    assert watcher.entity == f"client.{peer.cluster.instance_id}"
    assert (watcher.cookie, watcher.timeout, watcher.address) == (watch.cookie, 20, peer.cluster.address)


async def test_removing_the_object_ends_its_watches(ioctx: IoCtx, peer: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Create()]))
    heard = trio.Event()
    events: list[WatchEvent] = []
    await peer.watch("o", lambda event: (events.append(event), heard.set()))
    await calls.remove(ioctx, "o")
    with trio.fail_after(30):
        await heard.wait()
    assert [type(event) for event in events] == [WatchLost]


async def test_watcher_may_notify_from_its_answer(ioctx: IoCtx, peer: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Create()]))
    listener = await Listener(b"x" * 5000).start(ioctx, "o")
    first = await peer.notify("o", b"y" * 5000)
    second = await peer.notify("o", b"again")
    assert list(first.acks.values()) == list(second.acks.values()) == [b"x" * 5000]
    assert [event.payload for event in listener.events if isinstance(event, NotifyEvent)] == [b"y" * 5000, b"again"]
