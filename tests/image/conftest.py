"""A local store with a pool, and helpers that read like what they do."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from rbdfs.local.cluster import open_store
from rbdfs.rados.api import IoCtx

MIB = 1 << 20


class Pools:
    """Opens a pool `data`, of a store of its own, as one client or as several."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @asynccontextmanager
    async def client(self) -> AsyncIterator[IoCtx]:
        async with open_store(self._path, create=True) as cluster:
            if "data" not in (await cluster.list_pools()).values():
                await cluster.create_pool("data")
            yield await cluster.open_pool("data")


async def until(condition: Callable[[], object]) -> None:
    """Wait for what other tasks, and threads, are about to bring forth."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # conditions of all kinds, of which few have an event
            await trio.sleep(0.005)


@pytest.fixture
def pools(tmp_path: Path) -> Pools:
    return Pools(tmp_path / "store")
