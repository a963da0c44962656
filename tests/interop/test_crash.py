"""A writer that dies, or only seems to: who takes over finds every completed write, and is not disturbed afterwards.

A client counts as alive as long as its watch does, half a minute; so these tests wait for that, all at the same time.
"""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import pytest
import trio
from ceph_cluster import CephCluster
from interop.librbd import check_object_map, exported, our_pool, qemu_io, rbd
from interop.writer import BLOCK, block_of, content

from rbdfs.image.image import open_image

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

BLOCKS = 96
ENOUGH = 150  # writes before something happens
TAKEN_OVER_SECONDS = 90


class Writer:
    """The process of writer.py."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.last = 0
        self.failure = ""

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow what it prints; started when it has written enough."""
        assert self.process.stdout is not None
        rest = b""
        started = False
        async for part in self.process.stdout:
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line.isdigit():
                    self.last = int(line)
                else:
                    self.failure = line.decode()
            if not started and self.last >= ENOUGH:
                started = True
                task_status.started()

    def check(self, data: bytes) -> None:
        """Every completed write is there, and at most one that was under way."""
        for block in range(1, BLOCKS):  # block 0 is for who takes over
            found = int.from_bytes(data[block * BLOCK : block * BLOCK + 8], "little")
            assert data[block * BLOCK : (block + 1) * BLOCK] == content(found), block
            newest = max(n for n in range(max(1, self.last - BLOCKS), self.last + 1) if block_of(n, BLOCKS) == block)
            assert found in (newest, self.last + 1), (block, self.last)


@asynccontextmanager
async def writer(ceph: CephCluster, name: str) -> AsyncIterator[Writer]:
    script = Path(__file__).with_name("writer.py")
    command = [sys.executable, str(script), str(ceph.conf), name, str(BLOCKS)]
    root = str(script.parent.parent.parent)
    process = await trio.lowlevel.open_process(command, stdout=PIPE, env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"})
    try:
        async with trio.open_nursery() as nursery:
            one = Writer(process)
            with trio.fail_after(60):
                await nursery.start(one.listen)
            yield one
            process.kill()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def make(ceph: CephCluster, name: str) -> None:
    await rbd(ceph, "create", "--size", f"{BLOCKS * BLOCK}B", "--object-size", "256K", f"data/{name}")


async def killed_then_librbd(ceph: CephCluster) -> None:
    await make(ceph, "killed")
    async with writer(ceph, "killed") as dead:
        dead.process.send_signal(signal.SIGKILL)
        await dead.process.wait()
    async with qemu_io(ceph, "killed") as qemu:
        with trio.fail_after(TAKEN_OVER_SECONDS):
            await qemu.write(0, 0, BLOCK)
    dead.check(await exported(ceph, "data/killed"))
    await rbd(ceph, "rm", "--no-progress", "data/killed")


async def killed_then_us(ceph: CephCluster) -> None:
    await make(ceph, "killed-too")
    async with writer(ceph, "killed-too") as dead:
        dead.process.send_signal(signal.SIGKILL)
        await dead.process.wait()
    async with our_pool(ceph) as ioctx, open_image(ioctx, "killed-too") as image:
        with trio.fail_after(TAKEN_OVER_SECONDS):
            await image.write(0, bytes(BLOCK))
        dead.check(await image.read(0, BLOCKS * BLOCK))
    await rbd(ceph, "rm", "--no-progress", "data/killed-too")


async def librbd_killed_then_us(ceph: CephCluster) -> None:
    await make(ceph, "orphan")
    async with our_pool(ceph) as ioctx:
        async with qemu_io(ceph, "orphan") as qemu:
            await qemu.write(0x41, 0, 4096)
            qemu.kill()
        async with open_image(ioctx, "orphan") as image:
            with trio.fail_after(TAKEN_OVER_SECONDS):
                await image.write(4096, b"B" * 4096)
            assert await image.read(0, 8192) == b"A" * 4096 + b"B" * 4096
    await check_object_map(ceph, "data/orphan")
    await rbd(ceph, "rm", "--no-progress", "data/orphan")


async def stopped_then_us(ceph: CephCluster) -> None:
    """A writer that was only stopped is fenced: it learns so, and nothing of it lands."""
    await make(ceph, "stopped")
    async with writer(ceph, "stopped") as asleep:
        asleep.process.send_signal(signal.SIGSTOP)
        async with our_pool(ceph) as ioctx, open_image(ioctx, "stopped") as image:
            with trio.fail_after(TAKEN_OVER_SECONDS):
                await image.write(0, bytes(BLOCK))
            before = await image.read(0, BLOCKS * BLOCK)
            asleep.process.send_signal(signal.SIGCONT)
            with trio.fail_after(30):
                await asleep.process.wait()
            assert await image.read(0, BLOCKS * BLOCK) == before
        assert asleep.failure in ("Blocklisted", "LockLost")
        asleep.check(before)
    await rbd(ceph, "rm", "--no-progress", "data/stopped")


async def test_whoever_takes_over_finds_every_completed_write(ceph_cluster: CephCluster) -> None:
    async with trio.open_nursery() as nursery:
        for story in (killed_then_librbd, killed_then_us, librbd_killed_then_us, stopped_then_us):
            nursery.start_soon(story, ceph_cluster)
