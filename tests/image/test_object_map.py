"""The object map in step with the data objects, as `rbd object-map check` would have it."""

import calls
import pytest
from image.conftest import MIB, Pools

from rbdfs.cls import object_map as cls_map
from rbdfs.cls.query import change
from rbdfs.errors import NotFound
from rbdfs.image import directory, snapshots
from rbdfs.image.features import Feature, ImageFlag
from rbdfs.image.image import Image, open_image
from rbdfs.image.object_map import load_states, runs_of
from rbdfs.image.usage import disk_usage
from rbdfs.rados.ops import HEAD, SnapId

NONE, EXISTS, CLEAN = 0, 1, 3


async def stored(image: Image, snap_id: SnapId = HEAD) -> list[int]:
    return list(await load_states(image.ioctx, image.image_id, snap_id))


async def existing(image: Image, snap_id: SnapId = HEAD) -> list[bool]:
    found = []
    for number in range(image.header.striping.object_count(image.size)):
        try:
            await calls.stat(image.path.data, image.path.object_name(number), snap_id)
            found.append(True)
        except NotFound:
            found.append(False)
    return found


def test_runs_of_numbers() -> None:
    assert list(runs_of([1, 2, 3, 7, 9, 10])) == [(1, 4), (7, 8), (9, 11)]
    assert list(runs_of([])) == []


async def test_writes_and_zeroes_show_on_the_map(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 5 * MIB, order=20)
        async with open_image(ioctx, "vm") as image:
            await image.write(MIB, b"x" * (2 * MIB))
            assert await stored(image) == [NONE, EXISTS, EXISTS, NONE, NONE]
            await image.write_zeroes(MIB, MIB + 1)
            assert await stored(image) == [NONE, NONE, EXISTS, NONE, NONE]
            assert await existing(image) == [False, False, True, False, False]


async def test_snapshot_makes_clean_and_removal_gives_back(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 4 * MIB, order=20)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x" * (3 * MIB))
            first = await snapshots.create(image, "first")
            assert await stored(image) == [CLEAN, CLEAN, CLEAN, NONE]
            assert await stored(image, first) == [EXISTS, EXISTS, EXISTS, NONE]
            await image.write(MIB, b"y")
            await image.write_zeroes(2 * MIB + 5, 10)
            assert await stored(image) == [CLEAN, EXISTS, EXISTS, NONE]
            second = await snapshots.create(image, "second")
            assert await stored(image, second) == [CLEAN, EXISTS, EXISTS, NONE]
            await snapshots.remove(image, "first")
            assert await stored(image, second) == [EXISTS, EXISTS, EXISTS, NONE]
            await snapshots.remove(image, "second")
            assert await stored(image) == [EXISTS, EXISTS, EXISTS, NONE] == list(image.object_map.states)
            with pytest.raises(NotFound):
                await stored(image, first)


async def test_what_clearing_leaves_as_it_was_stays_clean(pools: Pools) -> None:
    """An OSD does nothing where an object ends before what is to be zeroed; nor must the map say that it did."""
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 4 * MIB, order=20)
        async with open_image(ioctx, "vm") as image:
            for number in range(4):
                await image.write(number * MIB, b"x" * 4096)
            await snapshots.create(image, "s")
            await image.write_zeroes(8192, 4096)
            await image.write_zeroes(MIB + 4096, MIB - 4096)
            await image.write_zeroes(2 * MIB + 4095, 4096)
            await image.resize(3 * MIB + 4096)
            assert await stored(image) == [CLEAN, CLEAN, EXISTS, CLEAN] == list(image.object_map.states)
            await image.write_zeroes(10, 10)
            assert await stored(image) == [EXISTS, CLEAN, EXISTS, CLEAN]
            assert await image.read(0, 4096) == b"x" * 10 + bytes(10) + b"x" * 4076


async def test_map_follows_the_size(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 4 * MIB, order=20)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x" * (4 * MIB))
            await image.resize(MIB + 1)
            assert await stored(image) == [EXISTS, EXISTS]
            await image.resize(3 * MIB)
            assert await stored(image) == [EXISTS, EXISTS, NONE]
            assert await existing(image) == [True, True, False]
            assert await image.read(MIB, 2 * MIB) == b"x" + bytes(2 * MIB - 1)


async def test_rollback_restores_the_map(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 5 * MIB, order=20)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x" * (3 * MIB))
            await snapshots.create(image, "s")
            await image.write(MIB, b"y")
            await image.write_zeroes(2 * MIB, MIB)
            await image.write(4 * MIB, b"z")
            await snapshots.rollback(image, "s")
            assert await stored(image) == [CLEAN, EXISTS, EXISTS, NONE, NONE] == list(image.object_map.states)
            assert await existing(image) == [True, True, True, False, False]


async def test_unusable_map_is_flagged_and_writing_goes_on(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "vm", 4 * MIB, order=20)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"a")
            await calls.remove(ioctx, f"rbd_object_map.{image_id}")
            await image.write(MIB, b"b")
            assert image.header.flags == ImageFlag.OBJECT_MAP_INVALID | ImageFlag.FAST_DIFF_INVALID
        async with open_image(ioctx, "vm") as image:
            assert image.header.flags == ImageFlag.OBJECT_MAP_INVALID | ImageFlag.FAST_DIFF_INVALID
            await image.write(2 * MIB, b"c")
            assert [await image.read(number * MIB, 1) for number in range(3)] == [b"a", b"b", b"c"]
            assert await image.seek_data(MIB + 1) == 2 * MIB


async def test_map_too_small_for_the_image_is_not_trusted(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "vm", 4 * MIB, order=20)
        async with open_image(ioctx, "vm") as image:
            await image.write(3 * MIB, b"far")
        await calls.remove(ioctx, f"rbd_object_map.{image_id}")
        await change(ioctx, f"rbd_object_map.{image_id}", cls_map.resize(2))
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"near")
            assert image.header.flags & ImageFlag.OBJECT_MAP_INVALID
            assert await image.read(3 * MIB, 3) == b"far"


@pytest.mark.parametrize("features", [61, Feature.LAYERING])
async def test_disk_usage_counts_each_object_where_it_changed(pools: Pools, features: int) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 5 * MIB + 5, order=20, features=features)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x" * (2 * MIB))
            await snapshots.create(image, "a")
            await snapshots.create(image, "b")
            await image.write(MIB, b"y")
            await image.write(5 * MIB, b"tail")
            await snapshots.create(image, "c")
            await image.write_zeroes(0, MIB)
        rows = await disk_usage(ioctx, "vm")
        assert [(row.snap_name, row.used) for row in rows] == [("a", 2 * MIB), ("b", 0), ("c", MIB + 5), (None, 0)]
        assert all(row.provisioned == 5 * MIB + 5 for row in rows)


async def test_huge_empty_image_is_looked_through_at_once(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "huge", 16 << 40)
        async with open_image(ioctx, "huge") as image:
            assert await image.seek_data(0) is None
            assert await image.seek_hole(0) == 0
            await image.write(9 << 40, b"data")
            assert await image.seek_data(5) == 9 << 40
            await image.write_zeroes(0, 16 << 40)
            assert await image.seek_data(0) is None
            assert await image.allocated_bytes() == 0
