"""The exclusive lock between a librbd writer and us, and what the owner does for the other."""

import pytest
import trio
from ceph_cluster import CephCluster
from interop.librbd import check_object_map, exported, our_pool, qemu_io, rbd, rbd_fails, rbd_json

from rbdfs.errors import Busy, Exists, NotFound
from rbdfs.image import directory, snapshots
from rbdfs.image.image import Image, ImageChange, open_image

pytestmark = pytest.mark.cluster

MIB = 1 << 20


async def wait_until(condition: object, image: Image) -> None:
    """Until a callable gives something true of an image."""
    assert callable(condition)
    with trio.fail_after(20):
        while not condition(image):  # noqa: ASYNC110 - what changes it is a notify, and not all of them are told here
            await trio.sleep(0.02)


async def owners(ceph: CephCluster, spec: str) -> list[str]:
    """Who holds the lock, as `rbd lock ls` says."""
    return [row["locker"] for row in await rbd_json(ceph, "lock", "ls", spec)]


async def test_the_lock_goes_back_and_forth(ceph_cluster: CephCluster) -> None:
    spec, shadow = "data/shared", bytearray(16 * MIB)
    await rbd(ceph_cluster, "create", "--size", "16M", spec)
    async with our_pool(ceph_cluster) as ioctx, open_image(ioctx, "shared") as image:
        async with qemu_io(ceph_cluster, "shared") as qemu:
            for turn in range(1, 7):
                offset = turn * (2 * MIB + 4096)
                await image.write(offset, bytes((turn,)) * 8192)
                assert await owners(ceph_cluster, spec) == [f"client.{ioctx.cluster.instance_id}"]
                shadow[offset : offset + 8192] = bytes((turn,)) * 8192
                await qemu.expect(turn, offset, 8192)
                await qemu.write(turn + 0x80, offset + 8192, 4096)
                assert await owners(ceph_cluster, spec) != [f"client.{ioctx.cluster.instance_id}"]
                shadow[offset + 8192 : offset + 12288] = bytes((turn + 0x80,)) * 4096
                assert await image.read(offset, 12288) == shadow[offset : offset + 12288]
        assert await image.read(0, len(shadow)) == shadow
    assert await exported(ceph_cluster, spec) == shadow
    await check_object_map(ceph_cluster, spec)
    assert await owners(ceph_cluster, spec) == []
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_the_lock_is_shown_and_gone_after_closing(ceph_cluster: CephCluster) -> None:
    spec = "data/shown"
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "shown", MIB)
        async with open_image(ioctx, "shown") as image:
            assert await owners(ceph_cluster, spec) == []
            await image.write(0, b"x")
            (row,) = await rbd_json(ceph_cluster, "lock", "ls", spec)
            assert row["locker"] == f"client.{ioctx.cluster.instance_id}"
            assert row["address"] == ioctx.cluster.address
            assert row["id"].startswith("auto ")
            (watcher,) = (await rbd_json(ceph_cluster, "status", spec))["watchers"]
            assert watcher["address"] == ioctx.cluster.address
            assert f"auto {watcher['cookie']}" == row["id"]
            assert await rbd_fails(ceph_cluster, "rm", "--no-progress", spec) == 16  # EBUSY
        assert await owners(ceph_cluster, spec) == []
        assert (await rbd_json(ceph_cluster, "status", spec))["watchers"] == []
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_rbd_asks_us_who_own_the_lock(ceph_cluster: CephCluster) -> None:
    """Each of these is a request to the lock owner; afterwards the lock is still ours."""
    spec = "data/asked"
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "asked", 8 * MIB)
        async with open_image(ioctx, "asked") as image:
            changes: list[ImageChange] = []
            image.subscribe(changes.append)
            await image.write(0, b"one")
            await rbd(ceph_cluster, "snap", "create", "--no-progress", f"{spec}@s1")
            assert [snap.name for snap in image.header.snaps] == ["s1"]
            await image.write(0, b"two")
            await rbd(ceph_cluster, "resize", "--no-progress", "--size", "12M", spec)
            assert image.size == 12 * MIB
            await rbd(ceph_cluster, "resize", "--no-progress", "--size", "6M", "--allow-shrink", spec)
            assert image.size == 6 * MIB
            await rbd(ceph_cluster, "snap", "rename", f"{spec}@s1", f"{spec}@s2")
            await rbd(ceph_cluster, "snap", "protect", f"{spec}@s2")
            await wait_until(lambda it: [snap.is_protected for snap in it.header.snaps] == [True], image)
            await rbd(ceph_cluster, "snap", "unprotect", f"{spec}@s2")
            await rbd(ceph_cluster, "snap", "create", "--no-progress", f"{spec}@s3")
            await rbd(ceph_cluster, "snap", "rm", "--no-progress", f"{spec}@s3")
            await rbd(ceph_cluster, "image-meta", "set", spec, "key", "value")
            assert await image.metadata_get("key") == "value"
            await rbd(ceph_cluster, "mv", spec, "data/renamed")
            await wait_until(lambda it: it.name == "renamed", image)
            assert await owners(ceph_cluster, "data/renamed") == [f"client.{ioctx.cluster.instance_id}"]
            seen = ImageChange(0)
            for change in changes:
                seen |= change
            assert ImageChange.SIZE | ImageChange.SNAPSHOTS | ImageChange.NAME in seen
        async with open_image(ioctx, "renamed", snap_name="s2") as snap:
            assert await snap.read(0, 3) == b"one"
    await check_object_map(ceph_cluster, "data/renamed")
    await check_object_map(ceph_cluster, "data/renamed@s2")
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", "data/renamed")
    await rbd(ceph_cluster, "rm", "--no-progress", "data/renamed")


