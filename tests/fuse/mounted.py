"""A mount for the length of a test; the files are used from worker threads, as another process would use them."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from fuse.memory import MemoryOperations

from rbdfs.errors import RbdfsError
from rbdfs.fuse.mounting import MountRequest, unmount
from rbdfs.fuse.negotiation import Limits
from rbdfs.fuse.transport import Transport

T = TypeVar("T")

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse")


async def outside(do: Callable[..., T], *args: object) -> T:
    """Do something with the files of a mount, while we go on serving it."""
    with trio.fail_after(30):
        return await trio.to_thread.run_sync(do, *args, abandon_on_cancel=True)


@asynccontextmanager
async def mounted_memory(
    mountpoint: Path, *, is_single_lane: bool = False, request: MountRequest | None = None
) -> AsyncIterator[MemoryOperations]:
    """Files in memory, mounted and, after the block, unmounted."""
    operations = MemoryOperations()
    ready = trio.Event()

    async def on_mounted() -> None:
        ready.set()

    transport = Transport(operations, operations, operations.handles, operations.notifier)
    async with serving(
        lambda: transport.serve(
            mountpoint,
            request or MountRequest("memory"),
            Limits(),
            is_single_lane=is_single_lane,
            on_mounted=on_mounted,
        ),
        mountpoint,
        ready,
    ):
        yield operations


@asynccontextmanager
async def serving(
    serve: Callable[[], Awaitable[None]], mountpoint: Path, ready: trio.Event
) -> AsyncIterator[trio.CancelScope]:
    """Serve a mount while the block runs, then unmount it and wait until the server has left."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.fail_after(20):
            await ready.wait()
        try:
            yield nursery.cancel_scope
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(20):
                await trio.to_thread.run_sync(_unmount_if_mounted, mountpoint)


def _unmount_if_mounted(mountpoint: Path) -> None:
    try:
        unmount(mountpoint)
    except RbdfsError:
        if os.path.ismount(mountpoint):  # Path.is_mount would raise on a dead mount
            unmount(mountpoint, is_lazy=True)
