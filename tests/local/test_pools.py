"""Pools that come and go: nothing of one shows in another, and nothing of one that went is left."""

import sqlite3
from contextlib import closing
from pathlib import Path

import calls
import pytest
import trio
import trio.testing
from local.slow_media import MIB, slow_down_large_writes

from rbdfs.errors import PoolNotFound, StoreFailure
from rbdfs.image import directory, snapshots
from rbdfs.image.image import open_image
from rbdfs.local import store
from rbdfs.local.cluster import check_store, open_store
from rbdfs.local.housekeeping import Housekeeping
from rbdfs.local.pools import Pool
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import HEAD, CloneRange, Write, WriteOp


async def snapshot_before_a_change(ioctx: IoCtx, name: str) -> None:
    await directory.create(ioctx, name, MIB)
    async with open_image(ioctx, name) as image:
        await image.write(0, b"before")
        await snapshots.create(image, "s")
        await image.write(0, b"after!")


async def test_snapshots_of_a_new_pool_are_not_those_removed_from_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("old")
        ioctx = await cluster.open_pool("old")
        await snapshot_before_a_change(ioctx, "vm")
        async with open_image(ioctx, "vm") as image:
            await snapshots.remove(image, "s")
    async with open_store(path) as cluster:
        await cluster.remove_pool("old")
    async with open_store(path) as cluster:
        await cluster.create_pool("new")
    async with open_store(path) as cluster:
        ioctx = await cluster.open_pool("new")
        await snapshot_before_a_change(ioctx, "vm")
        async with open_image(ioctx, "vm", snap_name="s") as image:
            assert await image.read(0, 6) == b"before"


async def test_a_new_pool_gets_no_number_that_an_older_version_has_removed(tmp_path: Path) -> None:
    """It kept the removed snapshots of a removed pool, and did not store the last number."""
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("old")
        await cluster.remove_pool("old")
    with closing(sqlite3.connect(path / store.METADATA)) as database:
        database.execute("DELETE FROM store WHERE key = 'last_pool_id'")
        database.execute("INSERT INTO removed_snap VALUES (1, 1), (4, 1)")
        database.commit()
    async with open_store(path) as cluster:
        assert await cluster.create_pool("new") == 5


async def test_a_handle_on_a_removed_pool_does_not_lead_into_a_new_one(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("old")
        old = await cluster.open_pool("old")
        await cluster.remove_pool("old")
        await cluster.create_pool("new")
        with pytest.raises(PoolNotFound):
            await calls.write(old, "o", 0, b"x")


async def test_a_pool_made_while_another_one_is_removed_is_there(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for number in range(6):
        async with open_store(path, create=True) as cluster, trio.open_nursery() as nursery:
            await cluster.create_pool(f"old{number}")
            nursery.start_soon(cluster.remove_pool, f"old{number}")
            for part in range(4):
                await cluster.create_pool(f"new{number}.{part}")
    async with open_store(path) as cluster:
        names = set((await cluster.list_pools()).values())
    assert names == {f"new{number}.{part}" for number in range(6) for part in range(4)}


async def test_a_pool_that_is_half_removed_is_counted_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    remove_object, removed = Housekeeping._remove_object, []

    def remove_some(self: Housekeeping, pool: Pool, row_id: int) -> None:
        if len(removed) == 3:
            raise StoreFailure("halfway")
        removed.append(row_id)
        remove_object(self, pool, row_id)

    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        for number in range(8):
            await calls.write(ioctx, f"o.{number}", 0, b"x" * 70_000)
        with monkeypatch.context() as patch:
            patch.setattr(Housekeeping, "_remove_object", remove_some)
            with pytest.raises(StoreFailure, match="halfway"):
                await cluster.remove_pool("rbd")
        report = await check_store(path)
        assert (report.findings, report.objects) == ([], 5)
    async with open_store(path):
        await trio.testing.wait_all_tasks_blocked(0.1)
    report = await check_store(path)
    assert (report.findings, report.objects, report.pools) == ([], 0, 0)


async def test_what_waits_when_a_pool_is_removed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone waits until a thread has written what it is made of, and the pool goes meanwhile."""
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "source", 0, b"a" * MIB)
        slow_down_large_writes(monkeypatch)
        outcomes: list[object] = []
        ioctx.submit("source", WriteOp([Write(0, b"b" * MIB)]), outcomes.append)
        ioctx.submit("target", WriteOp([CloneRange(0, "source", 0, MIB, HEAD)]), outcomes.append)
        assert not outcomes
        await cluster.remove_pool("rbd")
        assert len(outcomes) == 2
    report = await check_store(path)
    assert report.is_clean, report.findings
    assert (report.objects, report.blocks) == (0, 1)  # the header
