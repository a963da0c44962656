"""What does not fit: damaged object maps, features turned on and off while we write, features that we do not know."""

import itertools
from contextlib import suppress
from functools import partial

import pytest
import trio
from ceph_cluster import CephCluster
from interop.librbd import check_object_map, exported, our_pool, rbd, rbd_json

from rbdfs.errors import Busy, NotEmpty, NotSupported, ReadOnly
from rbdfs.image import directory, snapshots
from rbdfs.image.features import Feature, ImageFlag
from rbdfs.image.header import read_header
from rbdfs.image.image import Image, open_image
from rbdfs.image.names import object_map_object
from rbdfs.rados.ops import Write, WriteOp

pytestmark = pytest.mark.cluster

MIB = 1 << 20


async def test_a_damaged_object_map_is_flagged_and_rbd_rebuilds_it(ceph_cluster: CephCluster) -> None:
    spec = "data/damaged"
    async with our_pool(ceph_cluster) as ioctx:
        image_id = await directory.create(ioctx, "damaged", 40 * MIB)
        async with open_image(ioctx, "damaged") as image:
            await image.write(0, b"before")
        await ioctx.operate(object_map_object(image_id), WriteOp([Write(19, b"\xff")]))  # a CRC fails now
        async with open_image(ioctx, "damaged") as image:
            await image.write(20 * MIB, b"after")
            assert await image.read(0, 6) == b"before"
            info = await rbd_json(ceph_cluster, "info", spec)
            assert sorted(info["flags"]) == ["fast diff invalid", "object map invalid"]
        await rbd(ceph_cluster, "object-map", "rebuild", "--no-progress", spec)
        await check_object_map(ceph_cluster, spec)
        async with open_image(ioctx, "damaged") as image:
            await image.write(30 * MIB, b"again")
        await check_object_map(ceph_cluster, spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_rbd_rebuilds_an_object_map_while_we_write(ceph_cluster: CephCluster) -> None:
    """We do not do that for others: librbd takes the lock for it, and gives it back."""
    spec = "data/rebuilt"
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "rebuilt", 40 * MIB)
        async with open_image(ioctx, "rebuilt") as image:
            await image.write(0, b"one")
            await rbd(ceph_cluster, "object-map", "rebuild", "--no-progress", spec)
            await image.write(8 * MIB, b"two")
        await check_object_map(ceph_cluster, spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_rbd_turns_features_off_and_on_while_we_write(ceph_cluster: CephCluster) -> None:
    spec = "data/featured"
    shadow = bytearray(32 * MIB)
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "featured", len(shadow))
        async with open_image(ioctx, "featured") as image:

            async def write(offset: int, data: bytes) -> None:
                await image.write(offset, data)
                shadow[offset : offset + len(data)] = data

            await write(0, b"with all")
            await rbd(ceph_cluster, "feature", "disable", spec, "fast-diff", "object-map")
            await write(4 * MIB, b"without a map")
            assert not image.header.features & Feature.OBJECT_MAP
            await rbd(ceph_cluster, "feature", "disable", spec, "exclusive-lock")
            await write(8 * MIB, b"without a lock")
            assert not image.header.features & Feature.EXCLUSIVE_LOCK
            await rbd(ceph_cluster, "snap", "create", "--no-progress", f"{spec}@s")
            await write(8 * MIB, b"after it was made")
            await rbd(ceph_cluster, "feature", "enable", spec, "exclusive-lock")
            await write(12 * MIB, b"with a lock")
            await rbd(ceph_cluster, "feature", "enable", spec, "object-map", "fast-diff")
            await rbd(ceph_cluster, "object-map", "rebuild", "--no-progress", spec)
            await write(16 * MIB, b"with all again")
            await rbd(ceph_cluster, "object-map", "rebuild", "--no-progress", f"{spec}@s")
        assert await exported(ceph_cluster, spec) == shadow
        assert (await exported(ceph_cluster, f"{spec}@s"))[8 * MIB :].startswith(b"without a lock\0")
        await check_object_map(ceph_cluster, spec)
        await check_object_map(ceph_cluster, f"{spec}@s")
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


@pytest.mark.parametrize("journaling", [False, True])
async def test_a_lock_that_is_no_longer_wanted_is_not_kept(ceph_cluster: CephCluster, *, journaling: bool) -> None:
    """A writer that waits for it while the feature goes, or writing is forbidden, must neither stall nor take it."""
    spec, slowest = "data/unlocked", 0.0
    change = (
        ("enable", spec, "journaling") if journaling else ("disable", spec, "fast-diff", "object-map", "exclusive-lock")
    )
    async with our_pool(ceph_cluster) as ioctx:
        for _ in range(4):
            await directory.create(ioctx, "unlocked", 32 * MIB)
            async with open_image(ioctx, "unlocked") as image, trio.open_nursery() as nursery:

                async def write(image: Image = image) -> None:
                    nonlocal slowest
                    with suppress(ReadOnly):
                        for number in itertools.count():
                            began = trio.current_time()
                            await image.write(number * 4096 % image.size, b"x" * 4096)
                            slowest = max(slowest, trio.current_time() - began)

                nursery.start_soon(write)
                await trio.sleep(0.3)
                command = partial(ceph_cluster.run, "timeout", "15", "rbd", "feature", *change, check=False)
                code = (await trio.to_thread.run_sync(command)).returncode
                await trio.sleep(0.3)
                nursery.cancel_scope.cancel()
            if code == 124:  # an rbd that is asked for the lock while it leaves waits for ever (16.2), and keeps it
                await trio.sleep(35)
                slowest = 0.0
            else:
                assert await rbd_json(ceph_cluster, "lock", "ls", spec) == []
            if journaling:
                await rbd(ceph_cluster, "feature", "disable", spec, "journaling")
            await rbd(ceph_cluster, "rm", "--no-progress", spec)
    assert slowest < 8


