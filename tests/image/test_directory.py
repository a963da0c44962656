"""The images of a pool and namespace."""

import calls
import pytest
import trio
from image.conftest import MIB, Pools, until
from image.faulty import FaultyIoCtx, Op, calls_method, removes

from rbdfs.cls import directory as cls_directory
from rbdfs.cls.notify import HeaderUpdate
from rbdfs.cls.query import ask, change
from rbdfs.errors import (
    Busy,
    Exists,
    Gone,
    InvalidArgument,
    NotEmpty,
    NotFound,
    NotSupported,
    OutOfDomain,
    ReadOnly,
    TimedOut,
)
from rbdfs.image import directory, snapshots
from rbdfs.image.features import Feature
from rbdfs.image.header import read_header
from rbdfs.image.image import ImageChange, open_image
from rbdfs.image.names import id_object
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Reply


async def test_created_images_are_listed_by_name(pools: Pools) -> None:
    async with pools.client() as ioctx:
        assert await directory.list_images(ioctx) == {}
        ids = {name: await directory.create(ioctx, name, MIB) for name in ("b", "a c", "é")}
        assert await directory.list_images(ioctx) == ids
        assert list(await directory.list_images(ioctx)) == ["a c", "b", "é"]
        assert await directory.lookup(ioctx, "é") == ids["é"]


async def test_header_says_what_was_created(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "vm", 5 * MIB, order=20, stripe_unit=65536, stripe_count=4)
        header = await read_header(ioctx, image_id)
        assert (header.size, header.order, header.stripe_unit, header.stripe_count) == (5 * MIB, 20, 65536, 4)
        assert header.features == 61 | Feature.STRIPINGV2
        assert header.object_prefix == f"rbd_data.{image_id}"
        assert header.create_timestamp == header.modify_timestamp == header.access_timestamp > 0
        assert not header.snaps
        assert not header.lockers


@pytest.mark.parametrize("order", [11, 26])
async def test_object_size_has_bounds(pools: Pools, order: int) -> None:
    async with pools.client() as ioctx:
        with pytest.raises(OutOfDomain):
            await directory.create(ioctx, "vm", MIB, order=order)


async def test_features_that_we_cannot_make_are_refused_by_name(pools: Pools) -> None:
    async with pools.client() as ioctx:
        with pytest.raises(NotSupported, match="journaling"):
            await directory.create(ioctx, "vm", MIB, features=61 | Feature.JOURNALING)
        with pytest.raises(InvalidArgument, match="object-map needs exclusive-lock"):
            await directory.create(ioctx, "vm", MIB, features=Feature.OBJECT_MAP)
        assert await directory.list_images(ioctx) == {}


async def test_rename(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "old", MIB)
        await directory.create(ioctx, "taken", MIB)
        with pytest.raises(Exists):
            await directory.rename(ioctx, "old", "taken")
        with pytest.raises(Exists):
            await directory.rename(ioctx, "old", "old")
        with pytest.raises(NotFound):
            await directory.rename(ioctx, "none", "new")
        await directory.rename(ioctx, "old", "new")
        assert (await directory.list_images(ioctx))["new"] == image_id
        with pytest.raises(NotFound):
            await directory.lookup(ioctx, "old")


async def test_an_image_that_may_not_be_written_keeps_its_name(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "vm", MIB)
        features = int(Feature.EXCLUSIVE_LOCK | Feature.NON_PRIMARY).to_bytes(8, "little")
        await calls.omap_set(ioctx, f"rbd_header.{image_id}", {"features": features})
        with pytest.raises(ReadOnly, match="non-primary"):
            await directory.rename(ioctx, "vm", "new")
        assert list(await directory.list_images(ioctx)) == ["vm"]


async def test_a_rename_has_succeeded_though_nobody_could_be_told(pools: Pools) -> None:
    async with pools.client() as inner:
        image_id = await directory.create(inner, "old", MIB)
        ioctx = FaultyIoCtx(inner)
        ioctx.rule = lambda name, _op: TimedOut("no answer") if name == "notify" else None
        await directory.rename(ioctx, "old", "new")
        assert await directory.list_images(inner) == {"new": image_id}


