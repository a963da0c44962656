"""A snapshot is one moment: with writes in flight, whoever makes it, it holds all that was complete and no later write.

A task writes ever larger numbers, one after the other, each into the next block. So what a snapshot holds must be the
numbers up to some n, and n must lie between what was complete when it was asked for and what had begun when it was
done.
"""

import pytest
import trio
from ceph_cluster import CephCluster
from interop.librbd import check_object_map, exported, our_pool, rbd

from rbdfs.image import directory, snapshots
from rbdfs.image.image import Image, open_image

pytestmark = pytest.mark.cluster

BLOCK = 4096
BLOCKS = 2048


class Counting:
    """Writes numbers."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.begun = 0
        self.complete = 0

    async def run(self) -> None:
        while True:
            self.begun += 1
            data = self.begun.to_bytes(8, "little") * (BLOCK // 8)
            await self.image.write((self.begun % BLOCKS) * BLOCK, data)
            self.complete = self.begun


def newest(data: bytes) -> int:
    """The largest number, once it is sure that no smaller one is missing and none is torn."""
    numbers = [int.from_bytes(data[block * BLOCK : block * BLOCK + 8], "little") for block in range(BLOCKS)]
    top = max(numbers)
    for block, number in enumerate(numbers):
        assert data[block * BLOCK : (block + 1) * BLOCK] == number.to_bytes(8, "little") * (BLOCK // 8)
        expected = top - (top - block) % BLOCKS
        assert number == max(expected, 0), (top, block)
    return top


async def test_a_snapshot_is_one_moment_whoever_makes_it(ceph_cluster: CephCluster) -> None:
    spec = "data/moments"
    bounds: dict[str, tuple[int, int]] = {}
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "moments", BLOCK * BLOCKS, order=18)
        async with open_image(ioctx, "moments") as image, trio.open_nursery() as nursery:
            counting = Counting(image)
            nursery.start_soon(counting.run)
            for number in range(8):
                await trio.sleep(0.1)
                name, complete = f"s{number}", counting.complete
                if number % 2:
                    await snapshots.create(image, name)
                else:
                    await rbd(ceph_cluster, "snap", "create", "--no-progress", f"{spec}@{name}")
                bounds[name] = (complete, counting.begun)
            nursery.cancel_scope.cancel()
        for name, (complete, begun) in bounds.items():
            assert complete <= newest(await exported(ceph_cluster, f"{spec}@{name}")) <= begun
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_a_writing_librbd_makes_our_snapshots_at_one_moment(ceph_cluster: CephCluster) -> None:
    """`rbd bench` holds the lock and writes; what we ask it for is done meanwhile, and the image stays sound."""
    spec = "data/benched"
    await rbd(ceph_cluster, "create", "--size", "64M", spec)
    bench = ("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "40M", "--io-pattern", "rand")
    async with our_pool(ceph_cluster) as ioctx, open_image(ioctx, "benched") as image:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rbd, ceph_cluster, *bench, spec)
            await trio.sleep(0.5)
            for number in range(3):
                await snapshots.create(image, f"s{number}")
            await image.resize(80 << 20)
            await snapshots.remove(image, "s1")
        assert [snap.name for snap in image.header.snaps] == ["s0", "s2"]
        assert image.size == 80 << 20
        await image.write(0, b"ours again")
    for name in (spec, f"{spec}@s0", f"{spec}@s2"):
        await check_object_map(ceph_cluster, name)
    assert (await exported(ceph_cluster, spec)).startswith(b"ours again")
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)
