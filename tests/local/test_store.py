"""A store's directory: made, opened, refused; and what reopening keeps."""

import contextlib
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import calls
import pytest
import trio
import trio.testing

from rbdfs.errors import Corrupt, Exists, InvalidArgument, NotFound, NotSupported, StoreFailure
from rbdfs.local import cache, store
from rbdfs.local.blocks import BLOCK_SIZE, PAGE
from rbdfs.local.cluster import check_store, open_store
from rbdfs.local.media import Media
from rbdfs.local.pools import REMOVED
from rbdfs.local.session import Session
from rbdfs.rados.api import Outcome
from rbdfs.rados.ops import (
    Buffer,
    CloneRange,
    Create,
    OmapClear,
    OmapGetHeader,
    OmapSet,
    OmapSetHeader,
    Read,
    ReadOp,
    Remove,
    Reply,
    Rollback,
    SnapContext,
    Stat,
    Write,
    WriteOp,
)

MIB = 1 << 20


async def test_missing_store_and_directories_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        async with open_store(tmp_path / "missing"):
            pass
    (tmp_path / "music.ogg").touch()
    for create in (False, True):
        with pytest.raises(InvalidArgument, match="not a store"):
            async with open_store(tmp_path, create=create):
                pass


async def test_store_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for name in (store.METADATA, store.DATA, store.LOCK, store.SOCKET):
            assert stat.S_IMODE((path / name).stat().st_mode) == 0o600


async def test_creating_where_a_store_is_opens_it(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as cluster:
        fsid = cluster.fsid
    async with open_store(tmp_path / "store", create=True) as cluster:
        assert cluster.fsid == fsid


async def test_creation_cut_short_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True):
        pass
    (path / store.METADATA).rename(path / (store.METADATA + ".new"))
    async with open_store(path, create=True) as cluster:
        assert await cluster.list_pools() == {}


async def test_unknown_format_is_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True):
        pass
    with closing(sqlite3.connect(path / store.METADATA)) as database:
        database.execute("UPDATE store SET value = 99 WHERE key = 'format'")
        database.commit()
    with pytest.raises(NotSupported, match="format 99"):
        async with open_store(path):
            pass


async def test_data_file_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True):
        pass
    (path / store.DATA).unlink()
    with pytest.raises(Corrupt, match="missing"):
        async with open_store(path):
            pass


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE object SET blocks = x'010203' WHERE name = x'62726f6b656e'",
        "UPDATE object SET blocks = x'ffffff00' WHERE name = x'62726f6b656e'",
        "UPDATE object SET xattrs = x'c1' WHERE name = x'62726f6b656e'",
        "UPDATE object SET size = 'large' WHERE name = x'62726f6b656e'",
        "UPDATE clone SET snaps = x'01'",
    ],
)
async def test_damaged_object_breaks_nothing_else(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        for name in ("broken", "fine"):
            await calls.write(ioctx, name, 0, b"x" * 1000)
        snap = await ioctx.create_snap_id()
        await calls.write(ioctx, "broken", 0, b"y", SnapContext(snap, (snap,)))
    with closing(sqlite3.connect(path / store.METADATA)) as database:
        database.execute(damage)
        database.commit()
    async with open_store(path) as cluster:
        ioctx = await cluster.open_pool("rbd")
        with pytest.raises((Corrupt, StoreFailure)):
            await calls.read(ioctx, "broken", 0, 0)
        await calls.write(ioctx, "fine", 0, b"z")
        assert bytes(await calls.read(ioctx, "fine", 0, 2)) == b"zx"
        assert {name async for name in ioctx.list_objects()} == {"broken", "fine"}
    assert not (await check_store(path)).is_clean


async def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        pool_id = await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd", "space")
        await calls.write(ioctx, "o", 5, b"old")
        snap = await ioctx.create_snap_id()
        version = (await ioctx.operate("o", WriteOp([Write(5, b"new")], SnapContext(snap, (snap,))))).version
        await calls.omap_set(ioctx, "o", {"k\udcff": b"v"})
        usage, instance_id = await ioctx.usage(), cluster.instance_id
    async with open_store(path) as cluster:
        assert await cluster.list_pools() == {pool_id: "rbd"}
        ioctx = await cluster.open_pool("rbd", "space")
        assert bytes(await calls.read(ioctx, "o", 0, 0)) == bytes(5) + b"new"
        assert bytes(await calls.read(ioctx, "o", 0, 0, snap)) == bytes(5) + b"old"
        assert await calls.omap_get(ioctx, "o", ["k\udcff"]) == {"k\udcff": b"v"}
        assert (await ioctx.usage())[::2] == usage[::2]
        assert (await ioctx.operate("o", ReadOp([Stat()]))).version > version
        assert await ioctx.create_snap_id() > snap
        assert cluster.instance_id > instance_id


async def test_copies_within_a_store_share_blocks_until_they_differ(tmp_path: Path) -> None:
    block = 65_536
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"x" * (4 * block + 100))
        used = (await ioctx.usage()).used
        await ioctx.operate("copy", WriteOp([CloneRange(0, "o", 0, 4 * block + 100)]))
        snap = await ioctx.create_snap_id()
        snapc = SnapContext(snap, (snap,))
        assert (await ioctx.usage()).used == used
        await ioctx.operate("o", WriteOp([Write(block + 5, b"y" * 4096)], snapc))
        assert (await ioctx.usage()).used == used + block
        await ioctx.operate("o", WriteOp([Write(block + 5000, b"y" * 4096)], snapc))
        await ioctx.operate("copy", WriteOp([Write(0, b"y" * block)], snapc))
        assert (await ioctx.usage()).used == used + 2 * block


