"""Snapshots of an image."""

import pytest
import trio
import trio.testing
from image.conftest import MIB, Pools, until
from image.faulty import FaultyIoCtx

from rbdfs.cls.directory import CHILDREN
from rbdfs.cls.query import change
from rbdfs.cls.rbd import call
from rbdfs.errors import Busy, Exists, Gone, InvalidArgument, NotFound, NotSupported, RbdfsError
from rbdfs.image import directory, snapshots
from rbdfs.image.features import Feature
from rbdfs.image.image import Image, ImageChange, open_image
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import ReadOp
from rbdfs.wire import S64, U64


async def content(ioctx: IoCtx, snap_name: str, offset: int, length: int) -> bytes:
    async with open_image(ioctx, "vm", snap_name=snap_name) as image:
        return await image.read(offset, length)


async def test_snapshot_keeps_bytes_and_size(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 8 * MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"before")
            snap_id = await snapshots.create(image, "s")
            await image.write(0, b"after!")
            await image.write(5 * MIB, b"new")
            await image.resize(MIB)
            assert await content(ioctx, "s", 0, 6) == b"before"
            assert await content(ioctx, "s", 5 * MIB, 3) == bytes(3)
            (snap,) = image.header.snaps
            assert (snap.id, snap.name, snap.size, snap.is_protected) == (snap_id, "s", 8 * MIB, False)
            assert image.size == MIB
        async with open_image(ioctx, "vm", snap_id=snap_id) as image:
            assert image.size == 8 * MIB
            assert image.snap is not None
            assert image.snap.name == "s"


async def test_names_must_be_new_and_sane(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            await snapshots.create(image, "s")
            with pytest.raises(Exists):
                await snapshots.create(image, "s")
            with pytest.raises(InvalidArgument):
                await snapshots.create(image, "a@b")
            await snapshots.create(image, "t")
            with pytest.raises(Exists):
                await snapshots.rename(image, "s", "t")
            with pytest.raises(NotFound):
                await snapshots.rename(image, "none", "u")
            await snapshots.rename(image, "s", "u")
            assert [snap.name for snap in image.header.snaps] == ["u", "t"]


async def test_protected_snapshot_stays(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            await snapshots.create(image, "s")
            with pytest.raises(InvalidArgument):
                await snapshots.unprotect(image, "s")
            await snapshots.protect(image, "s")
            assert image.header.snaps[0].is_protected
            for refused in (snapshots.protect(image, "s"), snapshots.remove(image, "s"), snapshots.purge(image)):
                with pytest.raises(Busy):
                    await refused
            await snapshots.unprotect(image, "s")
            await snapshots.remove(image, "s")
            assert image.header.snaps == []
            with pytest.raises(NotFound):
                await snapshots.remove(image, "s")


async def test_protection_needs_layering(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB, features=Feature.EXCLUSIVE_LOCK)
        async with open_image(ioctx, "vm") as image:
            await snapshots.create(image, "s")
            with pytest.raises(NotSupported):
                await snapshots.protect(image, "s")


@pytest.mark.parametrize("features", [61, Feature.LAYERING, Feature.LAYERING | Feature.EXCLUSIVE_LOCK])
async def test_rollback_brings_bytes_and_size_back(pools: Pools, features: int) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 20 * MIB, features=features)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"one" * MIB)
            await image.write(17 * MIB, b"kept")
            before = await image.read(0, 20 * MIB)
            await snapshots.create(image, "s")
            await image.write(100, b"changed")
            await snapshots.create(image, "later")
            await image.write_zeroes(0, 4 * MIB)
            await image.write(9 * MIB, b"created afterwards")
            await image.resize(10 * MIB)
            heard: list[ImageChange] = []
            image.subscribe(heard.append)
            await snapshots.rollback(image, "s")
            assert image.size == 20 * MIB
            assert await image.read(0, 20 * MIB) == before
            assert ImageChange.CONTENT in heard
            await image.write(9 * MIB, b"usable")
            assert await content(ioctx, "later", 98, 10) == b"eochangede"


