"""The stores that mounts are tested on: how commands find one, what it counts in, and who judges what was done to it.

On a cluster a test has a namespace of its own, and the judge is that release's `rbd` (judge.py).
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

import calls
import pytest
import trio
from ceph_cluster import POOL, CephCluster, selected_releases
from mount.judge import Judge

from rbdfs.cls.directory import NAMESPACES, remove_namespace
from rbdfs.cls.query import change
from rbdfs.connect import Address, CephAddress, ConnectFlags, StoreAddress, check_store, open_cluster
from rbdfs.image import directory
from rbdfs.image.header import read_header
from rbdfs.image.tasks import for_each
from rbdfs.rados.api import IoCtx

T = TypeVar("T")

_SECONDS = 120
_JUDGED = 4  # images of a test that are looked into, of thousands


class Store(Protocol):
    """A store with a pool to mount."""

    @property
    def pool(self) -> str:
        """What is mounted, as on a command line."""

    @property
    def address(self) -> Address:
        """Where it is."""

    @property
    def environment(self) -> dict[str, str]:
        """By which commands find it."""

    @property
    def unit(self) -> int:
        """Bytes that one byte, written where there was nothing, makes a file occupy."""

    def with_pool(self, name: str) -> "Store":
        """Another pool of the same store, which need not be there."""

    def check(self, *, has_crashed: bool = False) -> None:
        """All that is in it is sound; nobody has it mounted, though a daemon that had may have been killed."""


@dataclass
class LocalStore:
    """A directory."""

    path: Path
    pool: str = "data"
    unit: int = 64 << 10  # a block

    @property
    def address(self) -> Address:
        """See Store."""
        return StoreAddress(self.path)

    @property
    def environment(self) -> dict[str, str]:
        """See Store."""
        return {"RBDFS_STORE": str(self.path)}

    def with_pool(self, name: str) -> Store:
        """See Store."""
        return replace(self, pool=name)

    def check(self, *, has_crashed: bool = False) -> None:
        """What `rbdfs check` finds, whatever happened before."""
        report = trio.run(check_store, self.path)
        assert report.is_clean, report.findings


@dataclass
class ClusterStore:
    """A pool of a cluster, or a namespace of it."""

    ceph: CephCluster
    work: Path
    pool_name: str = POOL
    namespace: str = ""
    unit: int = 4 << 20  # an object, as `rbd du` counts

    @property
    def pool(self) -> str:
        """See Store."""
        return f"{self.pool_name}/{self.namespace}" if self.namespace else self.pool_name

    @property
    def address(self) -> Address:
        """See Store."""
        return CephAddress(ConnectFlags(conf=str(self.ceph.conf)))

    @property
    def environment(self) -> dict[str, str]:
        """See Store."""
        return {"CEPH_CONF": str(self.ceph.conf), "CEPH_ARGS": ""}

    def with_pool(self, name: str) -> Store:
        """See Store."""
        return replace(self, pool_name=name, namespace="")

    def check(self, *, has_crashed: bool = False) -> None:
        """What `rbd` finds, beside what we do."""
        trio.run(in_pool, self, self._judge, has_crashed)

    async def _judge(self, ioctx: IoCtx, has_crashed: bool) -> None:
        judge = Judge(self.ceph, self.pool, self.work)
        names = list(await directory.list_images(ioctx))
        assert await judge.images() == names
        for name in names[:_JUDGED]:
            await judge.compare(ioctx, name, has_crashed=has_crashed)


@asynccontextmanager
async def _opened(store: Store) -> AsyncIterator[IoCtx]:
    pool, _, namespace = store.pool.partition("/")
    async with open_cluster(store.address) as cluster:
        yield await cluster.open_pool(pool, namespace)


async def in_pool(store: Store, work: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Do something to the mounted pool, as another client: `trio.run(in_pool, store, work, ...)`."""
    with trio.fail_after(_SECONDS):  # a test's own time limit would end trio's loop, and that of later tests with it
        async with _opened(store) as ioctx:
            return await work(ioctx, *arguments)


STORES = [
    "local",
    *(pytest.param(name, id=f"ceph-{name}", marks=pytest.mark.cluster) for name in selected_releases()),
]


@contextlib.contextmanager
def new_store(kind: str, work: Path, ceph_clusters: Callable[[str], CephCluster]) -> Iterator[Store]:
    """A store without images, of one of STORES: a directory, or a namespace of a cluster."""
    if kind == "local":
        yield LocalStore(work / "store")
    else:
        with cluster_namespace(ceph_clusters(kind), work) as store:
            yield store


@contextlib.contextmanager
def cluster_namespace(ceph: CephCluster, work: Path) -> Iterator[ClusterStore]:
    """A namespace for one test; nothing of it is left behind."""
    store = ClusterStore(ceph, work, namespace=f"test-{uuid4().hex[:8]}")
    whole = ClusterStore(ceph, work)
    trio.run(in_pool, whole, directory.create_namespace, store.namespace)
    try:
        yield store
    finally:
        trio.run(in_pool, store, _remove_namespace)


async def _remove_namespace(ioctx: IoCtx) -> None:
    """Remove every object, and the snapshots that would keep what they held; who may still have a lock is not asked."""
    for image_id in (await directory.list_images(ioctx)).values():
        header = await read_header(ioctx, image_id)
        for snap in header.all_snaps:
            await ioctx.remove_snap_id(snap.id)

    async def remove(name: str) -> None:
        await calls.remove(ioctx, name, missing_ok=True)

    await for_each([name async for name in ioctx.list_objects()], remove)
    await change(ioctx.with_namespace(""), NAMESPACES, remove_namespace(ioctx.namespace))
