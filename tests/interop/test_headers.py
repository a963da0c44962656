"""Headers: what `rbd` makes we read as `rbd info` tells it, and what we make `rbd` reads as we tell it."""

from datetime import datetime
from typing import Any

import pytest
from ceph_cluster import CephCluster
from interop.librbd import check_object_map, our_pool, rbd, rbd_fails, rbd_json

from rbdfs.image import directory
from rbdfs.image.features import DEFAULT_FEATURES, Feature, feature_names
from rbdfs.image.header import Header, read_header
from rbdfs.rados.api import IoCtx

pytestmark = pytest.mark.cluster

CREATED_BY_RBD = {
    "plain": ("--size", "10M"),
    "odd-size": ("--size", "12345678B"),
    "small-objects": ("--size", "10M", "--object-size", "64K"),
    "striped": ("--size", "100M", "--stripe-unit", "64K", "--stripe-count", "5"),
    "data-pool": ("--size", "10M", "--data-pool", "headers-data"),
    "layering-only": ("--size", "10M", "--image-feature", "layering"),
    "lock-only": ("--size", "10M", "--image-feature", "layering,exclusive-lock"),
    "journal": ("--size", "10M", "--image-feature", "layering,exclusive-lock,journaling"),
    "empty": ("--size", "0"),
    "huge": ("--size", "16T"),
}


def seconds(info: dict[str, Any], key: str) -> float:
    return datetime.strptime(info[key], "%a %b %d %H:%M:%S %Y").timestamp()


def agrees(header: Header, info: dict[str, Any], name: str) -> None:
    """Our picture of the header and `rbd info`."""
    assert info["name"] == name
    assert info["id"] == header.image_id
    assert info["size"] == header.size
    assert info["order"] == header.order
    assert info["object_size"] == header.object_size
    assert info["objects"] == header.striping.object_count(header.size)
    assert info["block_name_prefix"] == header.object_prefix
    assert sorted(info["features"]) == sorted(feature_names(header.features))
    assert sorted(info["op_features"]) == []
    assert info["flags"] == []
    assert info["snapshot_count"] == len(header.snaps)
    for key in ("create_timestamp", "access_timestamp", "modify_timestamp"):
        assert seconds(info, key) == getattr(header, key) // 10**9
    if "stripe_unit" in info:
        assert (info["stripe_unit"], info["stripe_count"]) == (header.stripe_unit, header.stripe_count)


@pytest.fixture(scope="module")
def data_pool(ceph_cluster: CephCluster) -> str:
    ceph_cluster.ceph("osd", "pool", "create", "headers-data", "4")
    ceph_cluster.ceph("osd", "pool", "application", "enable", "headers-data", "rbd")
    return "headers-data"


async def test_what_rbd_creates_we_read_as_rbd_does(ceph_cluster: CephCluster, data_pool: str) -> None:
    for name, options in CREATED_BY_RBD.items():
        await rbd(ceph_cluster, "create", *options, f"data/{name}")
    async with our_pool(ceph_cluster) as ioctx:
        listed = await directory.list_images(ioctx)
        assert set(CREATED_BY_RBD) <= set(listed)
        for name in CREATED_BY_RBD:
            assert await directory.lookup(ioctx, name) == listed[name]
            header = await read_header(ioctx, listed[name])
            agrees(header, await rbd_json(ceph_cluster, "info", f"data/{name}"), name)
            if name == "data-pool":
                assert header.data_pool_id == (await ioctx.cluster.open_pool(data_pool)).pool_id
    for name in CREATED_BY_RBD:
        await rbd(ceph_cluster, "rm", "--no-progress", f"data/{name}")


async def make(ioctx: IoCtx, name: str, data_pool: str) -> None:
    match name:
        case "striped":
            await directory.create(ioctx, name, 100 << 20, stripe_unit=1 << 16, stripe_count=5)
        case "small-objects":
            await directory.create(ioctx, name, 10 << 20, order=16)
        case "data-pool":
            await directory.create(ioctx, name, 10 << 20, data_pool=data_pool)
        case "layering-only":
            await directory.create(ioctx, name, 10 << 20, features=Feature.LAYERING)
        case "huge":
            await directory.create(ioctx, name, 16 << 40)
        case _:
            await directory.create(ioctx, name, 12_345_678)


async def test_what_we_create_rbd_reads_as_we_do(ceph_cluster: CephCluster, data_pool: str) -> None:
    names = ["default", "striped", "small-objects", "data-pool", "layering-only", "huge"]
    async with our_pool(ceph_cluster) as ioctx:
        for name in names:
            await make(ioctx, name, data_pool)
            header = await read_header(ioctx, await directory.lookup(ioctx, name))
            agrees(header, await rbd_json(ceph_cluster, "info", f"data/{name}"), name)
            if header.features & Feature.OBJECT_MAP and name != "huge":  # librbd would look at each object
                await check_object_map(ceph_cluster, f"data/{name}")
            await rbd(ceph_cluster, "rm", "--no-progress", f"data/{name}")
        assert not set(names) & set(await directory.list_images(ioctx))


