"""The stores that the contract is checked on: how to get clients of each."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from ceph_cluster import POOL as CEPH_POOL, CephCluster

from rbdfs.ceph.cluster import connect
from rbdfs.ceph.config import Flags, load
from rbdfs.ceph.msgr2.login import Mode
from rbdfs.local.cluster import open_store
from rbdfs.rados.api import IoCtx

POOL = "contract"


@dataclass(frozen=True)
class Store:
    """A store under test; `clients(n)` opens it for so many clients and gives their handles on one empty namespace."""

    clients: Callable[[int], AbstractAsyncContextManager[list[IoCtx]]]


def local(path: Path, *, attached: bool) -> Store:
    """A store in a directory; its clients are the owner and those attached to it, or only the latter."""

    @asynccontextmanager
    async def clients(count: int) -> AsyncIterator[list[IoCtx]]:
        async with AsyncExitStack() as stack:
            owner = await stack.enter_async_context(open_store(path, create=True))
            await owner.create_pool(POOL)
            clusters = [] if attached else [owner]
            while len(clusters) < count:
                clusters.append(await stack.enter_async_context(open_store(path)))
            yield [await cluster.open_pool(POOL) for cluster in clusters]

    return Store(clients)


def ceph(cluster: CephCluster, mode: Mode) -> Store:
    """A Ceph cluster, spoken to in one mode."""

    @asynccontextmanager
    async def clients(count: int) -> AsyncIterator[list[IoCtx]]:
        options = replace(load(Flags(conf=str(cluster.conf)), {}), modes=(mode,), monitor_modes=(mode,))
        namespace = f"contract-{uuid4()}"
        async with AsyncExitStack() as stack:
            clusters = [await stack.enter_async_context(connect(options)) for _ in range(count)]
            yield [await one.open_pool(CEPH_POOL, namespace) for one in clusters]

    return Store(clients)
