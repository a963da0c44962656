"""Who may write, and how it changes hands."""

from contextlib import suppress

import pytest
import trio
from image.conftest import MIB, Pools, until
from image.faulty import FaultyIoCtx

from rbdfs.cls import lock
from rbdfs.cls.query import ask, change
from rbdfs.entities import EntityName
from rbdfs.errors import Blocklisted, Busy, Exists, NotFound
from rbdfs.image import directory, snapshots
from rbdfs.image.features import Feature
from rbdfs.image.image import Image, open_image
from rbdfs.rados.api import IoCtx


async def lockers(ioctx: IoCtx, image: Image) -> list[str]:
    info = await ask(ioctx, image.header_name, lock.get_info(lock.RBD_LOCK))
    return [locker.cookie for locker in info.lockers]


async def test_lock_is_taken_by_the_first_write_and_given_up_at_the_end(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            assert await lockers(ioctx, image) == []
            await image.read(0, 10)
            assert await lockers(ioctx, image) == []
            await image.write(0, b"x")
            status = await image.status()
            assert status.is_lock_owner
            assert [f"auto {watcher.cookie}" for watcher in status.watchers] == [status.lockers[0].cookie]
            assert status.lockers[0].tag == "internal"
        assert await lockers(ioctx, image) == []
        assert (await ask(ioctx, f"rbd_object_map.{image.image_id}", lock.get_info(lock.RBD_LOCK))).lockers == {}


async def test_lock_goes_back_and_forth(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 4 * MIB, order=20)
        async with open_image(ioctx, "vm") as one, open_image(ioctx, "vm") as other:
            with trio.fail_after(10):
                for number in range(10):
                    writer, reader = (one, other) if number % 2 else (other, one)
                    await writer.write(number * 1000, bytes((number,)) * 1000)
                    assert (await reader.read(number * 1000, 1000)) == bytes((number,)) * 1000
                    assert writer.lock is not None
                    assert writer.lock.is_owner


async def test_both_writers_of_one_image_get_everything_in(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 4 * MIB, order=20)
        async with open_image(ioctx, "vm") as one, open_image(ioctx, "vm") as other:

            async def fill(image: Image, start: int) -> None:
                for number in range(start, 100, 2):
                    await image.write(number * 40_000, bytes((number,)) * 40_000)

            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fill, one, 0)
                    nursery.start_soon(fill, other, 1)
            for number in range(100):
                assert await one.read(number * 40_000, 40_000) == bytes((number,)) * 40_000


async def test_writer_grows_what_the_other_one_wrote(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 0)
        async with open_image(ioctx, "vm") as one, open_image(ioctx, "vm") as other:
            with trio.fail_after(10):
                for number in range(6):
                    await (one, other)[number % 2].write(number * 3 * MIB, b"x" * (3 * MIB))
        async with open_image(ioctx, "vm") as image:
            assert image.size == 18 * MIB
            assert await image.read(0, 18 * MIB) == b"x" * (18 * MIB)


async def test_owner_does_what_others_ask(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 8 * MIB, order=20)
        async with open_image(ioctx, "vm") as owner, open_image(ioctx, "vm") as other:
            await owner.write(0, b"before")
            with trio.fail_after(10):
                snap_id = await snapshots.create(other, "s")
                assert owner.lock is not None
                assert owner.lock.is_owner
                assert [snap.id for snap in owner.header.snaps] == [snap_id]
                await owner.write(0, b"after!")
                async with open_image(ioctx, "vm", snap_name="s") as snap:
                    assert await snap.read(0, 6) == b"before"
                await other.resize(3 * MIB)
                assert owner.size == other.size == 3 * MIB
                await snapshots.rename(other, "s", "t")
                await snapshots.protect(other, "t")
                with pytest.raises(Busy):
                    await snapshots.remove(other, "t")
                await snapshots.unprotect(other, "t")
                with pytest.raises(Exists):
                    await snapshots.create(other, "t")
                await snapshots.remove(other, "t")
                with pytest.raises(NotFound):
                    await snapshots.remove(other, "t")
                await other.metadata_set("key", "value")
                assert await owner.metadata_get("key") == "value"
                assert owner.lock.is_owner
                assert not owner.header.snaps