async def test_what_we_create_is_what_rbd_creates(ceph_cluster: CephCluster) -> None:
    """The same objects, with the same keys and the same content."""
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "ours", 10 << 20, features=DEFAULT_FEATURES)
        await rbd(ceph_cluster, "create", "--size", "10M", "data/theirs")
        stored = {}
        for name in ("ours", "theirs"):
            image_id = await directory.lookup(ioctx, name)
            objects = [one async for one in ioctx.list_objects() if image_id in one or one == f"rbd_id.{name}"]
            stored[name] = sorted(one.replace(image_id, "ID").replace(name, "NAME") for one in objects)
            keys = ceph_cluster.rados("-p", "data", "listomapkeys", f"rbd_header.{image_id}")
            stored[name].append(keys)
            await rbd(ceph_cluster, "rm", "--no-progress", f"data/{name}")
        assert stored["ours"] == stored["theirs"]


async def test_snapshots_of_rbd_are_read_as_rbd_lists_them(ceph_cluster: CephCluster) -> None:
    spec = "data/snapped"
    await rbd(ceph_cluster, "create", "--size", "10M", spec)
    await rbd(ceph_cluster, "snap", "create", "--no-progress", f"{spec}@one")
    await rbd(ceph_cluster, "resize", "--no-progress", "--size", "20M", spec)
    await rbd(ceph_cluster, "snap", "create", "--no-progress", f"{spec}@ü two")
    await rbd(ceph_cluster, "snap", "protect", f"{spec}@one")
    listed = await rbd_json(ceph_cluster, "snap", "ls", spec)
    async with our_pool(ceph_cluster) as ioctx:
        header = await read_header(ioctx, await directory.lookup(ioctx, "snapped"))
    ours = [
        {"id": snap.id, "name": snap.name, "size": snap.size, "protected": "true" if snap.is_protected else "false"}
        for snap in header.snaps
    ]
    assert ours == [{key: row[key] for key in ("id", "name", "size", "protected")} for row in listed]
    assert [seconds(row, "timestamp") for row in listed] == [snap.timestamp // 10**9 for snap in header.snaps]
    assert header.snapc.snaps == tuple(row["id"] for row in reversed(listed))
    await rbd(ceph_cluster, "snap", "unprotect", f"{spec}@one")
    await rbd(ceph_cluster, "snap", "purge", "--no-progress", spec)
    await rbd(ceph_cluster, "rm", "--no-progress", spec)


async def test_names_are_changed_and_removed_by_either(ceph_cluster: CephCluster) -> None:
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create(ioctx, "first", 1 << 20)
        await rbd(ceph_cluster, "mv", "data/first", "data/second")
        await directory.rename(ioctx, "second", "third")
        listed = (await rbd(ceph_cluster, "ls", "data")).split()
        assert "third" in listed
        assert not {"first", "second"} & set(listed)
        assert await rbd_fails(ceph_cluster, "info", "data/second") == 2
        image_id = await directory.lookup(ioctx, "third")
        await directory.remove(ioctx, "third")
        assert "third" not in (await rbd(ceph_cluster, "ls", "data")).split()
        assert [name async for name in ioctx.list_objects() if image_id in name or name == "rbd_id.third"] == []


async def test_namespaces_are_made_and_removed_by_either(ceph_cluster: CephCluster) -> None:
    async with our_pool(ceph_cluster) as ioctx:
        await directory.create_namespace(ioctx, "ours")
        await rbd(ceph_cluster, "namespace", "create", "data/theirs")
        assert await directory.list_namespaces(ioctx) == ["ours", "theirs"]
        assert [row["name"] for row in await rbd_json(ceph_cluster, "namespace", "ls", "data")] == ["ours", "theirs"]
        await rbd(ceph_cluster, "create", "--size", "1M", "data/ours/vm")
        await directory.create(ioctx.with_namespace("theirs"), "vm", 1 << 20)
        assert list(await directory.list_images(ioctx.with_namespace("ours"))) == ["vm"]
        assert (await rbd(ceph_cluster, "ls", "data/theirs")).split() == ["vm"]
        await rbd(ceph_cluster, "rm", "--no-progress", "data/theirs/vm")
        await directory.remove(ioctx.with_namespace("ours"), "vm")
        await rbd(ceph_cluster, "namespace", "remove", "data/ours")
        await directory.remove_namespace(ioctx, "theirs")
        assert await directory.list_namespaces(ioctx) == []
        assert await rbd_json(ceph_cluster, "namespace", "ls", "data") == []


async def test_images_in_the_trash_are_not_listed(ceph_cluster: CephCluster) -> None:
    await rbd(ceph_cluster, "create", "--size", "1M", "data/thrown")
    await rbd(ceph_cluster, "trash", "mv", "data/thrown")
    async with our_pool(ceph_cluster) as ioctx:
        assert "thrown" not in await directory.list_images(ioctx)
    await rbd(ceph_cluster, "trash", "purge", "--no-progress", "data")
