"""Data: what librbd writes we read, and the other way round; and librbd agrees with what we did to the object map."""

import random
from typing import Any

import pytest
from ceph_cluster import CephCluster
from interop.librbd import check_object_map, exported, imported, our_pool, qemu_io, rbd, rbd_json

from rbdfs.image import directory, snapshots
from rbdfs.image.image import Image, open_image
from rbdfs.image.usage import disk_usage

pytestmark = pytest.mark.cluster

MIB = 1 << 20

SHAPES: dict[str, dict[str, Any]] = {
    "default": {},
    "small objects": {"order": 16},
    "striped": {"order": 20, "stripe_unit": 1 << 16, "stripe_count": 3},
    "no object map": {"features": 1 | 4},
    "layering only": {"features": 1},
}


def scribble(chance: random.Random, shadow: bytearray, count: int) -> list[tuple[int, bytes]]:
    """Random writes, some small and some across objects, which the shadow has got already."""
    writes = []
    for _ in range(count):
        length = chance.choice((1, 511, 4096, 70_000, 300_000))
        offset = chance.randrange(len(shadow) - length)
        data = chance.randbytes(length)
        shadow[offset : offset + length] = data
        writes.append((offset, data))
    return writes


async def write_all(image: Image, writes: list[tuple[int, bytes]]) -> None:
    for offset, data in writes:
        await image.write(offset, data)


@pytest.mark.parametrize("shape", SHAPES)
async def test_what_we_write_rbd_exports(ceph_cluster: CephCluster, shape: str) -> None:
    spec, chance, shadow = "data/written", random.Random(shape), bytearray(9 * MIB + 12_345)
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "written", len(shadow), **SHAPES[shape])
        async with open_image(ioctx, "written") as image:
            await write_all(image, scribble(chance, shadow, 20))
            await snapshots.create(image, "first")
            at_first = bytes(shadow)
            await write_all(image, scribble(chance, shadow, 10))
            hole = (2 * MIB + 77, 5 * MIB)
            await image.write_zeroes(*hole)
            shadow[hole[0] : sum(hole)] = bytes(hole[1])
            await image.flush()
        assert await exported(ceph_cluster, spec) == shadow
        assert await exported(ceph_cluster, f"{spec}@first") == at_first
        if not SHAPES[shape].get("features"):
            await check_object_map(ceph_cluster, spec)
            await check_object_map(ceph_cluster, f"{spec}@first")
        await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
        await rbd(ceph_cluster, "rm", "--no-progress", spec)


@pytest.mark.parametrize("options", [(), ("--image-feature", "layering"), ("--object-size", "128K")], ids=str)
async def test_what_rbd_imports_we_read(ceph_cluster: CephCluster, options: tuple[str, ...]) -> None:
    chance = random.Random(5)
    data = chance.randbytes(3 * MIB) + bytes(4 * MIB) + chance.randbytes(MIB + 99)
    await imported(ceph_cluster, data, "data/imported", *options)
    async with our_pool(ceph_cluster) as ioctx:
        async with open_image(ioctx, "imported", read_only=True) as image:
            assert await image.read(0, len(data) + 100) == data
            assert await image.read(3 * MIB - 10, 20) == data[3 * MIB - 10 : 3 * MIB + 10]
            assert await image.seek_data(3 * MIB + 4096) == 7 * MIB
    await rbd(ceph_cluster, "rm", "--no-progress", "data/imported")


