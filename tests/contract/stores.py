"""The stores that the contract is checked on: how to get clients of each."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

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