async def test_trimming_goes_on_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        for number in range(300):
            await calls.write(ioctx, f"o.{number}", 0, b"x" * 70_000)
        snap = await ioctx.create_snap_id()
        for number in range(300):
            await ioctx.operate(f"o.{number}", WriteOp([Remove()], SnapContext(snap, (snap,))))
        await ioctx.remove_snap_id(snap)  # and leave at once
    async with open_store(path) as cluster:
        ioctx = await cluster.open_pool("rbd")
        with trio.fail_after(20):
            while (await ioctx.usage()).used:  # noqa: ASYNC110  # no event tells that
                await trio.sleep(0.02)
    report = await check_store(path)
    assert (report.findings, report.clones, report.blocks) == ([], 0, 1)


async def test_removed_pool_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("other")
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        for number in range(300):
            await calls.write(ioctx, f"o.{number}", 0, b"x")
        snap = await ioctx.create_snap_id()
        await calls.write(ioctx, "o.1", 0, b"y", SnapContext(snap, (snap,)))
        await calls.omap_set(ioctx, "o.2", {"a": b"b"})
        await cluster.remove_pool("rbd")
        with pytest.raises(NotFound):
            await calls.read(ioctx, "o.1", 0, 0)
        with pytest.raises(NotFound):
            await cluster.open_pool("rbd")
        await cluster.create_pool("rbd")
        assert [name async for name in (await cluster.open_pool("rbd")).list_objects()] == []
    report = await check_store(path)
    assert (report.findings, report.objects, report.blocks) == ([], 0, 1)


async def test_removal_of_a_pool_that_a_crash_cut_short_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        await calls.write(await cluster.open_pool("rbd"), "o", 0, b"x")
    with closing(sqlite3.connect(path / store.METADATA)) as database:
        database.execute("UPDATE pool SET name = ?", (REMOVED + "1 rbd",))
        database.commit()
    async with open_store(path) as cluster:
        assert await cluster.list_pools() == {}
        await trio.testing.wait_all_tasks_blocked(0.05)
    report = await check_store(path)
    assert (report.findings, report.pools, report.objects, report.blocks) == ([], 0, 0, 1)


async def test_more_objects_than_memory_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_KEPT", 64)
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        for number in range(300):
            await calls.write(ioctx, f"o.{number}", 0, b"%d" % number)
            if number % 50 == 0:
                await ioctx.flush()
        await ioctx.flush()
        for number in range(300):
            assert bytes(await calls.read(ioctx, f"o.{number}", 0, 0)) == b"%d" % number
            await calls.write(ioctx, f"o.{number}", 0, b"#")
        await ioctx.flush()
        for number in range(300):
            assert bytes(await calls.read(ioctx, f"o.{number}", 0, 1)) == b"#"
        await ioctx.flush()
        for number in range(300):
            assert bytes(await calls.read(ioctx, f"o.{number}", 0, 1)) == b"#"
        assert isinstance(cluster.backend, Session)
        assert len(cluster.backend._engine.objects) < 150
        assert len([name async for name in ioctx.list_objects()]) == 300


class ColdMedia(Media):
    """A data file of which nothing is in the page cache."""

    def read_cached(self, offset: int, view: Buffer) -> bool:
        return False


async def test_reads_that_must_wait_see_what_was_there_when_they_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "Media", ColdMedia)
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"old" * 100_000)
        outcomes: list[object] = []
        for number in range(20):
            ioctx.submit("o", ReadOp([Read(number * 10, 100_000)]), outcomes.append)
            ioctx.submit("o", ReadOp([Read(number * 10, 30)]), outcomes.append)
        assert outcomes == []
        await calls.write(ioctx, "o", 0, b"new" * 100_000)
        await calls.remove(ioctx, "o")
        await ioctx.flush()
        await calls.write(ioctx, "p", 0, b"other" * 100_000)
        with trio.fail_after(20):
            while len(outcomes) < 40:  # noqa: ASYNC110  # no event tells that
                await trio.sleep(0.01)
        data = {bytes(outcome.outputs[0]) for outcome in outcomes}
        expected = b"old" * 100_000
        assert data == {expected[n * 10 : n * 10 + size] for n in range(20) for size in (30, 100_000)}
    assert (await check_store(tmp_path / "store")).findings == []


