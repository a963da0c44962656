"""One image, two writers, in turns that chance decides: librbd (in QEMU, without its cache) and us.

Each step is a write, a discard, a resize or something with a snapshot, by either side; the lock moves as they write. At
the end every snapshot and the image are what a plain byte array says, by either side's reading, and librbd finds no
fault in the object maps.
"""

import random

import pytest
from ceph_cluster import CephCluster
from interop.librbd import QemuIo, check_object_map, exported, our_pool, qemu_io, rbd

from rbdfs.image import directory, snapshots
from rbdfs.image.image import Image, open_image

pytestmark = pytest.mark.cluster

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
STEPS = 40


class Together:
    """The image, who works on it, and what it must hold."""

    def __init__(self, ceph: CephCluster, spec: str, image: Image, qemu: QemuIo, seed: int) -> None:
        self.ceph = ceph
        self.spec = spec
        self.image = image
        self.qemu = qemu
        self.chance = random.Random(seed)
        self.shadow = bytearray(SIZE)
        self.snaps: dict[str, bytes] = {}
        self.made = 0
        self.log: list[str] = []

    async def step(self) -> None:
        actions = [self.write] * 6 + [self.zero] * 2 + [self.create_snap] * 2 + [self.remove_snap, self.roll_back]
        action = self.chance.choice(actions)
        ours = self.chance.random() < 0.5
        self.log.append(f"{action.__name__} {'us' if ours else 'librbd'}")
        await action(ours)

    def extent(self) -> tuple[int, int]:
        length = self.chance.choice((512, 4 * KIB, 64 * KIB, 700 * KIB, 3 * MIB))
        offset = self.chance.randrange((SIZE - length) // 512 + 1) * 512
        return offset, length

    async def write(self, ours: bool) -> None:
        offset, length = self.extent()
        pattern = self.chance.randrange(1, 256)
        if ours:
            await self.image.write(offset, bytes((pattern,)) * length)
        else:
            await self.qemu.write(pattern, offset, length)
        self.shadow[offset : offset + length] = bytes((pattern,)) * length

    async def zero(self, ours: bool) -> None:
        offset, length = self.extent()
        if ours:
            await self.image.write_zeroes(offset, length)
        else:
            answer = await self.qemu.command(f"write -z {offset} {length}")
            assert f"wrote {length}/{length}" in answer, answer
        self.shadow[offset : offset + length] = bytes(length)

    async def create_snap(self, ours: bool) -> None:
        name = f"s{self.made}"
        self.made += 1
        if ours:
            await snapshots.create(self.image, name)
        else:
            await rbd(self.ceph, "snap", "create", "--no-progress", f"{self.spec}@{name}")
        self.snaps[name] = bytes(self.shadow)

    async def remove_snap(self, ours: bool) -> None:
        if not self.snaps:
            return
        name = self.chance.choice(list(self.snaps))
        if ours:
            await snapshots.remove(self.image, name)
        else:
            await rbd(self.ceph, "snap", "rm", "--no-progress", f"{self.spec}@{name}")
        del self.snaps[name]

    async def roll_back(self, _ours: bool) -> None:
        if not self.snaps:
            return
        name = self.chance.choice(list(self.snaps))
        await snapshots.rollback(self.image, name)
        self.shadow[:] = self.snaps[name]

    async def check(self) -> None:
        assert await self.image.read(0, SIZE) == self.shadow, self.log
        offset, length = self.extent()
        answer = await self.qemu.command(f"read {offset} {length}")
        assert f"read {length}/{length}" in answer, answer


@pytest.mark.parametrize("seed", [1, 2])
async def test_two_writers_of_one_image(ceph_cluster: CephCluster, seed: int) -> None:
    name = f"together{seed}"
    spec = f"data/{name}"
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, name, SIZE, order=20)
        async with open_image(ioctx, name) as image, qemu_io(ceph_cluster, name) as qemu:
            together = Together(ceph_cluster, spec, image, qemu, seed)
            for number in range(STEPS):
                await together.step()
                if number % 10 == 9:
                    await together.check()
        assert await exported(ceph_cluster, spec) == together.shadow, together.log
        await check_object_map(ceph_cluster, spec)
        for snap, data in together.snaps.items():
            assert await exported(ceph_cluster, f"{spec}@{snap}") == data, (snap, together.log)
            async with open_image(ioctx, name, snap_name=snap) as opened:
                assert await opened.read(0, SIZE) == data, (snap, together.log)
            await check_object_map(ceph_cluster, f"{spec}@{snap}")
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)
