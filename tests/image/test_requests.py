"""Requests to the lock owner, as they come over the wire: answered once, done once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing
from image.conftest import MIB, Pools

from rbdfs.cls import notify
from rbdfs.cls.notify import AsyncComplete, AsyncRequestId, ClientId, Message, SnapCreate, decode_message, owner_result
from rbdfs.image import directory
from rbdfs.image.image import Image, open_image
from rbdfs.image.names import header_object
from rbdfs.rados.api import IoCtx, NotifyEvent, Watch, WatchEvent


class Peer:
    """Another client, which speaks and hears for itself."""

    def __init__(self, ioctx: IoCtx, name: str) -> None:
        self._ioctx = ioctx
        self._name = name
        self.watch: Watch | None = None
        self.heard: list[Message | notify.Unknown] = []

    def on_event(self, event: WatchEvent) -> None:
        assert isinstance(event, NotifyEvent)
        assert self.watch is not None
        self.heard.append(decode_message(event.payload))
        self.watch.acknowledge(event.notify_id)

    async def tell(self, message: Message) -> int | None:
        """What the lock owner answers."""
        reply = await self._ioctx.notify(self._name, message.to_bytes())
        return owner_result(reply.acks.values())

    async def completed(self, request: AsyncRequestId) -> int:
        """The result that the owner tells in the end."""
        with trio.fail_after(10):
            while True:
                for message in self.heard:
                    if isinstance(message, AsyncComplete) and message.request == request:
                        return message.result
                await trio.testing.wait_all_tasks_blocked(0.01)


@asynccontextmanager
async def owner_and_peer(pools: Pools) -> AsyncIterator[tuple[Image, Peer]]:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "vm", 8 * MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"ours")
            peer = Peer(ioctx, header_object(image_id))
            peer.watch = await ioctx.watch(header_object(image_id), peer.on_event)
            yield image, peer
            await peer.watch.close()


REQUEST = AsyncRequestId(ClientId(4711, 1), 1)


async def test_a_request_asked_twice_is_done_once(pools: Pools) -> None:
    async with owner_and_peer(pools) as (image, peer):
        assert await peer.tell(SnapCreate("s", request=REQUEST)) == 0
        assert await peer.completed(REQUEST) == 0
        peer.heard.clear()
        assert await peer.tell(SnapCreate("s", request=REQUEST)) == 0
        assert await peer.completed(REQUEST) == 0
        assert [snap.name for snap in image.header.snaps] == ["s"]


async def test_what_an_owner_before_us_did_is_not_done_again(pools: Pools) -> None:
    """The lock has come to us, and so has a request that its last owner carried out."""
    async with owner_and_peer(pools) as (image, peer):
        await peer.tell(AsyncComplete(REQUEST, 0))
        assert await peer.tell(SnapCreate("s", request=REQUEST)) == 0
        assert await peer.completed(REQUEST) == 0
        assert image.header.snaps == []


async def test_a_failure_is_told(pools: Pools) -> None:
    async with owner_and_peer(pools) as (_, peer):
        assert await peer.tell(notify.SnapRemove("nothing", request=REQUEST)) == 0
        assert await peer.completed(REQUEST) == -2


async def test_what_we_do_not_do_for_others_is_refused(pools: Pools) -> None:
    async with owner_and_peer(pools) as (_, peer):
        assert await peer.tell(notify.Flatten(REQUEST)) == -95
        assert await peer.tell(notify.RebuildObjectMap(REQUEST)) == -95


async def test_an_old_client_waits_for_the_answer(pools: Pools) -> None:
    """Before version 7 a snapshot request had no id."""
    async with owner_and_peer(pools) as (image, peer):
        assert await peer.tell(SnapCreate("s")) == 0
        assert [snap.name for snap in image.header.snaps] == ["s"]
        assert await peer.tell(SnapCreate("s")) == -17