async def test_we_ask_librbd_that_owns_the_lock(ceph_cluster: CephCluster) -> None:
    spec = "data/owned"
    await rbd(ceph_cluster, "create", "--size", "8M", spec)
    async with our_pool(ceph_cluster) as ioctx, qemu_io(ceph_cluster, "owned") as qemu:
        await qemu.write(0x31, 0, 4096)
        holder = await owners(ceph_cluster, spec)
        assert len(holder) == 1
        async with open_image(ioctx, "owned") as image:
            await snapshots.create(image, "s1")
            with pytest.raises(Exists):
                await snapshots.create(image, "s1")
            await snapshots.rename(image, "s1", "s2")
            await snapshots.protect(image, "s2")
            await snapshots.unprotect(image, "s2")
            await image.resize(12 * MIB)
            await image.metadata_set("key", "value")
            await snapshots.create(image, "s3")
            await snapshots.remove(image, "s3")
            with pytest.raises(NotFound):
                await snapshots.remove(image, "s3")
            assert [snap.name for snap in image.header.snaps] == ["s2"]
            assert image.size == 12 * MIB
        assert await owners(ceph_cluster, spec) == holder
        assert (await rbd_json(ceph_cluster, "info", spec))["size"] == 12 * MIB
        await qemu.write(0x32, 0, 4096)
    assert (await exported(ceph_cluster, f"{spec}@s2"))[:4096] == b"\x31" * 4096
    assert await rbd(ceph_cluster, "image-meta", "get", spec, "key") == "value\n"
    await check_object_map(ceph_cluster, spec)
    await check_object_map(ceph_cluster, f"{spec}@s2")
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_an_image_locked_by_hand_is_not_written(ceph_cluster: CephCluster) -> None:
    spec = "data/by-hand"
    await rbd(ceph_cluster, "create", "--size", "1M", "--image-feature", "layering,exclusive-lock", spec)
    await rbd(ceph_cluster, "lock", "add", spec, "mine")
    async with our_pool(ceph_cluster) as ioctx, open_image(ioctx, "by-hand") as image:
        with pytest.raises(Busy, match="rbd lock add"):
            await image.write(0, b"x")
        assert await image.read(0, 1) == b"\0"
    (row,) = await rbd_json(ceph_cluster, "lock", "ls", spec)
    await rbd(ceph_cluster, "lock", "rm", spec, "mine", row["locker"])
    await rbd(ceph_cluster, "rm", "--no-progress", spec)