@pytest.mark.complains("old is new now, but may be found by its old name, too: no answer")
async def test_a_rename_has_succeeded_though_the_old_name_stays(pools: Pools) -> None:
    async with pools.client() as inner:
        image_id = await directory.create(inner, "old", MIB)
        ioctx = FaultyIoCtx(inner)
        is_it = removes(id_object("old"))
        ioctx.rule = lambda name, op: TimedOut("no answer") if is_it(name, op) else None
        await directory.rename(ioctx, "old", "new")
        assert await directory.list_images(inner) == {"new": image_id}


async def test_a_rename_that_is_cancelled_when_it_is_done_leaves_no_old_name(pools: Pools) -> None:
    class Slow(FaultyIoCtx):
        async def operate(self, name: str, op: Op) -> Reply:
            reply = await super().operate(name, op)
            if calls_method("dir_rename_image")(name, op):
                await trio.sleep_forever()
            return reply

    async with pools.client() as inner:
        await directory.create(inner, "old", MIB)
        with trio.move_on_after(0.1) as scope:
            await directory.rename(Slow(inner), "old", "new")
        assert scope.cancelled_caught
        with pytest.raises(NotFound):
            await directory.lookup(inner, "old")


async def test_a_rename_of_an_image_that_is_removed_meanwhile_leaves_nothing(pools: Pools) -> None:
    async with pools.client() as mine, pools.client() as other:
        await directory.create(other, "old", MIB)
        ioctx = FaultyIoCtx(mine)
        ioctx.holds = calls_method("dir_rename_image")
        with pytest.RaisesGroup(NotFound):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(directory.rename, ioctx, "old", "new")
                await until(lambda: ioctx.held)
                await directory.remove(other, "old")
                ioctx.release()
        assert [name async for name in other.list_objects()] == ["rbd_directory"]


async def test_rename_interrupted_before_the_directory_can_be_done_again(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "old", MIB)
        await change(ioctx, id_object("new"), calls.Write(0, b""), cls_directory.set_id(image_id))
        await directory.rename(ioctx, "old", "new")
        assert await directory.list_images(ioctx) == {"new": image_id}


async def left_by_a_rename(ioctx: IoCtx) -> str:
    """The id of an image `new` whose rename was interrupted: `old` leads to it, too."""
    image_id = await directory.create(ioctx, "old", MIB)
    async with open_image(ioctx, "old") as image:
        await image.write(0, b"kept")
    await directory.rename(ioctx, "old", "new")
    await change(ioctx, id_object("old"), calls.Write(0, b""), cls_directory.set_id(image_id))
    return image_id


