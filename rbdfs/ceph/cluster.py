"""A connection to a Ceph cluster, as `rados.api.Cluster`: the monitors, the objecter, and what needs both."""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from rbdfs.ceph.config import ConnectOptions, Settings
from rbdfs.ceph.ioctx import CephIoCtx
from rbdfs.ceph.monitor import MonitorClient
from rbdfs.ceph.msgr2.connection import Identity
from rbdfs.ceph.objecter import Objecter
from rbdfs.ceph.osdmap import OSDMap
from rbdfs.errors import ConfigError, Exists, NotSupported, PoolNotFound, TimedOut
from rbdfs.rados.api import Option, StoreProperties
from rbdfs.rados.ops import PoolId, SnapId

PROPERTIES = StoreProperties(
    durable_on_completion=True,
    clone_range=False,
    max_object_size=128 << 20,  # osd_max_object_size
    max_write_size=90 << 20,  # osd_max_write_size
    needs_alloc_hint=True,
)


_CONNECT_SECONDS = 300.0  # librados: client_mount_timeout
_REFUSED_SECONDS = 30.0  # where every monitor refuses connections: longer than a daemon takes to start again
_PATIENCE_SECONDS = 5.0  # of a person who was told nothing


def _silent(_: str) -> None:
    pass


@asynccontextmanager
async def connect(options: ConnectOptions, *, say: Callable[[str], None] = _silent) -> AsyncIterator["CephCluster"]:
    """Connect to a cluster for as long as the block lasts; where that takes long, `say` why.

    AuthenticationFailed where it does not accept our key, TimedOut where no monitor answers, ConfigError where it is
    not the cluster that the configuration names.
    """
    identity = Identity(with_data_crc=options.with_data_crc)
    monitors = MonitorClient(
        options.monitors,
        options.credentials(),
        identity,
        options.monitor_modes,
        options.mon_op_timeout,
        math.inf if options.mount_timeout else _REFUSED_SECONDS,
    )
    objecter = Objecter(
        monitors, monitors.credentials, identity, options.modes, options.osd_op_timeout, full_try=options.full_try
    )
    try:
        async with trio.open_nursery() as nursery:
            limit = trio.CancelScope()
            limit.deadline = trio.current_time() + (options.mount_timeout or options.mon_op_timeout or _CONNECT_SECONDS)
            with limit:
                async with _telling_what_is_slow(monitors, say):
                    await nursery.start(objecter.run)
                    await nursery.start(monitors.run, objecter)
                    osdmap = await objecter.wait_for_epoch(1)
                if options.fsid not in (None, osdmap.fsid):
                    raise ConfigError(
                        f"{options.conf}: names cluster {options.fsid}, the monitors are of {osdmap.fsid}"
                    )
            if limit.cancelled_caught:
                raise TimedOut(_what_is_missing(monitors))
            yield CephCluster(monitors, objecter, options.settings)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _single(group) from None