async def test_usage_is_what_rbd_du_counts(ceph_cluster: CephCluster) -> None:
    spec = "data/used"
    await rbd(ceph_cluster, "create", "--size", "41M", spec)
    async with our_pool(ceph_cluster) as ioctx:
        async with open_image(ioctx, "used") as image:
            await image.write(0, b"x" * (5 * MIB))
            await snapshots.create(image, "one")
            await image.write(20 * MIB, b"y")
            await image.write(4 * MIB, b"z")
            await snapshots.create(image, "two")
            await image.write(40 * MIB, b"last, and short")
            await image.write_zeroes(0, 4 * MIB)
        ours = [(row.name, row.snap_name, row.provisioned, row.used) for row in await disk_usage(ioctx, "used")]
    theirs = [
        (row["name"], row.get("snapshot"), row["provisioned_size"], row["used_size"])
        for row in (await rbd_json(ceph_cluster, "du", spec))["images"]
    ]
    assert ours == theirs
    await check_object_map(ceph_cluster, spec)
    await check_object_map(ceph_cluster, f"{spec}@one")
    await check_object_map(ceph_cluster, f"{spec}@two")
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_what_changed_is_what_rbd_diff_says(ceph_cluster: CephCluster) -> None:
    """Fast diff trusts the object maps that we keep: it must name every object that we changed."""
    spec = "data/changed"
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "changed", 40 * MIB)
        async with open_image(ioctx, "changed") as image:
            await image.write(0, b"x" * 100)
            await image.write(8 * MIB, b"x" * 100)
            await image.write(16 * MIB, b"x" * 100)
            await snapshots.create(image, "one")
            await image.write(8 * MIB, b"y")
            await image.write(24 * MIB, b"y")
            await image.write_zeroes(16 * MIB, 4 * MIB)
    diff = await rbd_json(ceph_cluster, "diff", "--whole-object", "--from-snap", "one", spec)
    found = {(row["offset"], row["exists"]) for row in diff}
    assert found == {(8 * MIB, "true"), (16 * MIB, "false"), (24 * MIB, "true")}
    whole = await rbd_json(ceph_cluster, "diff", "--whole-object", spec)
    assert {row["offset"] for row in whole} == {0, 8 * MIB, 24 * MIB}
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_both_resize(ceph_cluster: CephCluster) -> None:
    spec = "data/resized"
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "resized", 10 * MIB)
        async with open_image(ioctx, "resized") as image:
            await image.write(0, b"a" * (10 * MIB))
            await image.resize(6 * MIB + 1)
        assert (await rbd_json(ceph_cluster, "info", spec))["size"] == 6 * MIB + 1
        await check_object_map(ceph_cluster, spec)
        await rbd(ceph_cluster, "resize", "--no-progress", "--size", "20M", spec)
        async with open_image(ioctx, "resized") as image:
            assert image.size == 20 * MIB
            assert await image.read(6 * MIB, MIB) == b"a" + bytes(MIB - 1)
            await image.write(19 * MIB, b"b" * MIB)
        await check_object_map(ceph_cluster, spec)
        expected = (b"a" * (6 * MIB + 1)).ljust(19 * MIB, b"\0") + b"b" * MIB
        assert await exported(ceph_cluster, spec) == expected
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_both_roll_back(ceph_cluster: CephCluster) -> None:
    spec, chance = "data/rolled", random.Random(3)
    shadow = bytearray(9 * MIB)
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "rolled", len(shadow))
        async with open_image(ioctx, "rolled") as image:
            await write_all(image, scribble(chance, shadow, 8))
            await snapshots.create(image, "then")
            then = bytes(shadow)
            await write_all(image, scribble(chance, shadow, 8))
            await image.resize(4 * MIB)
            await snapshots.rollback(image, "then")
            assert await image.read(0, len(then)) == then
        assert await exported(ceph_cluster, spec) == then
        await check_object_map(ceph_cluster, spec)
        async with open_image(ioctx, "rolled") as image:
            await image.write(0, b"changed again")
        await rbd(ceph_cluster, "snap", "rollback", "--no-progress", f"{spec}@then")
        async with open_image(ioctx, "rolled", read_only=True) as image:
            assert await image.read(0, len(then)) == then
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_a_snapshot_that_rbd_made_keeps_its_bytes_while_we_write(ceph_cluster: CephCluster) -> None:
    spec, chance = "data/kept", random.Random(4)
    data = chance.randbytes(9 * MIB)
    await imported(ceph_cluster, data, spec)
    await rbd(ceph_cluster, "snap", "create", "--no-progress", f"{spec}@kept")
    async with our_pool(ceph_cluster) as ioctx:
        async with open_image(ioctx, "kept") as image:
            await image.write(MIB, b"new" * 1000)
            await image.write_zeroes(4 * MIB, 4 * MIB)
        async with open_image(ioctx, "kept", snap_name="kept") as snap:
            assert await snap.read(0, len(data)) == data
    assert await exported(ceph_cluster, f"{spec}@kept") == data
    await check_object_map(ceph_cluster, spec)
    await check_object_map(ceph_cluster, f"{spec}@kept")
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_qemu_discards_and_we_see_the_hole(ceph_cluster: CephCluster) -> None:
    await rbd(ceph_cluster, "create", "--size", "16M", "data/trimmed")
    async with our_pool(ceph_cluster) as ioctx:
        async with qemu_io(ceph_cluster, "trimmed") as qemu:
            await qemu.write(0x11, 0, 16 * MIB)
            await qemu.command(f"discard {4 * MIB} {8 * MIB}")
            await qemu.command("flush")
        async with open_image(ioctx, "trimmed", read_only=True) as image:
            assert await image.data_extents(0, 16 * MIB) == [(0, 4 * MIB), (12 * MIB, 4 * MIB)]
            assert await image.seek_hole(0) == 4 * MIB
            assert await image.seek_data(4 * MIB) == 12 * MIB
            assert await image.read(4 * MIB - 1, 2) == b"\x11\0"
    await rbd(ceph_cluster, "rm", "--no-progress", "data/trimmed")