async def test_write_that_must_copy_a_cold_block_waits_and_keeps_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "Media", ColdMedia)
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        before = b"before--" * 40_000
        await calls.write(ioctx, "o", 0, before)
        snap = await ioctx.create_snap_id()
        outcomes: list[Outcome] = []
        expected = bytearray(before)
        for number in range(30):
            offset = number * 9973
            expected[offset : offset + 3] = b"%03d" % number
            op = WriteOp([Write(offset, b"%03d" % number)], SnapContext(snap, (snap,)))
            ioctx.submit("o", op, outcomes.append)
            ioctx.submit("o", ReadOp([Read(offset, 3)]), outcomes.append)
        assert outcomes == []
        others: list[Outcome] = []
        ioctx.submit("other", WriteOp([Write(0, b"does not wait")]), others.append)
        assert (len(others), outcomes) == (1, [])
        await ioctx.flush()
        assert len(outcomes) >= 30
        assert await calls.read(ioctx, "o", 0, 0) == expected
        assert await calls.read(ioctx, "o", 0, 0, snap) == before
        read = [bytes(outcome.outputs[0]) for outcome in outcomes if isinstance(outcome, Reply) and outcome.outputs[0]]
        assert sorted(read) == [b"%03d" % number for number in range(30)]
    assert (await check_store(tmp_path / "store")).findings == []


async def test_filesystem_that_can_neither_punch_nor_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OldMedia(Media):
        def __init__(self, path: Path, *, read_only: bool = False) -> None:
            super().__init__(path, read_only=read_only)
            self._can_punch = self._can_nowait = False

    monkeypatch.setattr(store, "Media", OldMedia)
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        for turn in range(3):
            await calls.write(ioctx, "o", 0, b"x" * 1_000_000)
            await calls.remove(ioctx, "o")
            await ioctx.flush()
            await ioctx.operate(f"hollow.{turn}", WriteOp([Create(), Write(500_000, b"x")]))
            assert bytes(await calls.read(ioctx, f"hollow.{turn}", 0, 0)) == bytes(500_000) + b"x"
    assert (await check_store(tmp_path / "store")).findings == []


async def test_a_store_that_ends_before_its_first_commit_keeps_its_header(tmp_path: Path) -> None:
    crashed = tmp_path / "crashed"
    async with open_store(tmp_path / "store", create=True):
        shutil.copytree(tmp_path / "store", crashed, ignore=shutil.ignore_patterns("socket"))
    for _ in range(2):
        async with open_store(crashed) as cluster:
            with contextlib.suppress(Exists):
                await cluster.create_pool("rbd")


async def test_what_was_written_behind_the_last_page_before_a_crash_is_nobodys(tmp_path: Path) -> None:
    crashed = tmp_path / "crashed"
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await ioctx.flush()
        for number in range(2 * PAGE * BLOCK_SIZE // MIB // 16):
            await calls.write(ioctx, f"o.{number}", 0, b"x" * (16 * MIB))
        shutil.copytree(tmp_path / "store", crashed, ignore=shutil.ignore_patterns("socket"))
    async with open_store(crashed):
        with (crashed / "data").open("rb") as file, pytest.raises(OSError, match="No such device or address"):
            os.lseek(file.fileno(), PAGE * BLOCK_SIZE, os.SEEK_DATA)


async def test_rolling_back_brings_the_omap_header_back(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await ioctx.operate("o", WriteOp([OmapSetHeader(b"header"), OmapSet({"k": b"v"})]))
        snap_id = await ioctx.create_snap_id()
        snapc = SnapContext(snap_id, (snap_id,))
        await ioctx.operate("o", WriteOp([OmapSetHeader(b"newer")], snapc))
        await ioctx.operate("o", WriteOp([Rollback(snap_id)], snapc))
        assert (await ioctx.operate("o", ReadOp([OmapGetHeader()]))).outputs == [b"header"]


async def test_an_omap_emptied_just_before_its_object_goes_leaves_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await ioctx.operate("o", WriteOp([OmapSet({"k": b"v"})]))
        await ioctx.flush()
        await ioctx.operate("o", WriteOp([OmapClear()]))
        await ioctx.operate("o", WriteOp([Remove()]))
    report = await check_store(path)
    assert report.is_clean, report.findings
