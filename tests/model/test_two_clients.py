"""Two clients at work on one image at the same time: writers, snapshots and resizes get in each other's way.

Each writer has a part of the image for itself and knows what must be in it; the lock goes back and forth all the time.
RBDFS_MODEL_SECONDS says for how long.
"""

import os
import random
from pathlib import Path

import pytest
import trio
from model.image_model import check_map

from rbdfs.image import directory, snapshots
from rbdfs.image.features import DEFAULT_FEATURES, Feature
from rbdfs.image.image import Image, open_image
from rbdfs.local.cluster import open_store

UNIT = 1 << 16  # an object
PART = 8 * UNIT
SECONDS = float(os.environ.get("RBDFS_MODEL_SECONDS", "2"))


class Writer:
    """Writes, zeroes and reads its own part of the image until told to stop."""

    def __init__(self, image: Image, offset: int, seed: int) -> None:
        self.image = image
        self.offset = offset
        self.chance = random.Random(seed)
        self.content = bytearray(PART)

    async def run(self, stop: trio.Event) -> None:
        while not stop.is_set():
            start = self.chance.randrange(PART)
            length = min(self.chance.choice([10, 5000, UNIT, 2 * UNIT]), PART - start)
            await self.chance.choice([self.write, self.write, self.zero, self.check])(start, length)
            await trio.lowlevel.checkpoint()

    async def write(self, start: int, length: int) -> None:
        data = self.chance.randbytes(length)
        await self.image.write(self.offset + start, data)
        self.content[start : start + length] = data

    async def zero(self, start: int, length: int) -> None:
        await self.image.write_zeroes(self.offset + start, length)
        self.content[start : start + length] = bytes(length)

    async def check(self, start: int, length: int) -> None:
        assert await self.image.read(self.offset + start, length) == self.content[start : start + length]


async def make_snapshots(images: list[Image], chance: random.Random, stop: trio.Event) -> None:
    names: list[str] = []
    for number in range(1000):
        if stop.is_set():
            return
        image = chance.choice(images)
        if names and chance.random() < 0.45:
            await snapshots.remove(image, names.pop(chance.randrange(len(names))))
        else:
            names.append(f"s{number}")
            await snapshots.create(image, names[-1])
        await trio.sleep(chance.random() * 0.05)


async def change_size(images: list[Image], chance: random.Random, stop: trio.Event) -> None:
    while not stop.is_set():
        await chance.choice(images).resize(chance.randrange(4 * PART, 5 * PART))
        await trio.sleep(chance.random() * 0.05)


@pytest.mark.parametrize("features", [DEFAULT_FEATURES, Feature.LAYERING | Feature.EXCLUSIVE_LOCK])
async def test_everything_at_once(tmp_path: Path, features: int) -> None:
    async with open_store(tmp_path / "store", create=True) as one, open_store(tmp_path / "store") as other:
        await one.create_pool("data")
        pools = [await one.open_pool("data"), await other.open_pool("data")]
        await directory.create(pools[0], "vm", 4 * PART, order=16, features=features)
        async with open_image(pools[0], "vm") as image, open_image(pools[1], "vm") as peer:
            images = [image, peer]
            writers = [Writer(images[number % 2], number * PART, number) for number in range(4)]
            stop = trio.Event()
            with trio.fail_after(SECONDS + 60):
                async with trio.open_nursery() as nursery:
                    for writer in writers:
                        nursery.start_soon(writer.run, stop)
                    nursery.start_soon(make_snapshots, images, random.Random(1), stop)
                    nursery.start_soon(change_size, images, random.Random(2), stop)
                    await trio.sleep(SECONDS)
                    stop.set()
            for writer in writers:
                await writer.check(0, PART)
        async with open_image(pools[0], "vm") as image:
            await check_map(image)
            await snapshots.purge(image)
        await directory.remove(pools[1], "vm")