async def test_lock_of_a_dead_client_is_broken_after_fencing_it(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            step = lock.lock(lock.RBD_LOCK, lock.LockType.EXCLUSIVE, "auto 4711", lock.INTERNAL_TAG)
            await change(ioctx, image.header_name, step)
            with trio.fail_after(5):
                await image.write(0, b"mine now")
            assert await lockers(ioctx, image) != ["auto 4711"]


async def test_lock_taken_by_hand_is_respected(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            step = lock.lock(lock.RBD_LOCK, lock.LockType.EXCLUSIVE, "backup", "")
            await change(ioctx, image.header_name, step)
            with pytest.raises(Busy, match="backup"):
                await image.write(0, b"no")
            entity = EntityName.parse(f"client.{ioctx.cluster.instance_id}")
            await change(ioctx, image.header_name, lock.break_lock(lock.RBD_LOCK, entity, "backup"))
            await image.write(0, b"yes")


async def test_image_without_the_feature_needs_no_lock(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB, features=Feature.LAYERING)
        async with open_image(ioctx, "vm") as image, open_image(ioctx, "vm") as other:
            await image.write(0, b"one")
            await snapshots.create(other, "s")
            await image.write(0, b"two")
            assert await lockers(ioctx, image) == []
            async with open_image(ioctx, "vm", snap_name="s") as snap:
                assert await snap.read(0, 3) == b"one"


async def test_queued_writes_survive_a_hand_over(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 4 * MIB, order=20)
        async with open_image(ioctx, "vm") as one, open_image(ioctx, "vm") as other:
            await one.write(0, b"own")
            errors: list[object] = []
            for number in range(50):
                other.submit_write(number * 5000, bytes((number + 1,)) * 5000, errors.append)
                one.submit_write(2 * MIB + number * 5000, bytes((number + 1,)) * 5000, errors.append)
            with trio.fail_after(10):
                await other.flush()
                await one.flush()
            assert errors == [None] * 100
            for number in range(50):
                assert await one.read(number * 5000, 5000) == bytes((number + 1,)) * 5000
                assert await one.read(2 * MIB + number * 5000, 5000) == bytes((number + 1,)) * 5000


async def test_silent_owner_is_fenced_before_its_lock_is_broken(pools: Pools) -> None:
    async with pools.client() as inner, pools.client() as other:
        await directory.create(other, "vm", 8 * MIB)
        silent = FaultyIoCtx(inner)
        with suppress(Blocklisted):  # leaving finds that out, too
            async with open_image(silent, "vm") as old, open_image(other, "vm") as new:
                await old.write(0, b"old")
                await silent.watches[0].close()
                with trio.fail_after(5):
                    await new.write(0, b"new")
                for attempt in (old.write(0, b"late"), old.write(5 * MIB, b"late"), old.read(0, 1)):
                    with pytest.raises(Blocklisted):
                        await attempt
                assert await new.read(0, 4) == b"new\0"


async def test_lock_broken_by_hand_is_noticed_when_another_client_takes_it(pools: Pools) -> None:
    async with pools.client() as ioctx, pools.client() as other:
        await directory.create(ioctx, "vm", 4 * MIB)
        async with open_image(ioctx, "vm") as old, open_image(other, "vm") as new:
            await old.write(0, b"old")
            (locker,) = (await ask(ioctx, old.header_name, lock.get_info(lock.RBD_LOCK))).lockers
            await change(ioctx, old.header_name, lock.break_lock(lock.RBD_LOCK, locker.entity, locker.cookie))
            await new.write(0, b"new")
            assert old.lock is not None
            await until(lambda: old.lock is not None and not old.lock.is_owner)
            with trio.fail_after(5):
                await old.write(3, b"again")
            assert await new.read(0, 8) == b"newagain"
