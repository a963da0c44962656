"""A pool and a namespace of a Ceph cluster, as `rados.api.IoCtx`."""

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from rbdfs.ceph.linger import CephWatch, Notification
from rbdfs.ceph.listing import list_pages
from rbdfs.ceph.op_message import OpFlag
from rbdfs.ceph.osd_ops import EncodedSteps
from rbdfs.ceph.pending import ObjectTarget
from rbdfs.ceph.placement import locate
from rbdfs.errors import NotFound, NotSupported, PoolNotFound, RbdfsError, TimedOut
from rbdfs.rados.api import NotifyReply, OnComplete, Outcome, PoolUsage, WatchEvent
from rbdfs.rados.ops import Buffer, PoolId, ReadOp, Reply, SnapId, Stat, WriteOp

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import CephCluster

_STATFS_SECONDS = 10.0
_MAX_TARGETS = 1 << 16  # about 40 MB of them


class CephIoCtx:
    """See `rados.api.IoCtx`. Remembers where the objects are that it was used for."""

    def __init__(self, cluster: "CephCluster", pool_id: PoolId, pool_name: str, namespace: str) -> None:
        self.cluster = cluster
        self.pool_id = pool_id
        self.pool_name = pool_name
        self.namespace = namespace
        self._objecter = cluster.objecter
        self._targets: dict[str, ObjectTarget] = {}

    def with_namespace(self, namespace: str) -> "CephIoCtx":
        """The same pool, another namespace."""
        return CephIoCtx(self.cluster, self.pool_id, self.pool_name, namespace)

    def submit(self, name: str, op: ReadOp | WriteOp, on_complete: OnComplete) -> None:
        """Do one op on one object."""
        target = self._targets.get(name)
        if target is None:
            try:
                target = self._make_target(name)
            except (NotFound, NotSupported) as err:  # of the pool
                on_complete(err)
                return
            if len(self._targets) >= _MAX_TARGETS:
                self._forget_targets()
            self._targets[name] = target
        self._objecter.submit(target, op, on_complete)

    def _make_target(self, name: str) -> ObjectTarget:
        raw_hash = locate(self.cluster.osdmap, self.pool_id, name, "", self.namespace).raw_hash
        return ObjectTarget(self.pool_id, self.namespace, name, raw_hash)

    def _forget_targets(self) -> None:
        """Forget the older half, but those with writes under way: reads must know of them, not to overtake them."""
        for name, target in list(self._targets.items())[: _MAX_TARGETS // 2]:
            if not target.writes:
                del self._targets[name]

    async def operate(self, name: str, op: ReadOp | WriteOp) -> Reply:
        """Do one op on one object, and wait; raises the op's error."""
        return await _wait_for(lambda on_complete: self.submit(name, op, on_complete))

    async def flush(self) -> None:
        """Wait for the writes under way: a write that is complete is durable."""
        await self._objecter.flush(self.pool_id)

    async def list_objects(self, prefix: str = "", *, of_snapshots: bool = False) -> AsyncIterator[str]:
        """The names of the objects that exist now, or also of those that only snapshots see.

        An OSD lists them all, those too that are removed but for clones that a snapshot still needs. So where the pool
        has ever had a snapshot, each object is asked whether it exists.
        """
        pool = self.cluster.osdmap.pools.get(self.pool_id)
        must_ask = pool is not None and pool.snap_seq > 0 and not of_snapshots
        async for page in list_pages(self._list_page, lambda: self._objecter.epoch, self.namespace):
            names = [name for name in page if name.startswith(prefix)]
            for name in await self._existing(names) if names and must_ask else names:
                yield name

    async def _existing(self, names: Sequence[str]) -> list[str]:
        """Those of some objects that exist; all are asked at once."""
        outcomes: dict[str, Outcome] = {}
        left, done = len(names), trio.Event()

        def on_complete(name: str, outcome: Outcome) -> None:
            nonlocal left
            outcomes[name] = outcome
            left -= 1
            if not left:
                done.set()

        for name in names:
            self.submit(name, ReadOp([Stat()]), partial(on_complete, name))
        await done.wait()
        for outcome in outcomes.values():
            if isinstance(outcome, RbdfsError) and not isinstance(outcome, NotFound):
                raise outcome
        return [name for name in names if isinstance(outcomes[name], Reply)]

    async def _list_page(self, raw_hash: int, encoded: EncodedSteps) -> Buffer:
        target = ObjectTarget(self.pool_id, self.namespace, "", raw_hash)
        flags = OpFlag.PGOP | OpFlag.IGNORE_OVERLAY
        reply = await _wait_for(
            lambda on_complete: self._objecter.submit_encoded(target, encoded, on_complete, flags=flags)
        )
        page: Buffer = reply.outputs[0]
        return page

    async def create_snap_id(self) -> SnapId:
        """A new id for a self-managed snapshot."""
        return await self.cluster.create_snap_id(self.pool_id)

    async def remove_snap_id(self, snap_id: SnapId) -> None:
        """Give the id up."""
        await self.cluster.remove_snap_id(self.pool_id, snap_id)

    async def watch(self, name: str, on_event: Callable[[WatchEvent], None], seconds: int = 30) -> CephWatch:
        """Watch an object."""
        watch = CephWatch(self._objecter, self._make_target(name), on_event, seconds)
        await watch.start()
        return watch

    async def notify(self, name: str, payload: bytes, seconds: float = 10.0) -> NotifyReply:
        """Tell all watchers of an object, and wait for their answers."""
        return await Notification(self._objecter, self._make_target(name), payload, seconds).run()

    async def allocated_bytes(self, prefix: str) -> int | None:
        """Only asking each object could tell."""
        return None

    async def usage(self) -> PoolUsage:
        """What the pool holds and can still take, as the monitors last heard.

        They do not answer at all where the pool is gone, or where the client may not know (caps without `pg r`).
        """
        osdmap = self._objecter.osdmap
        if osdmap is not None and self.pool_id not in osdmap.pools:
            raise PoolNotFound(f"pool {self.pool_id}: has been removed")
        with trio.move_on_after(_STATFS_SECONDS):
            reply = await self.cluster.monitors.statfs(self.pool_id)
            return PoolUsage(reply.used_kib << 10, reply.available_kib << 10, reply.objects)
        raise TimedOut(
            f"pool {self.pool_name}: the monitors do not say how full it is (do the caps lack `mon 'allow r'`?)"
        )


async def _wait_for(submit: Callable[[OnComplete], object]) -> Reply:
    """Wait for an op; cancelling the wait leaves the op to itself."""
    task = trio.lowlevel.current_task()
    outcome: Outcome | None = None
    is_waiting = False

    def on_complete(result: Outcome) -> None:
        nonlocal outcome, is_waiting
        outcome = result
        if is_waiting:
            is_waiting = False
            trio.lowlevel.reschedule(task)

    def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        nonlocal is_waiting
        is_waiting = False
        return trio.lowlevel.Abort.SUCCEEDED

    submit(on_complete)
    if outcome is None:
        is_waiting = True
        await trio.lowlevel.wait_task_rescheduled(abort)
    if isinstance(outcome, RbdfsError):
        raise outcome
    assert outcome is not None
    return outcome