async def test_a_journaled_image_is_read_only(ceph_cluster: CephCluster) -> None:
    spec = "data/journaled"
    await rbd(ceph_cluster, "create", "--size", "8M", "--image-feature", "exclusive-lock,journaling", spec)
    await rbd(ceph_cluster, "bench", "--io-type", "write", "--io-size", "4K", "--io-total", "8K", spec)
    async with our_pool(ceph_cluster) as ioctx, open_image(ioctx, "journaled") as image:
        with pytest.raises(ReadOnly, match="journaling"):
            await image.write(0, b"x")
        assert len(await image.read(0, 8 * MIB)) == 8 * MIB
        modified = image.header.modify_timestamp
        await rbd(ceph_cluster, "feature", "disable", spec, "journaling")
        await image.write(0, b"writable again")
        assert image.lock is not None
        assert image.lock.is_owner
        await image.flush()
    assert (await exported(ceph_cluster, spec)).startswith(b"writable again")
    async with our_pool(ceph_cluster) as ioctx:
        header = await read_header(ioctx, await directory.lookup(ioctx, "journaled"))
        assert header.modify_timestamp > modified
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_a_clone_is_not_written(ceph_cluster: CephCluster) -> None:
    await rbd(ceph_cluster, "create", "--size", "8M", "data/mother")
    await rbd(ceph_cluster, "snap", "create", "--no-progress", "data/mother@s")
    await rbd(ceph_cluster, "clone", "--rbd-default-clone-format", "2", "data/mother@s", "data/daughter")
    async with our_pool(ceph_cluster) as ioctx:
        header = await read_header(ioctx, await directory.lookup(ioctx, "daughter"))
        assert header.parent is not None
        assert (header.parent.image_id, header.parent.overlap) == (await directory.lookup(ioctx, "mother"), 8 * MIB)
        with pytest.raises((ReadOnly, NotSupported)):
            async with open_image(ioctx, "daughter") as image:
                await image.write(0, b"x")
        async with open_image(ioctx, "mother") as image:  # has a child: feature operations
            await image.write(0, b"mother goes on")
            await snapshots.create(image, "more")
            await snapshots.remove(image, "more")
            header = image.header
        assert header.features & Feature.OPERATIONS
        assert not header.flags & ImageFlag.OBJECT_MAP_INVALID
    await check_object_map(ceph_cluster, "data/mother")
    for spec in ("data/daughter", "data/mother"):
        await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
        await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_the_wrong_size_of_an_object_map_is_flagged(ceph_cluster: CephCluster) -> None:
    spec = "data/short-map"
    async with our_pool(ceph_cluster) as ioctx:
        image_id = await directory.create(ioctx, "short-map", 40 * MIB)
        await rbd(ceph_cluster, "create", "--size", "8M", "data/other")
        other = await directory.lookup(ioctx, "other")
        path = str(ceph_cluster.directory / "map")
        await rbd(ceph_cluster, "info", "data/other")
        ceph_cluster.rados("-p", "data", "get", object_map_object(other), path)
        ceph_cluster.rados("-p", "data", "put", object_map_object(image_id), path)
        async with open_image(ioctx, "short-map") as image:
            await image.write(30 * MIB, b"x")
        assert "object map invalid" in (await rbd_json(ceph_cluster, "info", spec))["flags"]
        assert (await exported(ceph_cluster, spec)).index(b"x") == 30 * MIB
    for name in (spec, "data/other"):
        await rbd(ceph_cluster, "rm", "--no-progress", name)


async def test_a_group_snapshot_keeps_its_bytes_while_we_write(ceph_cluster: CephCluster) -> None:
    """It is none of the user's snapshots, and is not shown; but writes must preserve it all the same."""
    spec = "data/member"
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "member", 8 * MIB)
        await rbd(ceph_cluster, "group", "create", "data/group")
        await rbd(ceph_cluster, "group", "image", "add", "data/group", spec)
        with pytest.raises(Busy, match="belongs to a group"):
            await directory.remove(ioctx, "member")
        async with open_image(ioctx, "member") as image:
            await image.write(0, b"before")
            await rbd(ceph_cluster, "group", "snap", "create", "data/group@then")
            await image.write(0, b"after!")
            assert image.header.snaps == []
            assert len(image.header.hidden_snaps) == 1
        await check_object_map(ceph_cluster, spec)
        assert (await exported(ceph_cluster, spec)).startswith(b"after!")
        await rbd(ceph_cluster, "group", "snap", "rollback", "--no-progress", "data/group@then")
        assert (await exported(ceph_cluster, spec)).startswith(b"before")
        with pytest.raises(NotEmpty):
            await directory.remove(ioctx, "member")
        assert "member" in (await rbd(ceph_cluster, "ls", "data")).split()
        await rbd(ceph_cluster, "group", "snap", "rm", "data/group@then")
        await rbd(ceph_cluster, "group", "image", "rm", "data/group", spec)
        await rbd(ceph_cluster, "group", "rm", "data/group")
        await directory.remove(ioctx, "member")
