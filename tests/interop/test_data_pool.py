"""Images whose data is in another pool: a replicated one, and an erasure-coded one with overwrites."""

import random

import pytest
from ceph_cluster import CephCluster
from interop.librbd import check_object_map, exported, our_pool, rbd, rbd_json

from rbdfs.image import directory, snapshots
from rbdfs.image.image import open_image

pytestmark = pytest.mark.cluster

MIB = 1 << 20

POOLS = {"other": ("replicated",), "coded": ("erasure", "two-and-one")}


@pytest.fixture(scope="module")
def pools(ceph_cluster_3: CephCluster) -> CephCluster:
    cluster = ceph_cluster_3
    profile = ("k=2", "m=1", "crush-failure-domain=osd")
    cluster.ceph("osd", "erasure-code-profile", "set", "two-and-one", *profile)
    for name, kind in POOLS.items():
        cluster.ceph("osd", "pool", "create", name, "8", "8", *kind)
        cluster.ceph("osd", "pool", "application", "enable", name, "rbd")
    cluster.ceph("osd", "pool", "set", "coded", "allow_ec_overwrites", "true")
    cluster.wait_until_clean()
    return cluster


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("maker", ["us", "rbd"])
async def test_data_is_in_the_other_pool(pools: CephCluster, pool: str, maker: str) -> None:
    name = f"{pool}-by-{maker}"
    spec, chance, shadow = f"data/{name}", random.Random(name), bytearray(9 * MIB)
    async with our_pool(pools) as ioctx:
        if maker == "us":
            await directory.create(ioctx, name, len(shadow), data_pool=pool)
        else:
            await rbd(pools, "create", "--size", f"{len(shadow)}B", "--data-pool", pool, spec)
        info = await rbd_json(pools, "info", spec)
        assert info["data_pool"] == pool
        async with open_image(ioctx, name) as image:
            assert image.header.object_prefix == info["block_name_prefix"]
            for turn in range(2):
                for _ in range(8):
                    offset, data = chance.randrange(8 * MIB), chance.randbytes(chance.choice((1, 5000, 400_000)))
                    await image.write(offset, data)
                    shadow[offset : offset + len(data)] = data
                if not turn:
                    await snapshots.create(image, "then")
                    then = bytes(shadow)
            await image.write_zeroes(MIB + 5, 5 * MIB)
            shadow[MIB + 5 : 6 * MIB + 5] = bytes(5 * MIB)
            assert await image.read(0, len(shadow)) == shadow
        data_pool = await ioctx.cluster.open_pool(pool)
        assert any([one.startswith(info["block_name_prefix"]) async for one in data_pool.list_objects()])
        assert not any([one.startswith("rbd_data.") and name in one async for one in ioctx.list_objects()])
        assert await exported(pools, spec) == shadow
        assert await exported(pools, f"{spec}@then") == then
        await check_object_map(pools, spec)
        await check_object_map(pools, f"{spec}@then")
        async with open_image(ioctx, name) as image:
            await snapshots.rollback(image, "then")
        assert await exported(pools, spec) == then
        await rbd(pools, "snap", "purge", "--no-progress", spec)
        await directory.remove(ioctx, name)
        assert not [one async for one in data_pool.list_objects() if one.startswith(info["block_name_prefix"])]
