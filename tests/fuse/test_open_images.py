"""How long images stay open, who may end that, and what the kernel may keep of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import calls
import pytest
import trio
from image.conftest import MIB, Pools, until

from rbdfs.errors import Busy
from rbdfs.fuse.inodes import Inode, Inodes
from rbdfs.fuse.open_images import OpenImages
from rbdfs.image import directory
from rbdfs.image.features import Feature
from rbdfs.image.header import read_header
from rbdfs.image.image import open_image
from rbdfs.image.lookup import lookup
from rbdfs.rados.api import IoCtx


@pytest.fixture
def pools(tmp_path: Path) -> Pools:
    """A store with a pool."""
    return Pools(tmp_path / "store")


@asynccontextmanager
async def open_images(ioctx: IoCtx, features: int = -1) -> AsyncIterator[tuple[OpenImages, Inode]]:
    """What a mount holds open, and an image to open."""
    chosen = {} if features < 0 else {"features": features}
    inode = Inodes().image(await directory.create(ioctx, "vm", 8 * MIB, **chosen), "vm")
    images = OpenImages(ioctx, lambda _file, _change: None, read_only=False)
    async with images.running():
        yield images, inode


async def write(images: OpenImages, inode: Inode) -> None:
    """Open the file, write, close it."""
    async with images.using(inode) as file:
        file.keep_pages_at_open()
        await file.image.write(0, b"x")


async def keeps_pages(images: OpenImages, inode: Inode) -> bool:
    """Open the file once more: whether the kernel may keep what it has read before."""
    async with images.using(inode) as file:
        return file.keep_pages_at_open()


async def closed(images: OpenImages) -> None:
    """Wait until nothing is open."""
    await until(lambda: not len(images))


async def test_after_the_last_use_nobody_watches_and_nobody_owns_the_lock(pools: Pools) -> None:
    async with pools.client() as ioctx, open_images(ioctx) as (images, inode):
        await write(images, inode)
        with trio.fail_after(5):
            await closed(images)
        assert await calls.list_watchers(ioctx, f"rbd_header.{inode.image_id}") == []
        assert (await read_header(ioctx, inode.image_id)).lockers == []


async def test_an_image_that_is_opened_again_at_once_stays_open(pools: Pools) -> None:
    async with pools.client() as ioctx, open_images(ioctx) as (images, inode):
        first = await images.acquire(inode)
        images.release(first)
        assert await images.acquire(inode) is first
        images.release(first)


async def test_pages_outlive_the_time_that_an_image_is_closed(pools: Pools) -> None:
    async with pools.client() as ioctx, open_images(ioctx) as (images, inode):
        assert not await keeps_pages(images, inode)
        await closed(images)
        assert await keeps_pages(images, inode)
        await write(images, inode)
        await closed(images)
        assert await keeps_pages(images, inode)


async def test_pages_are_kept_while_we_own_the_lock_and_not_after_another_client_took_it(pools: Pools) -> None:
    async with pools.client() as ioctx, pools.client() as other, open_images(ioctx) as (images, inode):
        async with images.using(inode) as file:
            file.keep_pages_at_open()
            await file.image.write(0, b"x")
            assert await keeps_pages(images, inode)
            async with open_image(other, "vm") as image:
                await image.write(0, b"y")
                assert not await keeps_pages(images, inode)
            assert not await keeps_pages(images, inode)
            await file.image.write(0, b"z")
            assert await keeps_pages(images, inode)


async def test_pages_are_not_kept_once_somebody_writes_past_them(pools: Pools) -> None:
    async with pools.client() as ioctx, open_images(ioctx) as (images, inode):
        async with images.using(inode) as file:
            file.keep_pages_at_open()
            file.keep_pages_at_open(writes_directly=True)
            await file.image.write(0, b"x")
            assert not await keeps_pages(images, inode)
            assert not await keeps_pages(images, inode)  # it may have written again
        await closed(images)
        assert not await keeps_pages(images, inode)
        await closed(images)
        assert await keeps_pages(images, inode)


async def test_pages_do_not_outlive_what_another_client_wrote_meanwhile(pools: Pools) -> None:
    async with pools.client() as ioctx, pools.client() as other, open_images(ioctx) as (images, inode):
        await write(images, inode)
        await closed(images)
        async with open_image(other, "vm") as image:
            await image.write(0, b"y")
        assert not await keeps_pages(images, inode)
        await closed(images)
        async with open_image(other, "vm") as image:
            await image.write(0, b"z")
            assert not await keeps_pages(images, inode)  # and may be writing now
            await closed(images)
        assert not await keeps_pages(images, inode)


async def test_pages_of_an_image_without_lock_are_never_kept_over_a_close(pools: Pools) -> None:
    async with pools.client() as ioctx, open_images(ioctx, int(Feature.LAYERING)) as (images, inode):
        await write(images, inode)
        await closed(images)
        assert not await keeps_pages(images, inode)


@pytest.mark.parametrize("writes", [True, False])
async def test_an_idle_image_is_closed_for_who_removes_it(
    pools: Pools, monkeypatch: pytest.MonkeyPatch, *, writes: bool
) -> None:
    monkeypatch.setattr("rbdfs.fuse.open_images.IDLE_SECONDS", 3600)
    async with pools.client() as ioctx, pools.client() as other, open_images(ioctx) as (images, inode):
        async with images.using(inode) as file:
            if writes:
                await file.image.write(0, b"x")
        with trio.fail_after(5):
            await directory.remove(other, "vm")


async def test_an_image_in_use_is_kept_from_who_removes_it(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rbdfs.image.removal._CLOSING_SECONDS", 0.1)
    monkeypatch.setattr("rbdfs.fuse.open_images.IDLE_SECONDS", 3600)
    async with pools.client() as ioctx, pools.client() as other, open_images(ioctx) as (images, inode):
        async with images.using(inode) as file:
            await file.image.write(0, b"x")
            with pytest.raises(Busy, match="open by client"):
                await directory.remove(other, "vm")
            await file.image.write(1, b"y")
        with trio.fail_after(5):  # that somebody wants it was not forgotten
            await closed(images)
        assert await lookup(ioctx, "vm") == inode.image_id
