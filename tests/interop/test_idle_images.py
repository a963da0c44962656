"""What a mount has closed is free for `rbd` at once, in a script, too."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from ceph_cluster import CephCluster
from interop.librbd import exported, our_pool, rbd, rbd_fails

from rbdfs.fuse.inodes import Inode, Inodes
from rbdfs.fuse.open_images import OpenImages
from rbdfs.image.lookup import lookup

pytestmark = pytest.mark.cluster

MIB = 1 << 20


@asynccontextmanager
async def open_images(ceph: CephCluster, name: str) -> AsyncIterator[tuple[OpenImages, Inode]]:
    """A new image, and what a mount uses to hold it open."""
    await rbd(ceph, "create", "--size", "8M", f"data/{name}")
    async with our_pool(ceph) as ioctx:
        images = OpenImages(ioctx, lambda _file, _change: None, read_only=False)
        async with images.running():
            yield images, Inodes().image(await lookup(ioctx, name), name)


async def write(images: OpenImages, inode: Inode, data: bytes) -> None:
    """Open the file, write, close it."""
    async with images.using(inode) as file:
        await file.image.write(0, data)


async def test_rbd_rolls_back_what_was_just_closed(ceph_cluster: CephCluster) -> None:
    """For which it does not ask for the lock."""
    async with open_images(ceph_cluster, "back") as (images, inode):
        await write(images, inode, b"old")
        await rbd(ceph_cluster, "snap", "create", "--no-progress", "data/back@s")
        await write(images, inode, b"new")
        await rbd(ceph_cluster, "snap", "rollback", "--no-progress", "data/back@s")
        assert (await exported(ceph_cluster, "data/back"))[:3] == b"old"
        await rbd(ceph_cluster, "snap", "purge", "--no-progress", "data/back")
    await rbd(ceph_cluster, "rm", "--no-progress", "data/back")


@pytest.mark.parametrize("writes", [True, False])
async def test_rbd_removes_what_was_just_closed(ceph_cluster: CephCluster, *, writes: bool) -> None:
    async with open_images(ceph_cluster, "gone") as (images, inode):
        async with images.using(inode) as file:
            await file.image.read(0, 1)
            if writes:
                await file.image.write(0, b"x")
            assert await rbd_fails(ceph_cluster, "rm", "--no-progress", "data/gone") == 16  # EBUSY
        await rbd(ceph_cluster, "rm", "--no-progress", "data/gone")


async def test_an_idle_image_is_closed_when_rbd_asks_for_its_lock(
    ceph_cluster: CephCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbdfs.fuse.open_images.IDLE_SECONDS", 3600)
    async with open_images(ceph_cluster, "idle") as (images, inode):
        await write(images, inode, b"x")
        await rbd(ceph_cluster, "rm", "--no-progress", "data/idle")