@asynccontextmanager
async def _telling_what_is_slow(monitors: MonitorClient, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Say, once, why the block takes longer than anybody likes to wait without a word."""

    async def tell() -> None:
        await trio.sleep(_PATIENCE_SECONDS)
        say(f"{_what_is_missing(monitors)}; still trying")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        yield
        nursery.cancel_scope.cancel()


def _what_is_missing(monitors: MonitorClient) -> str:
    where = monitors.session_address
    if where is None:
        return f"no monitor answers: {monitors.trouble}"
    return f"the monitor at {where.endpoint} sends no OSD map"


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What is in a group of one: the block's own error should reach the caller as it was raised."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner


class CephCluster:
    """See `rados.api.Cluster`."""

    def __init__(self, monitors: MonitorClient, objecter: Objecter, settings: Settings | None = None) -> None:
        self.monitors = monitors
        self.objecter = objecter
        self._settings = settings

    @property
    def properties(self) -> StoreProperties:
        """What differs between stores."""
        return PROPERTIES

    @property
    def osdmap(self) -> OSDMap:
        """The newest map that has come."""
        assert self.objecter.osdmap is not None
        return self.objecter.osdmap

    @property
    def fsid(self) -> str:
        """The cluster's UUID."""
        return str(self.osdmap.fsid)

    @property
    def instance_id(self) -> int:
        """This client's global id."""
        return self.monitors.global_id

    @property
    def address(self) -> str:
        """This client's address, as watchers and locks show it."""
        return str(self.monitors.my_addr)

    @property
    def description(self) -> str:
        """The cluster, for a person."""
        where = ", ".join(address.endpoint for address in self.monitors.addresses)
        return f"Ceph cluster {self.fsid} at {where}"

    async def option(self, name: str) -> Option | None:
        """A value of the configuration: of ceph.conf and what overrides it, else of the monitors' database."""
        if self._settings is not None and self._settings.has(name):
            return Option(self._settings.get(name), self._settings.where(name))
        value = (await self.monitors.options()).get(name)
        return None if value is None else Option(value, "the cluster's configuration database")

    async def open_pool(self, pool: str | PoolId, namespace: str = "") -> CephIoCtx:
        """A handle on a pool; PoolNotFound where the newest map lacks it, NotSupported where it has a cache tier."""
        found = self._find_pool(pool)
        if found is None:
            await self._newest_map()
            found = self._find_pool(pool)
        if found is None:
            raise PoolNotFound(f"pool {pool}: no such pool")
        if self.osdmap.pools[found[0]].has_cache_tier:
            raise NotSupported(f"pool {pool}: has a cache tier, which this client does not follow")
        return CephIoCtx(self, *found, namespace)

    def _find_pool(self, pool: str | PoolId) -> tuple[PoolId, str] | None:
        osdmap = self.osdmap
        pool_id = osdmap.pool_id(pool) if isinstance(pool, str) else pool
        name = None if pool_id is None else osdmap.pool_names.get(pool_id)
        return None if pool_id is None or name is None else (pool_id, name)

    async def _newest_map(self) -> OSDMap:
        return await self.objecter.wait_for_epoch(await self.monitors.newest_version("osdmap"))

    async def list_pools(self) -> dict[PoolId, str]:
        """All pools."""
        return dict((await self._newest_map()).pool_names)

    async def create_pool(self, name: str) -> PoolId:
        """Make a pool, for images."""
        if (await self._newest_map()).pool_id(name) is not None:
            raise Exists(f"pool {name}: exists")
        await self.monitors.command("osd pool create", pool=name)
        await self.monitors.command("osd pool application enable", pool=name, app="rbd")
        pool_id = (await self._newest_map()).pool_id(name)
        if pool_id is None:
            raise PoolNotFound(f"pool {name}: removed again at once")
        return pool_id

    async def remove_pool(self, name: str) -> None:
        """Remove a pool and all it holds; PermissionDenied where the monitors are told not to."""
        if (await self._newest_map()).pool_id(name) is None:
            raise PoolNotFound(f"pool {name}: no such pool")
        arguments = {"pool": name, "pool2": name, "yes_i_really_really_mean_it": True}
        await self.monitors.command("osd pool rm", **arguments)
        await self._newest_map()

    async def blocklist(self, address: str, seconds: float = 3600) -> None:
        """Fence a client.

        Our later ops carry the epoch of the map that says so: an OSD that serves them has it, too.
        """
        await self.monitors.command("osd blocklist", blocklistop="add", addr=address, expire=float(seconds))
        await self._newest_map()

    async def create_snap_id(self, pool_id: PoolId) -> SnapId:
        """A new snapshot id of a pool."""
        snap_id, epoch = await self.monitors.create_snap_id(pool_id)
        await self.objecter.wait_for_epoch(epoch)
        return snap_id

    async def remove_snap_id(self, pool_id: PoolId, snap_id: SnapId) -> None:
        """Give up a snapshot id of a pool."""
        await self.objecter.wait_for_epoch(await self.monitors.remove_snap_id(pool_id, snap_id))
