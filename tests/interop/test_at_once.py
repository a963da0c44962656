"""One image, several writers at the same time: the lock is torn to and fro, and nothing is lost.

Each writer has a region of its own and writes it over and over; who is asked for the lock has writes in flight, some
waiting for the object map and some queued. All the while `rbd` makes and removes snapshots.
"""

import errno
import random

import pytest
import trio
from ceph_cluster import CephCluster
from interop.librbd import QemuIo, check_object_map, exported, our_pool, qemu_io, rbd, rbd_fails

from rbdfs.image import directory
from rbdfs.image.image import Image, open_image

pytestmark = pytest.mark.cluster

KIB, MIB = 1 << 10, 1 << 20
REGION = 6 * MIB
SECONDS = 5


class Shadow:
    """What the writers have written, and how often."""

    def __init__(self) -> None:
        self.data = bytearray(4 * REGION)
        self.writes = [0] * 4

    def next(self, region: int, chance: random.Random) -> tuple[int, int, int]:
        """Where and what a writer writes next."""
        length = chance.choice((4, 64, 300)) * KIB
        offset = region * REGION + chance.randrange((REGION - length) // 512 + 1) * 512
        return offset, length, chance.randrange(1, 256)

    def wrote(self, region: int, offset: int, length: int, pattern: int) -> None:
        self.data[offset : offset + length] = bytes((pattern,)) * length
        self.writes[region] += 1


async def write_ours(image: Image, shadow: Shadow, region: int, stop: trio.Event) -> None:
    """Three writes at a time, each of its own part of what was chosen."""
    chance = random.Random(region)
    while not stop.is_set():
        offset, length, pattern = shadow.next(region, chance)
        third = length // 3 // 512 * 512
        async with trio.open_nursery() as nursery:
            for start, end in ((0, third), (third, 2 * third), (2 * third, length)):
                nursery.start_soon(image.write, offset + start, bytes((pattern,)) * (end - start))
        shadow.wrote(region, offset, length, pattern)


async def write_librbd(qemu: QemuIo, shadow: Shadow, region: int, stop: trio.Event) -> None:
    chance = random.Random(region)
    while not stop.is_set():
        offset, length, pattern = shadow.next(region, chance)
        await qemu.write(pattern, offset, length)
        shadow.wrote(region, offset, length, pattern)


async def make_snapshots(ceph: CephCluster, spec: str, stop: trio.Event) -> None:
    """Where the owner that it asked is librbd, too, and is about to lose the lock, `rbd` may do its work a second time.

    Seen with 16.2 and 18.2: the owner is at work, yet no longer answers; `rbd` asks again, misses that it is done,
    takes the lock itself, and finds the snapshot made (EEXIST), or gone (ENOENT).
    """
    number = 0
    while not stop.is_set():
        number += 1
        assert await rbd_fails(ceph, "snap", "create", "--no-progress", f"{spec}@s{number}") in (0, errno.EEXIST)
        if number > 2:
            assert await rbd_fails(ceph, "snap", "rm", "--no-progress", f"{spec}@s{number - 2}") in (0, errno.ENOENT)
    assert number > 1


async def test_writers_at_the_same_time_lose_nothing(ceph_cluster: CephCluster) -> None:
    spec, shadow, stop = "data/at-once", Shadow(), trio.Event()
    async with our_pool(ceph_cluster) as ioctx, our_pool(ceph_cluster) as other:
        await directory.create(ioctx, "at-once", 4 * REGION, order=20)
        async with (
            open_image(ioctx, "at-once") as ours,
            open_image(other, "at-once") as ours_too,
            qemu_io(ceph_cluster, "at-once") as qemu,
        ):
            with trio.fail_after(SECONDS + 60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write_ours, ours, shadow, 0, stop)
                    nursery.start_soon(write_ours, ours_too, shadow, 1, stop)
                    nursery.start_soon(write_librbd, qemu, shadow, 2, stop)
                    nursery.start_soon(make_snapshots, ceph_cluster, spec, stop)
                    await trio.sleep(SECONDS)
                    stop.set()
        assert min(shadow.writes[:3]) > 0, shadow.writes
        assert await exported(ceph_cluster, spec) == shadow.data, shadow.writes
        async with open_image(ioctx, "at-once", read_only=True) as image:
            assert await image.read(0, 4 * REGION) == shadow.data
    await check_object_map(ceph_cluster, spec)
    for line in (await rbd(ceph_cluster, "snap", "ls", spec)).splitlines()[1:]:
        await check_object_map(ceph_cluster, f"{spec}@{line.split()[1]}")
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)
