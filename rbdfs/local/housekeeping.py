"""What the owner does beside ops: pools, snap ids, trimming clones of removed snapshots, the block list.

Trimming goes on in the background, a few objects at a time; what a crash leaves of it is found again when the store
is opened, since removed snap ids are stored and a clone is stored with the ids that see it.
"""

import logging
import time

import trio
import trio.lowlevel

from rbdfs.errors import Exists, NoSpace, NotFound, PoolNotFound, RbdfsError
from rbdfs.local import snapshots
from rbdfs.local.engine import Client, Engine
from rbdfs.local.objects import State, load_key
from rbdfs.local.pools import REMOVED, Pool
from rbdfs.rados.ops import PoolId, SnapId

log = logging.getLogger(__name__)

_PAGE = 256  # objects between two looks at the rest of the world
_WATCH_CHECK = 1.0  # seconds
_ROOM_RETRY = 5.0  # seconds


class Housekeeping:
    """The tasks and the tables of an engine that are about no single object. `run` must be running."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.clients: set[Client] = set()
        self._fenced: dict[str, float] = dict(engine.database.rows("SELECT address, until FROM blocklist"))
        self._to_trim: list[tuple[Pool, SnapId]] = []
        self._work = trio.Event()
        # As found: a pool whose removal begins while `run` does is its remover's to clear.
        self._half_removed = [pool for pool in engine.pools.values() if pool.is_removed]
        for pool_id, snap in engine.database.rows(
            "SELECT DISTINCT pool, snap FROM snapmap JOIN removed_snap USING (pool, snap)"
        ):
            if pool_id in engine.pools:
                self._trim_later(engine.pools[pool_id], snap)

    async def run(self) -> None:
        """Trim, and drop the watches of the silent, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._trim)
            nursery.start_soon(self._expire_watches)
            for pool in self._half_removed:
                nursery.start_soon(self._finish_removal, pool)

    # Pools.

    async def create_pool(self, name: str) -> PoolId:
        """Make a pool."""
        if any(pool.name == name for pool in self._engine.pools.values()):
            raise Exists(f"pool {name} exists")
        engine = self._engine
        engine.last_pool_id = number = PoolId(engine.last_pool_id + 1)  # never one that was another's
        pool = engine.pools[number] = Pool(number, name)
        engine.dirty_pools.add(pool)
        engine.extra.settings.append(("last_pool_id", number))
        await engine.journal.flush()
        return number

    async def remove_pool(self, name: str) -> None:
        """Remove a pool: at once for everybody, then object by object."""
        engine = self._engine
        pool = next((pool for pool in engine.pools.values() if pool.name == name), None)
        if pool is None:
            raise PoolNotFound(f"pool {name}: no such pool")
        pool.is_removed = True
        pool.name = f"{REMOVED}{pool.id} {pool.name}"  # so that a crash does not leave half a pool
        engine.dirty_pools.add(pool)
        engine.watches.lose_pool(pool.id)
        await engine.settle()  # what waits may still make objects, and a thread write into blocks that become free
        await engine.journal.flush()
        await self._clear_pool(pool)

    async def _finish_removal(self, pool: Pool) -> None:
        try:
            await self._clear_pool(pool)
        except RbdfsError as err:  # the next opening tries again
            log.error("removing a pool: %s", err)

    async def _clear_pool(self, pool: Pool) -> None:
        engine = self._engine
        after = 0
        while rows := engine.database.rows(
            "SELECT id FROM object WHERE pool = ? AND id > ? ORDER BY id LIMIT ?", (pool.id, after, _PAGE)
        ):
            for (row_id,) in rows:
                self._remove_object(pool, row_id)
            after = rows[-1][0]
            await trio.lowlevel.checkpoint()
        del engine.pools[pool.id]
        engine.families.forget_pool(pool.id)
        engine.extra.delete_pools.append((pool.id,))
        engine.extra.delete_removed.append((pool.id,))
        await engine.journal.flush()

    def _remove_object(self, pool: Pool, row_id: int) -> None:
        key = load_key(self._engine.database, row_id)
        if key is None:
            return
        obj = self._engine.objects.find(key)
        states = [clone.state for clone in obj.clones]
        obj.dropped_clones += [clone.clone_id for clone in obj.clones]
        obj.clones_changed |= bool(obj.clones)
        obj.clones = []
        if obj.head is not None:
            states.append(obj.head)
            pool.objects -= 1
            self._engine.families.add(*key, -obj.head.allocated)
            obj.omap_dropped |= obj.head.may_have_stored_omap
            obj.head = None
        self._release(pool, states)
        self._engine.objects.mark(obj)

    def _release(self, pool: Pool, states: list[State]) -> None:
        for state in states:
            for block in state.blocks:
                if block and self._engine.blocks.release(block):
                    pool.used -= 1
        self._engine.dirty_pools.add(pool)

    # Snapshots.

    async def create_snap_id(self, pool: Pool) -> SnapId:
        """The pool's next snap id; durable, so that it is never given twice."""
        pool.snap_seq += 1
        snap_id = SnapId(pool.snap_seq)
        self._engine.dirty_pools.add(pool)
        await self._engine.journal.flush()
        return snap_id

    async def remove_snap_id(self, pool: Pool, snap_id: SnapId) -> None:
        """Give a snap id up, and trim in the background."""
        if not 0 < snap_id <= pool.snap_seq:
            raise NotFound(f"{pool.name}: snap id {snap_id} was never made")
        if snap_id in pool.removed_snaps:
            return
        pool.removed_snaps.add(snap_id)
        self._engine.extra.removed.append((pool.id, snap_id))
        self._engine.journal.changed()
        self._trim_later(pool, snap_id)

    def _trim_later(self, pool: Pool, snap_id: SnapId) -> None:
        self._to_trim.append((pool, snap_id))
        self._work.set()

    async def _trim(self) -> None:
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._to_trim:
                pool, snap_id = self._to_trim[0]
                try:
                    await self._trim_snap(pool, snap_id)
                except NoSpace as err:
                    log.warning("trimming snapshot %d of pool %s waits for room: %s", snap_id, pool.name, err)
                    await trio.sleep(_ROOM_RETRY)
                    continue
                except RbdfsError as err:  # found again when the store is opened next
                    log.error("trimming snapshot %d of pool %s: %s", snap_id, pool.name, err)
                del self._to_trim[0]

    async def _trim_snap(self, pool: Pool, snap_id: SnapId) -> None:
        engine = self._engine
        await engine.journal.flush()  # `snapmap` knows what is committed
        after = 0
        while not pool.is_removed and (
            rows := engine.database.rows(
                "SELECT object FROM snapmap WHERE pool = ? AND snap = ? AND object > ? ORDER BY object LIMIT ?",
                (pool.id, snap_id, after, _PAGE),
            )
        ):
            for (row_id,) in rows:
                key = load_key(engine.database, row_id)
                if key is not None:
                    obj = engine.objects.find(key)
                    self._release(pool, snapshots.trim(obj, snap_id))
                    if obj.is_absent:
                        obj.snap_seq = 0
                    engine.objects.mark(obj)
            after = rows[-1][0]
            await trio.lowlevel.checkpoint()

    # Clients.

    def admit(self, client: Client) -> None:
        """A client of this engine; a fenced address stays fenced."""
        self.clients.add(client)
        self._engine.watches.has_come(client, trio.current_time())
        if self._fenced.get(client.address, 0) > time.time():
            client.fence()

    def leave(self, client: Client) -> None:
        """The client is gone."""
        self.clients.discard(client)
        self._engine.watches.forget_client(client)

    async def blocklist(self, address: str, seconds: float) -> None:
        """Fence a client by its address: from now on, and durably."""
        until = time.time() + seconds
        self._fenced[address] = until
        for client in self.clients:
            if client.address == address:
                client.fence()
        self._engine.watches.lose_address(address, f"{address} is blocklisted")
        await self._engine.settle()  # what it has submitted before
        self._engine.extra.blocklist.append((address, int(until)))
        await self._engine.journal.flush()

    async def _expire_watches(self) -> None:
        while True:
            await trio.sleep(_WATCH_CHECK)
            self._engine.watches.expire(trio.current_time())
