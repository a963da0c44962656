"""Zeroes, holes, and what they free."""

import pytest
from image.conftest import MIB, Pools

from rbdfs.image import directory
from rbdfs.image.features import Feature
from rbdfs.image.image import open_image

FEATURES = [61, Feature.LAYERING]


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (1000, 100),
        (1000, 100_000),
        (4096, 4096),
        (MIB, MIB),
        (MIB - 1, 2 * MIB + 2),
        (0, 5 * MIB),
        (3 * MIB + 7, 9 * MIB),
    ],
)
async def test_zeroes_are_exact_to_the_byte(pools: Pools, features: int, offset: int, length: int) -> None:
    async with pools.client() as ioctx:
        size = 4 * MIB + 1234
        await directory.create(ioctx, "vm", size, order=20, features=features)
        async with open_image(ioctx, "vm") as image:
            data = bytearray(b"\xa5" * size)
            await image.write(0, data)
            await image.write_zeroes(offset, length)
            end = min(offset + length, size)
            data[offset:end] = bytes(end - offset)
            assert await image.read(0, size) == data
            assert image.size == size


async def test_zeroing_everything_frees_everything(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 4 * MIB + 5, order=20)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x" * (4 * MIB + 5))
            assert await image.allocated_bytes() >= 4 * MIB + 5
            await image.write_zeroes(0, image.size)
            assert await image.allocated_bytes() == 0
            assert await image.data_extents(0, image.size) == []


async def test_discard_keeps_what_it_cannot_free(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 2 * MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x" * (2 * MIB))
            await image.discard(1000, 100_000)
            assert await image.read(0, MIB) == b"x" * 65536 + bytes(0) + b"x" * (MIB - 65536)
            await image.discard(1000, 200_000)
            assert await image.read(0, MIB) == b"x" * 65536 + bytes(131_072) + b"x" * (MIB - 196_608)


@pytest.mark.parametrize("features", FEATURES)
async def test_data_and_holes_are_found(pools: Pools, features: int) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 10 * MIB, order=20, features=features)
        async with open_image(ioctx, "vm") as image:
            assert await image.seek_data(0) is None
            await image.write(2 * MIB, b"x" * (3 * MIB))
            await image.write(9 * MIB, b"y" * MIB)
            assert await image.data_extents(0, 10 * MIB) == [(2 * MIB, 3 * MIB), (9 * MIB, MIB)]
            assert await image.data_extents(3 * MIB, MIB) == [(3 * MIB, MIB)]
            assert [await image.seek_data(offset * MIB) for offset in (0, 2, 4, 5, 9)] == [
                2 * MIB,
                2 * MIB,
                4 * MIB,
                9 * MIB,
                9 * MIB,
            ]
            assert [await image.seek_hole(offset * MIB) for offset in (0, 2, 5, 9)] == [0, 5 * MIB, 5 * MIB, 10 * MIB]
            assert await image.seek_data(10 * MIB) is None


async def test_striped_holes_are_found(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 3 * MIB, order=18, stripe_unit=65536, stripe_count=3)
        async with open_image(ioctx, "vm") as image:
            await image.write(MIB, b"x" * 200_000)
            extents = await image.data_extents(0, image.size)
            covered = {unit for start, length in extents for unit in range(start // 65536, (start + length) // 65536)}
            assert set(range(16, 19)) <= covered <= set(range(15, 21))
            assert await image.seek_data(0) == extents[0][0]
            assert await image.seek_hole(MIB) == sum(extents[0])
            await image.write_zeroes(0, image.size)
            assert await image.allocated_bytes() == 0