async def test_purge_removes_all(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            for name in "abc":
                await snapshots.create(image, name)
            await snapshots.purge(image)
            assert image.header.all_snaps == []
        await directory.remove(ioctx, "vm")


async def test_no_write_spans_a_snapshot(pools: Pools) -> None:
    """Writers run on while snapshots are made: each snapshot holds, of each block, one complete generation."""
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 8 * MIB, order=20)
        async with open_image(ioctx, "vm") as image, trio.open_nursery() as nursery:
            stop = trio.Event()
            acknowledged = [0] * 8
            for block in range(8):
                nursery.start_soon(_keep_writing, image, block, acknowledged, stop)
            floors: dict[str, list[int]] = {}
            for number in range(5):
                await trio.sleep(0.02)
                floors[f"s{number}"] = list(acknowledged)
                await snapshots.create(image, f"s{number}")
            stop.set()
        for name, floor in floors.items():
            for block in range(8):
                data = await content(ioctx, name, block * MIB, 8000)
                generation = int.from_bytes(data[:4], "big")
                assert data == generation.to_bytes(4, "big") * 2000
                assert generation >= floor[block]


async def _keep_writing(image: Image, block: int, acknowledged: list[int], stop: trio.Event) -> None:
    generation = 0
    while not stop.is_set():
        generation += 1
        await image.write(block * MIB, generation.to_bytes(4, "big") * 2000)
        acknowledged[block] = generation
        await trio.lowlevel.checkpoint()


async def test_writes_that_queue_behind_a_snapshot_do_not_hold_it_up(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 8 * MIB)
        with trio.fail_after(20):
            for turn in range(4):
                async with open_image(ioctx, "vm") as image, trio.open_nursery() as nursery:
                    for number in range(4):  # the first of them, in need of the lock, makes the others queue
                        nursery.start_soon(image.write, number * 100, bytes((turn,)) * 100)
                    nursery.start_soon(snapshots.create, image, f"s{turn}")


async def test_failed_snapshot_lets_writes_go_on(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            await snapshots.create(image, "s")
            with pytest.raises(RbdfsError):
                await snapshots.create(image, "s")
            await image.write(0, b"on")
            assert await image.read(0, 2) == b"on"


async def test_write_waits_for_the_header_that_a_peer_changed(pools: Pools) -> None:
    """Without an exclusive lock, nothing but the news of a snapshot tells a writer of its snap context."""
    async with pools.client() as inner, trio.open_nursery() as nursery:
        ioctx = FaultyIoCtx(inner)
        await directory.create(inner, "vm", MIB, features=Feature.LAYERING)
        async with open_image(ioctx, "vm") as image, open_image(inner, "vm") as peer:
            await image.write(0, b"first.")
            ioctx.holds = lambda name, op: name == image.header_name and isinstance(op, ReadOp)
            nursery.start_soon(snapshots.create, peer, "s")
            await until(lambda: ioctx.held)
            nursery.start_soon(image.write, 0, b"second")
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await image.read(0, 6) == b"first."
            ioctx.release()
            await image.flush()
            assert await image.read(0, 6) == b"second"
        assert await content(inner, "s", 0, 6) == b"first."


async def test_removed_snapshot_reads_as_an_error_not_as_zeroes(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"data")
            await snapshots.create(image, "s")
            await image.write(0, b"more")
            async with open_image(ioctx, "vm", snap_name="s") as snap:
                assert await snap.read(0, 4) == b"data"
                heard: list[ImageChange] = []
                snap.subscribe(heard.append)
                await snapshots.remove(image, "s")
                await until(lambda: heard)
                with pytest.raises(Gone, match="vm@s"):
                    await snap.read(0, 4)
                with pytest.raises(Gone, match="vm@s"):
                    await snap.seek_data(0)


async def test_snapshot_with_a_clone_stays_protected(pools: Pools) -> None:
    """A clone of format 1 is noted in the pool of the clone, which may be any."""
    async with pools.client() as ioctx:
        await ioctx.cluster.create_pool("clones")
        image_id = await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            snap_id = await snapshots.create(image, "s")
            await snapshots.protect(image, "s")
            clones = await ioctx.cluster.open_pool("clones")
            arguments = ((S64, ioctx.pool_id), (str, image_id), (U64, snap_id), (str, "child"))
            await change(clones, CHILDREN, call("add_child", *arguments))
            with pytest.raises(Busy, match="clones"):
                await snapshots.unprotect(image, "s")
            assert image.header.snaps[0].is_protected
            await change(clones, CHILDREN, call("remove_child", *arguments))
            await snapshots.unprotect(image, "s")
            await snapshots.remove(image, "s")
