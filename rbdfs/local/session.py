"""One client of the engine in its own process: the owner itself, or an attached process's seat at the socket."""

import os
from collections.abc import Callable
from pathlib import Path

from rbdfs.errors import NotFound, PoolNotFound, RbdfsError
from rbdfs.local.backend import Listing, Place
from rbdfs.local.blocks import BLOCK_BITS
from rbdfs.local.check import CheckReport, check_files
from rbdfs.local.engine import Client, Engine
from rbdfs.local.housekeeping import Housekeeping
from rbdfs.local.objects import ObjectKey
from rbdfs.local.omap import decode_key, encode_key
from rbdfs.local.pools import Pool, family_of
from rbdfs.local.watches import WatchEntry
from rbdfs.rados.api import NotifyReply, OnComplete, PoolUsage, WatchEvent
from rbdfs.rados.ops import PoolId, ReadOp, SnapId, WriteOp

_LAST_NAME = b"\xff" * 4096  # behind all names, of which those of text have no such byte


class Session:
    """A `Backend` on the engine; see there."""

    def __init__(self, path: Path, engine: Engine, housekeeping: Housekeeping, client: Client) -> None:
        self._path = path
        self._engine = engine
        self._housekeeping = housekeeping
        self.client = client
        self._watches: dict[int, WatchEntry] = {}
        housekeeping.admit(client)

    def close(self) -> None:
        """The client is gone, and its watches with it."""
        self._housekeeping.leave(self.client)

    def submit(self, place: Place, name: str, op: ReadOp | WriteOp, on_complete: OnComplete) -> None:
        """Do one op on one object."""
        pool = self._engine.pools.get(place.pool)
        if pool is None:
            on_complete(PoolNotFound(f"pool {place.pool}: no such pool"))
            return
        self._engine.submit(self.client, pool, place.namespace, name, op, on_complete)

    async def flush(self) -> None:
        """Make durable what has completed, and what is under way."""
        self._check_client()
        await self._engine.settle()
        await self._engine.journal.flush()

    async def list_page(self, place: Place, listing: Listing, limit: int) -> tuple[list[str], bool]:
        """Names of objects, in byte order, and whether to ask for more."""
        self._pool(place.pool)
        names: set[bytes] = set()
        more = True
        while more and not names:  # a page of objects that have only clones is none
            names, more, after = self._look_at_page(place, listing, limit)
            listing = listing._replace(after=after)
        return [decode_key(name) for name in sorted(names)], more

    def _look_at_page(self, place: Place, listing: Listing, limit: int) -> tuple[set[bytes], bool, str]:
        """Those listed among the next objects, whether there are more of these, and where they begin."""
        start, prefix = encode_key(listing.after), encode_key(listing.prefix)
        rows = self._engine.database.rows(
            "SELECT name, size IS NOT NULL FROM object WHERE pool = ? AND namespace = ? AND name > ? AND name >= ?"
            " AND name < ? ORDER BY name LIMIT ?",
            (place.pool, encode_key(place.namespace), start, prefix, _end_of(prefix), limit),
        )
        names = {name for name, has_head in rows if has_head or listing.of_snapshots}
        more = len(rows) == limit
        end = rows[-1][0] if more else None
        for obj in self._engine.objects.held():
            if (obj.key.pool, obj.key.namespace) == place:
                name = encode_key(obj.key.name)
                if name > start and name.startswith(prefix) and (end is None or name <= end):
                    is_listed = obj.head is not None or (listing.of_snapshots and obj.clones)
                    (names.add if is_listed else names.discard)(name)
        return names, more, decode_key(rows[-1][0]) if more else ""

    async def create_snap_id(self, pool: PoolId) -> SnapId:
        """A new snap id."""
        return await self._housekeeping.create_snap_id(self._pool(pool))

    async def remove_snap_id(self, pool: PoolId, snap_id: SnapId) -> None:
        """Give a snap id up."""
        await self._housekeeping.remove_snap_id(self._pool(pool), snap_id)

    # Watches.

    async def watch(
        self, place: Place, name: str, cookie: int, on_event: Callable[[WatchEvent], None], seconds: int
    ) -> None:
        """Begin a watch under a cookie of the client's."""
        key = self._existing(place, name)
        entry = WatchEntry(key, self.client, cookie, seconds, on_event)
        self._watches[cookie] = entry
        self._engine.watches.add(entry)

    async def unwatch(self, cookie: int) -> None:
        """End a watch."""
        if (entry := self._watches.pop(cookie, None)) is not None:
            self._engine.watches.remove(entry)
        else:
            self._engine.watches.leave_place(self.client, cookie)

    def acknowledge(self, cookie: int, notify_id: int, payload: bytes) -> None:
        """Answer a notify."""
        if (entry := self._watches.get(cookie)) is not None:
            self._engine.watches.acknowledge(entry, notify_id, payload)

    async def notify(self, place: Place, name: str, payload: bytes, seconds: float) -> NotifyReply:
        """Tell the watchers of an object, and wait for their answers."""
        key = self._existing(place, name)
        return await self._engine.watches.notify(self.client, key, payload, seconds)

    def _existing(self, place: Place, name: str) -> ObjectKey:
        self._pool(place.pool)
        key = ObjectKey(place.pool, place.namespace, name)
        if self._engine.objects.find(key).head is None:
            raise NotFound(f"{name}: no such object")
        return key

    # Usage and pools.

    async def allocated_bytes(self, place: Place, prefix: str) -> int:
        """Bytes allocated by the heads whose names begin so."""
        self._pool(place.pool)
        blocks = self._engine.families.blocks(*place, prefix)
        if prefix and not prefix.endswith("."):
            blocks += await self._blocks_within_family(place, prefix)
        return blocks << BLOCK_BITS

    async def _blocks_within_family(self, place: Place, prefix: str) -> int:
        """The blocks of the objects of one family whose names begin so: looked at one by one."""
        after, more, blocks = prefix, True, 0
        names = [prefix]
        while names:
            for name in names:
                if name.startswith(prefix) and family_of(name) == family_of(prefix):
                    head = self._engine.objects.find(ObjectKey(*place, name)).head
                    blocks += 0 if head is None else head.allocated
            if not more or not names[-1].startswith(prefix):
                break
            names, more = await self.list_page(place, Listing(after, prefix), 1000)
            after = names[-1] if names else after
        return blocks

    async def usage(self, pool: PoolId) -> PoolUsage:
        """What the pool holds and can still take."""
        found = self._pool(pool)
        room = os.statvfs(self._path)
        return PoolUsage(found.used << BLOCK_BITS, room.f_bavail * room.f_frsize, found.objects)

    async def list_pools(self) -> dict[PoolId, str]:
        """All pools."""
        return {pool.id: pool.name for pool in self._engine.pools.values() if not pool.is_removed}

    async def create_pool(self, name: str) -> PoolId:
        """Make a pool."""
        self._check_client()
        return await self._housekeeping.create_pool(name)

    async def remove_pool(self, name: str) -> None:
        """Remove a pool and all it holds."""
        self._check_client()
        await self._housekeeping.remove_pool(name)

    async def blocklist(self, address: str, seconds: float) -> None:
        """Fence a client."""
        self._check_client()
        await self._housekeeping.blocklist(address, seconds)

    async def check(self) -> CheckReport:
        """Verify the whole store."""
        self._check_client()
        await self._engine.journal.flush()
        return await check_files(self._path)

    def _pool(self, number: PoolId) -> Pool:
        self._check_client()
        pool = self._engine.pools.get(number)
        if pool is None or pool.is_removed:
            raise PoolNotFound(f"pool {number}: no such pool")
        return pool

    def _check_client(self) -> None:
        refusal: RbdfsError | None = self.client.refusal
        if refusal is not None:
            raise refusal


def _end_of(prefix: bytes) -> bytes:
    """What stands behind all names that begin so."""
    rest = prefix.rstrip(b"\xff")
    return rest[:-1] + bytes((rest[-1] + 1,)) if rest else _LAST_NAME
