"""Room set aside for copies after a snapshot: there when it is wanted, and given back."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import calls
import pytest

from rbdfs.local import preallocation, store
from rbdfs.local.blocks import BLOCK_SIZE, CHUNK
from rbdfs.local.cluster import check_store, open_store
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import NO_SNAPS, SnapContext

CHUNK_SIZE = CHUNK * BLOCK_SIZE


def allocated(path: Path) -> int:
    return os.stat(path / store.DATA).st_blocks * 512


async def copy_blocks(ioctx: IoCtx, indexes: list[int], snapc: SnapContext = NO_SNAPS) -> None:
    for index in indexes:
        await calls.write(ioctx, "object", index * BLOCK_SIZE + 100, b"new", snapc)
    await ioctx.flush()


async def test_copies_find_room_that_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "object", 0, b"old " * (CHUNK_SIZE // 4))
        await ioctx.flush()
        before = allocated(path)
        snap = await ioctx.create_snap_id()
        snapc = SnapContext(snap, (snap,))
        await copy_blocks(ioctx, [0, 1], snapc)  # the first of them takes the snapshot, the other is a copy
        assert allocated(path) < before + CHUNK_SIZE // 2
        await copy_blocks(ioctx, [5, 7], snapc)
        assert allocated(path) >= before + CHUNK_SIZE
        monkeypatch.setattr(preallocation, "IDLE", 0.0)
        await copy_blocks(ioctx, [9], snapc)  # had a copy since the last look: kept ...
        await copy_blocks(ioctx, [9])  # ... and now it has not: given back ...
        await copy_blocks(ioctx, [0])  # ... by this one's commit at the latest
        assert allocated(path) < before + CHUNK_SIZE // 2
        await copy_blocks(ioctx, [20, 21], snapc)  # holes again, and no worse for it
        data = await calls.read(ioctx, "object", 0, CHUNK_SIZE)
        old = await calls.read(ioctx, "object", 0, CHUNK_SIZE, snap)
    expected = bytearray(b"old " * (CHUNK_SIZE // 4))
    assert bytes(old) == expected
    for index in (0, 1, 5, 7, 9, 20, 21):
        expected[index * BLOCK_SIZE + 100 : index * BLOCK_SIZE + 103] = b"new"
    assert bytes(data) == expected
    assert (await check_store(path)).is_clean
    assert allocated(path) < before + CHUNK_SIZE // 2, "closing gives back what is left"


async def test_room_that_a_crash_left_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        await calls.write(await cluster.open_pool("rbd"), "object", 0, b"data")
    before = allocated(path)
    with (path / store.DATA).open("r+b") as data:
        os.posix_fallocate(data.fileno(), CHUNK_SIZE * 4, CHUNK_SIZE)
    with closing(sqlite3.connect(path / store.METADATA)) as database, database:
        database.execute("UPDATE store SET value = 0 WHERE key = 'clean'")
    assert allocated(path) >= before + CHUNK_SIZE
    async with open_store(path) as cluster:
        ioctx = await cluster.open_pool("rbd")
        assert bytes(await calls.read(ioctx, "object", 0, 9)) == b"data"
    assert allocated(path) < before + CHUNK_SIZE // 2
    assert (await check_store(path)).is_clean
