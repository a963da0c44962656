"""Streams of large writes are on their way to the disk before anybody syncs; the kernel's counters are the judge."""

import ctypes
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import calls
import pytest
import trio

from rbdfs.local.cluster import open_store
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Create, Remove, Write, WriteOp

MIB = 1 << 20
STREAM = 64 * MIB
OBJECT = 4 * MIB
_CACHESTAT = 451

_libc = ctypes.CDLL(None, use_errno=True)


def dirty_bytes(path: Path) -> int:
    """What of a file is in the page cache only."""
    asked, found = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    with path.open("rb") as file:
        if _libc.syscall(_CACHESTAT, file.fileno(), asked, found, 0) != 0:
            pytest.skip("this kernel does not tell what is dirty (cachestat, Linux 6.5)")
    return found[1] * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def pool(path: Path) -> AsyncIterator[tuple[IoCtx, Path]]:
    """A pool of a new store, and the store's data file."""
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        yield await cluster.open_pool("rbd"), path / "data"


async def stream(ioctx: IoCtx, length: int = STREAM, *, size: int = MIB) -> None:
    data = os.urandom(size)
    for offset in range(0, length, size):
        await calls.write(ioctx, f"object.{offset // OBJECT}", offset % OBJECT, data)


async def settled(path: Path) -> int:
    """What of a file is in the page cache only, long before the kernel itself would begin to write back."""
    await trio.sleep(1)
    return dirty_bytes(path)


async def test_a_stream_is_written_back_on_the_way(tmp_path: Path) -> None:
    async with pool(tmp_path / "store") as (ioctx, data):
        for _ in range(2):  # into holes, and over what is there and synced
            await stream(ioctx)
            assert await settled(data) <= STREAM // 2  # the first half, at least: the disk may not keep up
            await ioctx.flush()


async def test_what_is_written_again_before_a_sync_stays_in_memory(tmp_path: Path) -> None:
    async with pool(tmp_path / "store") as (ioctx, data):
        await stream(ioctx)
        await ioctx.flush()
        await stream(ioctx)
        assert await settled(data) <= STREAM // 2
        await stream(ioctx)
        assert await settled(data) >= STREAM


async def test_small_writes_are_left_to_the_kernel(tmp_path: Path) -> None:
    async with pool(tmp_path / "store") as (ioctx, data):
        await stream(ioctx)
        await ioctx.flush()
        assert dirty_bytes(data) < MIB
        await stream(ioctx, size=256 << 10)
        assert await settled(data) >= STREAM


async def test_ops_that_are_no_large_write_are_no_stream(tmp_path: Path) -> None:
    async with pool(tmp_path / "store") as (ioctx, _):
        for op in (WriteOp([]), WriteOp([Create()]), WriteOp([Write(0, b"")]), WriteOp([Write(0, b"x"), Remove()])):
            assert len((await ioctx.operate("object", op)).outputs) == len(op.steps)
