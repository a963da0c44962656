"""A filesystem without room: the writer is told, nothing is lost, and it goes on once there is room."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import calls
import pytest
import trio

from rbdfs.errors import NoSpace
from rbdfs.local import housekeeping
from rbdfs.local.batch import Batch
from rbdfs.local.check import check_files
from rbdfs.local.cluster import open_store
from rbdfs.local.database import Database
from rbdfs.local.media import Media
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import CloneRange, SnapContext, Truncate, Write, WriteFull, WriteOp

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 24 MiB."""
    mountpoint = tmp_path / "small"
    mountpoint.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", mountpoint], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a small tmpfs here")
    yield mountpoint
    subprocess.run(["umount", mountpoint], check=True)


async def fill(ioctx: IoCtx, name: str) -> int:
    """Write until there is no room; gives how many MiB are there."""
    with contextlib.suppress(NoSpace):
        for number in range(64):
            await calls.write(ioctx, f"{name}.{number:03}", 0, bytes([number + 1]) * MIB)
    return len([each async for each in ioctx.list_objects() if each.startswith(name)])


async def verify(ioctx: IoCtx, name: str, count: int) -> None:
    for number in range(count):
        assert await calls.read(ioctx, f"{name}.{number:03}", 0, 0) == bytes([number + 1]) * MIB


async def test_writer_is_told_and_nothing_is_lost(small_disk: Path) -> None:
    path = small_disk / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        count = await fill(ioctx, "big")
        assert 10 < count < 24
        await ioctx.flush()
        await verify(ioctx, "big", count)
        assert (await ioctx.usage()).used == count * MIB
    assert (await check_files(path)).findings == []


async def test_removing_makes_room_again(small_disk: Path) -> None:
    path = small_disk / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        count = await fill(ioctx, "big")
        for number in range(count - 4, count):
            await calls.remove(ioctx, f"big.{number:03}")
        await ioctx.flush()
        await calls.write(ioctx, "more", 0, b"m" * 3 * MIB)
        await ioctx.flush()
        await verify(ioctx, "big", count - 4)
    async with open_store(path) as cluster:
        ioctx = await cluster.open_pool("rbd")
        await verify(ioctx, "big", count - 4)
        assert await calls.read(ioctx, "more", 0, 0) == b"m" * 3 * MIB
    assert (await check_files(path)).findings == []


@pytest.mark.complains("wait for room")
async def test_metadata_without_room_waits_for_it(small_disk: Path) -> None:
    path = small_disk / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"before")
        await ioctx.flush()
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(4096))
        await calls.omap_set(ioctx, "index", {f"{number:06}": b"v" * 400 for number in range(20_000)})
        with pytest.raises(NoSpace):
            await ioctx.flush()
        assert len([key async for key, _ in calls.omap_items(ioctx, "index")]) == 20_000
        ballast.unlink()
        await ioctx.flush()
    async with open_store(path) as cluster:
        ioctx = await cluster.open_pool("rbd")
        assert len([key async for key, _ in calls.omap_items(ioctx, "index")]) == 20_000
        assert bytes(await calls.read(ioctx, "o", 0, 0)) == b"before"
    assert (await check_files(path)).findings == []


async def test_changes_of_metadata_leave_room_for_commits(small_disk: Path) -> None:
    """They may have a quarter of the 3 MiB that are kept back; what they took in vain, or replaced, comes back."""
    async with open_store(small_disk / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        count = await fill(ioctx, "big")
        await ioctx.flush()

        async def change_map(length: int) -> None:
            await ioctx.operate("map", WriteOp([WriteFull(b"m" * length)], full_try=True))

        for _ in range(2):
            with pytest.raises(NoSpace):
                await change_map(2 * MIB)
            await ioctx.flush()
        for _ in range(20):
            await change_map(MIB // 4)
            await ioctx.flush()
        for number in range(count):
            await calls.remove(ioctx, f"big.{number:03}")
        await ioctx.flush()
        await calls.write(ioctx, "more", 0, b"m" * 8 * MIB)
    assert (await check_files(small_disk / "store")).findings == []


async def test_a_shared_block_can_be_written_again_once_there_is_room(small_disk: Path) -> None:
    async with open_store(small_disk / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"o" * 65536)
        await ioctx.operate("copy", WriteOp([CloneRange(0, "o", 0, 65536)]))
        await ioctx.flush()
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(4096))
        await ioctx.operate("metadata", WriteOp([WriteFull(b"m" * 65536)], full_try=True))  # the reserve is gone
        await ioctx.flush()
        with pytest.raises(NoSpace):
            await calls.write(ioctx, "o", 0, b"n" * 4096)
        ballast.unlink()
        await ioctx.flush()
        await calls.write(ioctx, "o", 0, b"n" * 4096)


async def test_copy_for_a_snapshot_without_room(small_disk: Path) -> None:
    async with open_store(small_disk / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        count = await fill(ioctx, "big")
        snap = await ioctx.create_snap_id()
        written = 0
        with contextlib.suppress(NoSpace):
            for number in range(count):
                await calls.write(ioctx, f"big.{number:03}", 0, b"#" * MIB, SnapContext(snap, (snap,)))
                written += 1
        assert written < count
        await ioctx.flush()
        for number in range(count):
            old = bytes([number + 1]) * MIB
            assert await calls.read(ioctx, f"big.{number:03}", 0, 0, snap) == old
            assert await calls.read(ioctx, f"big.{number:03}", 0, 0) == (b"#" * MIB if number < written else old)
    assert (await check_files(small_disk / "store")).findings == []


async def test_growing_in_place_without_room_leaves_nothing_behind_the_end(small_disk: Path) -> None:
    async with open_store(small_disk / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "small", 0, b"o" * 4096)
        await ioctx.flush()
        room = os.statvfs(small_disk)
        (small_disk / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize - 20480))
        with pytest.raises(NoSpace):
            await calls.write(ioctx, "small", 4096, b"n" * 61440)
        (small_disk / "filler").unlink()
        await ioctx.operate("small", WriteOp([Truncate(65536)]))
        assert await calls.read(ioctx, "small", 0, 0) == b"o" * 4096 + bytes(61440)


@pytest.mark.complains("waits? for room")
async def test_trimming_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who removes a snapshot because the disk is full gets the room of it, once there is enough to say so."""
    monkeypatch.setattr(housekeeping, "_ROOM_RETRY", 0.05)

    def commit(_self: Media, _database: Database, _batch: Batch) -> None:
        raise NoSpace("no room")

    async with open_store(tmp_path / "store", create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "o", 0, b"0" * MIB)
        snap_id = await ioctx.create_snap_id()
        await ioctx.operate("o", WriteOp([Write(0, b"1" * MIB)], SnapContext(snap_id, (snap_id,))))
        await ioctx.flush()
        assert (await ioctx.usage()).used == 2 * MIB
        with monkeypatch.context() as full:
            full.setattr(Media, "commit", commit)
            await ioctx.remove_snap_id(snap_id)
            await trio.sleep(0.2)
        for _ in range(100):
            await trio.sleep(0.1)
            if (await ioctx.usage()).used == MIB:
                break
        else:
            pytest.fail("the snapshot's blocks have not become free")