@pytest.mark.complains("data/old was left by a rename; the image is new, and stays")
async def test_removing_a_name_that_a_rename_left_removes_no_image(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await left_by_a_rename(ioctx)
        await directory.remove(ioctx, "old")
        assert await directory.list_images(ioctx) == {"new": image_id}
        async with open_image(ioctx, "new") as image:
            assert await image.read(0, 4) == b"kept"
        await directory.create(ioctx, "old", MIB)


async def test_a_name_that_a_rename_left_is_not_given_to_a_new_image(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await left_by_a_rename(ioctx)
        with pytest.raises(Exists, match="data/old: leads to new: a rename"):
            await directory.create(ioctx, "old", MIB)
        assert await directory.list_images(ioctx) == {"new": image_id}


@pytest.mark.complains("data/new was left by a rename; the image is old, and stays")
async def test_a_rename_whose_new_name_is_removed_meanwhile_has_it_in_the_end(pools: Pools) -> None:
    async with pools.client() as mine, pools.client() as other:
        image_id = await directory.create(other, "old", MIB)
        ioctx = FaultyIoCtx(mine)
        ioctx.holds = calls_method("dir_rename_image")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(directory.rename, ioctx, "old", "new")
            await until(lambda: ioctx.held)
            await directory.remove(other, "new")
            ioctx.release()
        assert await directory.list_images(other) == {"new": image_id}
        assert await ask(other, id_object("new"), cls_directory.get_id()) == image_id


async def test_removed_image_leaves_nothing(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 20 * MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(3 * MIB, b"x" * (10 * MIB))
        steps: list[tuple[int, int]] = []
        await directory.remove(ioctx, "vm", on_progress=lambda done, total: steps.append((done, total)))
        assert steps[-1] == (4, 4)
        assert [name async for name in ioctx.list_objects()] == ["rbd_directory"]


async def test_image_without_object_map_is_removed_whole(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 1 << 40, features=Feature.LAYERING)
        async with open_image(ioctx, "vm") as image:
            await image.write(1 << 39, b"far")
            await image.write(0, b"near")
        await directory.remove(ioctx, "vm")
        assert [name async for name in ioctx.list_objects()] == ["rbd_directory"]


async def test_half_removed_image_can_be_removed_again(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "vm", MIB)
        await calls.remove(ioctx, f"rbd_header.{image_id}")
        await calls.remove(ioctx, "rbd_id.vm")
        await directory.remove(ioctx, "vm")
        assert [name async for name in ioctx.list_objects()] == ["rbd_directory"]


async def test_a_late_removal_leaves_a_new_image_of_the_name_alone(pools: Pools) -> None:
    async with pools.client() as slow, pools.client() as other:
        await directory.create(other, "vm", MIB)
        ioctx = FaultyIoCtx(slow)
        ioctx.holds = removes(id_object("vm"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(directory.remove, ioctx, "vm")
            await until(lambda: ioctx.held)
            await directory.remove(other, "vm")
            image_id = await directory.create(other, "vm", MIB)
            ioctx.release()
        assert await directory.list_images(other) == {"vm": image_id}
        assert await ask(other, id_object("vm"), cls_directory.get_id()) == image_id


async def test_image_with_snapshots_is_not_removed(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"data")
            await snapshots.create(image, "s")
        with pytest.raises(NotEmpty):
            await directory.remove(ioctx, "vm")
        async with open_image(ioctx, "vm") as image:
            assert await image.read(0, 4) == b"data"


async def test_format_1_is_refused_by_name(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await calls.write(ioctx, "old.rbd", 0, b"<<< Rados Block Device Image >>>\n")
        with pytest.raises(NotSupported, match="format 1"):
            await directory.lookup(ioctx, "old")
        with pytest.raises(Exists):
            await directory.create(ioctx, "old", MIB)


async def test_damaged_header_is_said(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "vm", MIB)
        await calls.omap_set(ioctx, f"rbd_header.{image_id}", {"order": b"\xff"})
        with pytest.raises(Exception, match=f"rbd_header.{image_id}"):
            await read_header(ioctx, image_id)
        assert "vm" in await directory.list_images(ioctx)


async def test_namespaces_hold_images_of_their_own(pools: Pools) -> None:
    async with pools.client() as ioctx:
        inside = ioctx.with_namespace("ns")
        with pytest.raises(NotFound):
            await directory.create(inside, "vm", MIB)
        await directory.create_namespace(ioctx, "ns")
        with pytest.raises(Exists):
            await directory.create_namespace(ioctx, "ns")
        assert await directory.list_namespaces(ioctx) == ["ns"]
        await directory.create(inside, "vm", MIB)
        async with open_image(inside, "vm") as image:
            await image.write(0, b"inside")
        assert await directory.list_images(ioctx) == {}
        with pytest.raises(Busy):
            await directory.remove_namespace(ioctx, "ns")
        await directory.remove(inside, "vm")
        await directory.remove_namespace(ioctx, "ns")
        assert await directory.list_namespaces(ioctx) == []
        with pytest.raises(NotFound):
            await directory.remove_namespace(ioctx, "ns")
        assert [name async for name in inside.list_objects()] == []


async def test_more_images_than_fit_a_page(pools: Pools) -> None:
    async with pools.client() as ioctx:
        names = [f"image-{number:04}" for number in range(1100)]
        for number, name in enumerate(names):
            await change(ioctx, cls_directory.DIRECTORY, cls_directory.add_image(name, f"{number:x}"))
        assert list(await directory.list_images(ioctx)) == names


async def test_open_image_that_is_removed_fails_from_then_on(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"data")
            await image.flush()
            changes: list[ImageChange] = []
            image.subscribe(changes.append)
            await calls.remove(ioctx, image.header_name)
            image.watcher.tell_soon(HeaderUpdate())
            await until(lambda: ImageChange.REMOVED in changes)
            for attempt in (image.read(0, 4), image.write(0, b"x"), image.resize(5), image.write_zeroes(0, 1)):
                with pytest.raises(Gone, match="removed"):
                    await attempt
