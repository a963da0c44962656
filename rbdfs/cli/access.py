"""From a command line to a store, a pool or an image that is open for the length of a block."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rbdfs import connect
from rbdfs.cli.options import Arguments, connect_flags
from rbdfs.connect import StoreAddress
from rbdfs.errors import NotFound, PermissionDenied
from rbdfs.image.spec import ImageSpec, PoolSpec
from rbdfs.rados.api import Cluster, IoCtx


def say(message: str) -> None:
    """Tell the user something that is not the command's output."""
    print(f"rbdfs: {message}", file=sys.stderr, flush=True)


@asynccontextmanager
async def open_cluster(arguments: Arguments, *, create: bool = False) -> AsyncIterator[Cluster]:
    """The store that the command line means; says so where nobody named it, and where `create` made it."""
    address, explanation = connect.choose_address(connect_flags(arguments))
    if explanation and (create or sys.stderr.isatty()):
        say(explanation)
    if isinstance(address, StoreAddress) and not connect.store_exists(address.path):
        if not create:
            raise NotFound(f"no store in {address.path}; `rbdfs pool create` or `rbdfs mount` makes one")
        say(f"creating the local store {address.path}")
    async with connect.open_cluster(address, create=create, say=say) as cluster:
        yield cluster


async def open_pool(cluster: Cluster, spec: PoolSpec) -> IoCtx:
    """A pool and namespace that exist; says how to make them where they do not."""
    try:
        ioctx = await cluster.open_pool(spec.pool)
    except NotFound as err:
        pools = ", ".join(sorted((await cluster.list_pools()).values())) or "none"
        raise NotFound(
            f"no pool {spec.pool!r} in the {cluster.description} (there: {pools}); "
            f"`rbdfs pool create {spec.pool}` makes it"
        ) from err
    if not spec.namespace:
        return ioctx
    from rbdfs.image.directory import list_namespaces

    try:
        exists = spec.namespace in await list_namespaces(ioctx)
    except PermissionDenied:  # caps for this namespace only: what else there is, is not for such a client to know
        exists = True
    if not exists:
        raise NotFound(
            f"no namespace {spec.namespace!r} in pool {spec.pool!r}; `rbdfs namespace create {spec}` makes it"
        )
    return ioctx.with_namespace(spec.namespace)


@asynccontextmanager
async def open_ioctx(arguments: Arguments, spec: PoolSpec | ImageSpec) -> AsyncIterator[IoCtx]:
    """The pool and namespace that a spec names."""
    async with open_cluster(arguments) as cluster:
        yield await open_pool(cluster, spec.pool_spec if isinstance(spec, ImageSpec) else spec)
