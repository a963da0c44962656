"""An image with millions of possible objects, few of them real, and no object map that would say which."""

import pytest
from image.conftest import Pools
from image.faulty import FaultyIoCtx, Op, faulty_image

from rbdfs.image import directory, snapshots
from rbdfs.image.features import Feature
from rbdfs.image.image import open_image
from rbdfs.image.usage import disk_usage

TIB = 1 << 40
FEATURES = int(Feature.LAYERING | Feature.EXCLUSIVE_LOCK)
FAR, FARTHER = 5 * TIB, 11 * TIB


class Counter:
    """How many ops on data objects there were."""

    def __init__(self, ioctx: FaultyIoCtx) -> None:
        self.count = 0
        ioctx.rule = self._look

    def _look(self, name: str, _: Op) -> None:
        self.count += name.startswith("rbd_data.")


@pytest.fixture(autouse=True)
def _few_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rbdfs.image.listing.FEW", 16)
    monkeypatch.setattr("rbdfs.image.allocation.FEW", 16)


async def test_rolling_back_touches_what_exists_or_did(pools: Pools) -> None:
    async with faulty_image(pools, 16 * TIB, features=FEATURES) as (ioctx, image):
        await image.write(0, b"kept")
        await image.write(FAR, b"gone")
        await snapshots.create(image, "s")
        await image.write_zeroes(FAR, 1 << 22)
        await image.write(FARTHER, b"new")
        counter = Counter(ioctx)
        done: list[tuple[int, int]] = []
        await snapshots.rollback(image, "s", on_progress=lambda *progress: done.append(progress))
        assert counter.count < 10
        assert done == [(1, 3), (2, 3), (3, 3)]
        assert (await image.read(0, 4), await image.read(FAR, 4), await image.read(FARTHER, 3)) == (
            b"kept",
            b"gone",
            b"\0\0\0",
        )


async def test_data_of_a_snapshot_is_found_though_the_image_has_it_no_more(pools: Pools) -> None:
    async with faulty_image(pools, 16 * TIB, features=FEATURES) as (ioctx, image):
        await image.write(FAR, b"gone")
        await image.write(FARTHER, b"kept")
        await snapshots.create(image, "s")
        await image.write_zeroes(FAR, 1 << 22)
        assert await image.seek_data(0) == FARTHER
        async with open_image(ioctx, "vm", snap_name="s") as snap:
            counter = Counter(ioctx)
            assert await snap.seek_data(0) == FAR
            assert await snap.seek_data(FAR + (1 << 22)) == FARTHER
            assert await snap.seek_data(FARTHER + (1 << 22)) is None
            assert await snap.seek_hole(FAR) == FAR + 4
            assert counter.count < 200


async def test_what_it_occupies_is_counted_without_asking_for_what_never_was(pools: Pools) -> None:
    async with faulty_image(pools, 16 * TIB, features=FEATURES) as (ioctx, image):
        await image.write(FAR, b"gone")
        await snapshots.create(image, "s")
        await image.write_zeroes(FAR, 1 << 22)
        await image.write(FARTHER, b"new")
        counter = Counter(ioctx)
        assert [row.used for row in await disk_usage(ioctx, "vm")] == [4 << 20, 4 << 20]
        assert counter.count < 20


async def test_where_the_pool_holds_far_more_each_possible_object_is_asked_for(pools: Pools) -> None:
    async with faulty_image(pools, 1 << 30, features=FEATURES) as (ioctx, image):
        await image.write(1 << 29, b"x")
        async with pools.client() as other:
            await directory.create(other, "full", 16 << 20, order=12)
            async with open_image(other, "full") as full:
                await full.write(0, b"x" * (12 << 20))
        counter = Counter(ioctx)
        assert await image.seek_data(0) == 1 << 29
        assert counter.count > 120
