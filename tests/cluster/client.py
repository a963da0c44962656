"""Connecting to the clusters that tests start, and load whose every byte is known."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio
from ceph_cluster import CephCluster as Daemons

from rbdfs.ceph.cluster import CephCluster, connect
from rbdfs.ceph.config import Flags, load
from rbdfs.ceph.ioctx import CephIoCtx
from rbdfs.rados.ops import NO_SNAPS, Read, ReadOp, SnapContext, Write, WriteOp


@asynccontextmanager
async def connect_to(
    cluster: Daemons, name: str = "client.admin", keyring: Path | None = None, **changes: object
) -> AsyncIterator[CephCluster]:
    """A client of a cluster; `changes` are fields of its options."""
    flags = Flags(conf=str(cluster.conf), name=name, keyring=None if keyring is None else str(keyring))
    options = replace(load(flags, {}), **changes)  # type: ignore[arg-type]
    async with connect(options) as client:
        yield client


@dataclass
class Load:
    """Writes to random places of some objects, and reads that compare: each block is written by one task at a time."""

    ioctx: CephIoCtx
    prefix: str
    blocks: int = 16
    block_size: int = 4096
    snapc: SnapContext = NO_SNAPS
    written: int = 0
    verified: int = 0
    stop: bool = False
    contents: dict[int, bytes] = field(default_factory=dict)
    progress: trio.Event = field(default_factory=trio.Event)  # one more write

    def place(self, block: int) -> tuple[str, int]:
        """Four blocks an object."""
        return f"{self.prefix}.{block // 4}", block % 4 * self.block_size

    async def work(self, first: int, step: int) -> None:
        """Write and verify some of the blocks, until `stop`."""
        round_ = 0
        while not self.stop:
            for block in range(first, self.blocks, step):
                digest = hashlib.sha256(f"{self.prefix} {block} {round_}".encode()).digest()
                data = digest * (self.block_size // len(digest))
                name, offset = self.place(block)
                await self.ioctx.operate(name, WriteOp([Write(offset, data)], self.snapc))
                self.contents[block] = data
                self.written += 1
                progress, self.progress = self.progress, trio.Event()
                progress.set()
                await self.verify(block)
            round_ += 1

    async def verify(self, block: int) -> None:
        """Compare a block with what was written last."""
        name, offset = self.place(block)
        found = (await self.ioctx.operate(name, ReadOp([Read(offset, self.block_size)]))).outputs[0]
        assert bytes(found) == self.contents[block], f"{name} at {offset}"
        self.verified += 1

    @asynccontextmanager
    async def running(self, tasks: int = 4) -> AsyncIterator["Load"]:
        """Load while the block runs; all is verified once more afterwards."""
        async with trio.open_nursery() as nursery:
            for task in range(tasks):
                nursery.start_soon(self.work, task, tasks)
            yield self
            self.stop = True
        for block in self.contents:
            await self.verify(block)

    async def advance(self, ops: int = 50) -> None:
        """Wait for that many more writes."""
        goal = self.written + ops
        while self.written < goal:
            await self.progress.wait()
