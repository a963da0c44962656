"""Whatever changes an image, `rbd object-map check` agrees with every map that is left behind."""

import random

import pytest
from ceph_cluster import CephCluster
from interop.librbd import check_object_map, our_pool, rbd

from rbdfs.image import directory, snapshots
from rbdfs.image.image import Image, open_image

pytestmark = pytest.mark.cluster

KIB, MIB = 1 << 10, 1 << 20
ORDER = 18  # small objects, so that a few changes touch each; all are short at first, so that zeroing meets short ones
CHANGES = 24


async def change(image: Image, rng: random.Random, kept: list[str]) -> None:
    """One change of any kind."""
    length = rng.choice((512, 4 * KIB, 4 * KIB, 20_000, 300_000))
    offset = rng.randrange(image.size)
    if rng.random() < 0.6:
        offset -= offset % (32 * KIB)
    length = min(length, image.size - offset)
    match rng.choices(("write", "zero", "discard", "snap", "remove", "rollback", "resize"), (35, 20, 10, 15, 8, 6, 6)):
        case ["write"]:
            await image.write(offset, rng.randbytes(length))
        case ["zero"]:
            await image.write_zeroes(offset, length)
        case ["discard"]:
            await image.discard(offset, length)
        case ["snap"]:
            kept.append(f"s{rng.getrandbits(64):x}")
            await snapshots.create(image, kept[-1])
        case ["remove"] if kept:
            await snapshots.remove(image, kept.pop(rng.randrange(len(kept))))
        case ["rollback"] if kept:
            await snapshots.rollback(image, rng.choice(kept))
        case ["resize"]:
            await image.resize(rng.choice((100_000, MIB // 2, MIB * 3 // 4 + 1000, MIB, 2 * MIB)))


@pytest.mark.parametrize("layout", [{}, {"stripe_unit": 64 * KIB, "stripe_count": 4}], ids=["simple", "striped"])
async def test_librbd_finds_every_map_right(ceph_cluster: CephCluster, layout: dict[str, int]) -> None:
    async with our_pool(ceph_cluster) as ioctx:
        for seed in range(6):
            rng, kept = random.Random(seed), list[str]()
            await directory.create(ioctx, "mapped", MIB, order=ORDER, **layout)
            async with open_image(ioctx, "mapped") as image:
                for offset in range(0, MIB, 1 << ORDER):
                    await image.write(offset, rng.randbytes(100))
                for _ in range(CHANGES):
                    await change(image, rng, kept)
            for spec in ("data/mapped", *(f"data/mapped@{name}" for name in kept)):
                await check_object_map(ceph_cluster, spec)
            await rbd(ceph_cluster, "snap", "purge", "--no-progress", "data/mapped")
            await rbd(ceph_cluster, "rm", "--no-progress", "data/mapped")
