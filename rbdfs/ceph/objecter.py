"""The life of an op: where it goes, when it is sent again, when it must wait, how it ends.

    submit -> held          nobody serves its placement group, or reads or writes are paused, or the pool is full
           -> a session     sent, or waiting for the connection or the end of a backoff
           -> complete      a reply, an error, a time limit

An op is never lost: whenever the OSD may have forgotten it (a new connection, a new interval of the placement group, a
full flag, the end of a backoff), it is sent again. It is never done twice: its tid, by which the OSD knows it, stays.
Intervals are compared for each epoch of the map and not only for the last one, because an OSD drops what came before
an interval that began and ended between two of our looks (RADOS: `Objecter::_calc_target`).

What lingers (a watch; a notify that waits for its answers) is state of an OSD's session, not an op: after a new
connection or interval it is set up anew by a new op (`linger.py`).

All of this runs in the trio thread, and no function here waits but those marked async: so nothing comes in between. Ops
that a change of the map ends are told so after all others have been sent again, because their submitters may submit.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Protocol

import trio

from rbdfs.ceph.cephx.credentials import Credentials
from rbdfs.ceph.linger import Linger
from rbdfs.ceph.maps import newer_maps
from rbdfs.ceph.messages import OSDMapMessage, WatchNotify, check_fsid
from rbdfs.ceph.msgr2.connection import Connection, ConnectionLost, Identity
from rbdfs.ceph.msgr2.login import Mode
from rbdfs.ceph.op_message import OpFlag, OpReply
from rbdfs.ceph.osd_ops import EncodedSteps
from rbdfs.ceph.osdmap import MapFlag, OSDMap
from rbdfs.ceph.pending import HeldOps, ObjectTarget, PendingOp, make_encoded_op, make_op
from rbdfs.ceph.placement import NO_OSD, is_new_interval, place
from rbdfs.ceph.pool import PoolFlag
from rbdfs.ceph.session import OSDSession
from rbdfs.entities import EntityAddr, EntityType
from rbdfs.errors import (
    Blocklisted,
    NotFound,
    NotSupported,
    RbdfsError,
    StoreFailure,
    TimedOut,
)
from rbdfs.rados.api import OnComplete
from rbdfs.rados.ops import Buffer, ReadOp, WriteOp

log = logging.getLogger(__name__)

_FULL = PoolFlag.FULL | PoolFlag.FULL_QUOTA
_DROPPED_WHEN_FULL = OpFlag.WRITE | OpFlag.RWORDERED
_RESTRICTING = MapFlag.FULL | MapFlag.PAUSERD | MapFlag.PAUSEWR
_ESHUTDOWN = -108


class Monitors(Protocol):
    """What the objecter asks of the monitors."""

    def want_maps(self, *, full: bool = False) -> None:
        """Send the maps after the one we have, or the newest one whole."""

    async def renew_tickets(self) -> None:
        """Get new tickets for OSDs."""


@dataclass(slots=True)
class _Unsettled:
    """What the maps of one message have unsettled; dealt with once the last of them is known."""

    again: dict[int, PendingOp] = field(default_factory=dict)  # by tid, to be sent again
    anew: dict[int, Linger] = field(default_factory=dict)  # by cookie, to be set up anew
    failed: list[tuple[PendingOp | Linger, RbdfsError]] = field(default_factory=list)


class Objecter:
    """All ops of one client."""

    def __init__(
        self,
        monitors: Monitors,
        credentials: Credentials,
        identity: Identity,
        modes: tuple[Mode, ...],
        op_timeout: float | None = None,
        *,
        full_try: bool = False,
    ) -> None:
        # Fixed for life.
        self._full_try = full_try  # whether writes that find no room fail, instead of waiting for it
        self._monitors = monitors
        self._credentials = credentials
        self._identity = identity
        self._modes = modes
        self._op_timeout = op_timeout  # rados_osd_op_timeout, in seconds
        # As the cluster is.
        self.osdmap: OSDMap | None = None
        self.my_addr = EntityAddr()
        self._new_map = trio.Event()
        self._is_restricted = False  # some flag of the map or of a pool holds some ops
        self._verdict: RbdfsError | None = None  # why every op fails from now on
        # What is under way.
        self._last_tid = 0
        self._sessions: dict[int, OSDSession] = {}  # by OSD
        self._held = HeldOps()  # those without a session
        self._lingers: dict[int, Linger] = {}  # by cookie
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve ops until cancelled: owns the tasks of the sessions and of the watches."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._watch_deadlines)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._fail_all(StoreFailure("the connection to the cluster is closed"), is_closing=True)

    # Submitting.

    def submit(self, target: ObjectTarget, op: ReadOp | WriteOp, on_complete: OnComplete) -> None:
        """Do one op on one object."""
        self._last_tid += 1
        try:
            pending = make_op(self._last_tid, target, op, on_complete)
        except RbdfsError as err:
            on_complete(err)
        else:
            self._start(pending)

    def submit_encoded(
        self,
        target: ObjectTarget,
        encoded: EncodedSteps,
        on_complete: OnComplete,
        *,
        is_write: bool = False,
        flags: int = 0,
    ) -> PendingOp:
        """Do an op that is no step of the contract: of a watch, a notify, a listing; no held op holds it back."""
        self._last_tid += 1
        op = make_encoded_op(self._last_tid, target, encoded, on_complete, is_write=is_write, flags=flags)
        self._start(op)
        return op

    def abandon(self, op: PendingOp) -> None:
        """Forget an op whose outcome does not matter any more."""
        self._detach(op)
        op.abandon()

    def _start(self, op: PendingOp) -> None:
        if self._verdict is not None:
            op.complete(_copy(self._verdict))
            return
        if self._full_try and op.is_write:
            op.flags |= OpFlag.FULL_TRY
        if self._op_timeout:
            op.deadline = trio.current_time() + self._op_timeout
        error = self._send(op)
        if error is not None:
            op.complete(error)

    def _send(self, op: PendingOp) -> RbdfsError | None:
        """Give an op to the session that it belongs to by the present map, or hold it; gives why it cannot be done."""
        target, osdmap = op.target, self.osdmap
        if osdmap is None:
            self._held.add(op)
            return None
        if target.epoch != osdmap.epoch:
            try:
                self.locate(target)
            except (NotFound, NotSupported) as err:
                return err
        op.placement = target.placement
        if self._is_restricted and osdmap.pools[target.pool_id].flags & PoolFlag.EIO:
            return StoreFailure(f"{target}: the pool is marked to fail every op")
        if self._is_restricted and osdmap.pools[target.pool_id].has_cache_tier:
            return NotSupported(f"{target}: the pool has a cache tier, and this client does not follow it")
        if target.session is None or ((self._is_restricted or self._held) and self._must_wait(op)):
            self._held.add(op)
        else:
            target.session.add(op)
        return None

    def locate(self, target: ObjectTarget) -> None:
        """Note where an object is by the present map; NotFound where its pool is gone."""
        osdmap = self.osdmap
        if osdmap is None or target.epoch == osdmap.epoch:
            return
        placement = place(osdmap, target.pool_id, target.raw_hash)
        session = None
        if placement.osd != NO_OSD and osdmap.is_up(placement.osd):
            session = self._session(placement.osd, osdmap)
        target.move(osdmap.epoch, placement, session)

    def _session(self, osd: int, osdmap: OSDMap) -> OSDSession | None:
        session = self._sessions.get(osd)
        if session is None:
            address = osdmap.address(osd).msgr2
            if address is None:
                log.warning("osd.%d has no address of messenger 2", osd)
                return None
            assert self._nursery is not None
            session = self._sessions[osd] = OSDSession(self, osd, address)
            self._nursery.start_soon(session.run)
        return session

    # Waiting.

    def _must_wait(self, op: PendingOp) -> bool:
        """Whether flags forbid to send it now, or an earlier write to the same object waits.

        Reads do overtake writes that wait for room, as with librados: else a full pool could not even be looked at.
        """
        if self._is_restricted and self._is_paused(op):
            return True
        return op.is_write and op.is_ordered and self._held.has_object(op.target)

    def _is_paused(self, op: PendingOp) -> bool:
        assert self.osdmap is not None
        flags = self.osdmap.flags
        if op.is_write:
            return bool(flags & MapFlag.PAUSEWR) or (
                not op.flags & OpFlag.FULL_TRY and _is_full(self.osdmap, op.target)
            )
        return bool(flags & MapFlag.PAUSERD)

    def _detach(self, op: PendingOp) -> None:
        """Take an op from where it waits."""
        if op.session is not None:
            op.session.remove(op)
        else:
            self._held.remove(op)

    def _all_ops(self) -> Iterator[PendingOp]:
        for session in self._sessions.values():
            yield from session.pending.values()
        yield from self._held

    async def _watch_deadlines(self) -> None:
        while self._op_timeout:
            await trio.sleep(min(1.0, self._op_timeout / 4))
            now = trio.current_time()
            for op in [op for op in self._all_ops() if op.deadline <= now]:
                self._detach(op)
                op.complete(TimedOut(f"{op.target}: no answer within {self._op_timeout:g} s"))

    async def flush(self, pool_id: int) -> None:
        """Wait until every write to a pool that is pending now is over."""
        done, count = trio.Event(), 0

        def over() -> None:
            nonlocal count
            count -= 1
            if not count:
                done.set()

        for op in self._all_ops():
            if op.is_write and op.target.pool_id == pool_id:
                count += 1
                op.on_gone = [*(op.on_gone or ()), over]
        if count:
            await done.wait()

    # Ending.

    def on_reply(self, op: PendingOp, reply: OpReply, data: Buffer) -> None:
        """End an op with what the OSD answered."""
        op.session = None
        op.complete(op.outcome(reply, data))
        if reply.result == _ESHUTDOWN and self._verdict is None:
            self._on_fenced()

    def _on_fenced(self) -> None:
        log.error("client %s is on the cluster's blocklist", self.my_addr)
        self._fail_all(Blocklisted(f"client {self.my_addr} is on the cluster's blocklist"))

    def _fail_all(self, verdict: RbdfsError, *, is_closing: bool = False) -> None:
        """Nothing that is pending will be done any more, and nothing that comes."""
        self._verdict = self._verdict or verdict
        ops = sorted(self._all_ops(), key=attrgetter("tid"))
        for op in ops:
            self._detach(op)
        for op in ops:
            op.complete(_copy(self._verdict))
        for linger in list(self._lingers.values()):
            linger.fail(_copy(self._verdict), is_closing=is_closing)

    # Maps.

    @property
    def epoch(self) -> int:
        """The epoch of the map that we have; 0 before the first."""
        return 0 if self.osdmap is None else self.osdmap.epoch

    async def wait_for_epoch(self, epoch: int) -> OSDMap:
        """Wait for a map of at least this epoch."""
        while self.osdmap is None or self.osdmap.epoch < epoch:
            await self._new_map.wait()
        return self.osdmap

    def on_maps(self, message: OSDMapMessage) -> None:
        """Take the maps that are newer than ours, and act on every one of them."""
        if self.osdmap is not None:
            check_fsid(message.fsid, self.osdmap.fsid.bytes)
        self.take_maps(newer_maps(self.osdmap, message, self._monitors.want_maps))

    def take_maps(self, maps: Iterable[OSDMap]) -> None:
        """Take maps in the order of their epochs; each is used before the next one is asked for."""
        before = self.epoch
        unsettled = _Unsettled()
        try:
            for osdmap in maps:
                self._note_changes(osdmap, unsettled)
        finally:
            if self.epoch != before:
                self._act_on_map(unsettled)

    def _note_changes(self, new: OSDMap, unsettled: _Unsettled) -> None:
        """Take one map, and note which ops are to be sent again, and what lingers and is to be set up anew."""
        old, self.osdmap = self.osdmap, new
        is_first = old is None or new.epoch != old.epoch + 1  # or the first after a gap: anything may have happened
        for op in list(self._all_ops()):
            try:
                placement = place(new, op.target.pool_id, op.target.raw_hash)
            except (NotFound, NotSupported) as err:  # pool ids are not used again: what was there is gone for good
                self._detach(op)
                unsettled.again.pop(op.tid, None)
                unsettled.failed.append((op, err))
                continue
            if (
                is_first
                or op.placement is None
                or is_new_interval(op.placement, placement)
                # what the OSD got while the pool was full it may have dropped (Objecter: _scan_requests)
                or (
                    op.flags & _DROPPED_WHEN_FULL
                    and (_is_full(new, op.target) or (old is not None and _is_full(old, op.target)))
                )
            ):
                unsettled.again[op.tid] = op
            op.placement = placement
        for linger in self._lingers.values():
            try:
                placement = place(new, linger.target.pool_id, linger.target.raw_hash)
            except (NotFound, NotSupported) as err:
                unsettled.failed.append((linger, err))
                continue
            if is_first or linger.placement is None or is_new_interval(linger.placement, placement):
                unsettled.anew[linger.cookie] = linger
            linger.placement = placement

    def _act_on_map(self, unsettled: _Unsettled) -> None:
        """Move to where the newest map says what the maps since the last one have unsettled."""
        osdmap, again = self.osdmap, unsettled.again
        assert osdmap is not None
        log.debug("OSD map %d: %d ops again, %d lingers anew", osdmap.epoch, len(again), len(unsettled.anew))
        self._is_restricted = bool(osdmap.flags & _RESTRICTING) or any(
            pool.flags & (_FULL | PoolFlag.EIO) or pool.has_cache_tier for pool in osdmap.pools.values()
        )
        for osd, session in list(self._sessions.items()):
            if not osdmap.is_up(osd) or osdmap.address(osd).msgr2 != session.address:
                del self._sessions[osd]
                again |= {op.tid: op for op in session.close()}
        again |= {op.tid: op for op in self._held}
        for op in again.values():
            self._detach(op)
        for linger in unsettled.anew.values():  # before the ops, of which it abandons its own
            if linger.cookie in self._lingers:
                linger.restart()
        for op in sorted(again.values(), key=attrgetter("tid")):
            if not op.is_over and (error := self._send(op)) is not None:
                unsettled.failed.append((op, error))
        for failed, error in unsettled.failed:
            if isinstance(failed, PendingOp):
                failed.complete(error)
            else:
                failed.fail(error)
        if self._verdict is None and osdmap.is_blocklisted(self.my_addr):
            self._on_fenced()
        new_map, self._new_map = self._new_map, trio.Event()
        new_map.set()

    # What the monitors know us by.

    def on_identity(self, my_addr: EntityAddr, *, is_new: bool) -> None:
        """We are known by this address; and where that `is_new`, by a new global id.

        Then the OSDs would not know again what they have already done for us: writes that have been sent are not sent
        again, and nobody knows what became of them.
        """
        self.my_addr = my_addr
        if not is_new:
            return
        lost = [op for op in sorted(self._all_ops(), key=attrgetter("tid")) if op.is_write and op.attempt >= 0]
        for op in lost:
            self._detach(op)
        for session in self._sessions.values():
            session.reset()
        for op in lost:
            op.complete(StoreFailure(f"{op.target}: the cluster has forgotten this client; the write may be lost"))
        for linger in list(self._lingers.values()):
            linger.fail(StoreFailure(f"{linger.target}: the cluster has forgotten this client"))

    # Sessions: what `OSDSession` asks for.

    async def dial(self, address: EntityAddr) -> Connection:
        """Connect to an OSD."""
        login = self._credentials.service_login(EntityType.OSD, trio.current_time())
        identity = self._credentials.global_id
        connection = await Connection.open(address, EntityType.OSD, login, self._identity, modes=self._modes)
        if self._credentials.global_id != identity:  # ops must not go out under one, and again under the other
            connection.close()
            raise ConnectionLost(f"{address}: the tickets have changed meanwhile")
        return connection

    async def renew_tickets(self) -> None:
        """Get new tickets for OSDs."""
        await self._monitors.renew_tickets()

    def on_session_reset(self, session: OSDSession) -> None:
        """Set up again what the OSD has forgotten with the last connection."""
        for linger in list(self._lingers.values()):
            if linger.target.session is session:
                linger.restart()

    # What lingers.

    @property
    def nursery(self) -> trio.Nursery:
        """Where the tasks of watches live."""
        assert self._nursery is not None
        return self._nursery

    def next_cookie(self) -> int:
        """A number for something that lingers, unique within this client."""
        self._last_tid += 1
        return self._last_tid

    def add_linger(self, linger: Linger) -> None:
        """Begin to look after a watch or a notify, and set it up."""
        if self._verdict is not None:
            linger.fail(_copy(self._verdict))
            return
        self._lingers[linger.cookie] = linger
        linger.restart()

    def remove_linger(self, linger: Linger) -> None:
        """Forget it."""
        self._lingers.pop(linger.cookie, None)

    def on_watch_event(self, event: WatchNotify, data: Buffer) -> None:
        """Pass an event on to whom it is for; those that have left get none."""
        linger = self._lingers.get(event.cookie)
        if linger is not None:
            linger.on_event(event, data)


def _copy(error: RbdfsError) -> RbdfsError:
    """An error for one more op: raising the same one twice would mix up their tracebacks."""
    return type(error)(*error.args)


def _is_full(osdmap: OSDMap, target: ObjectTarget) -> bool:
    pool = osdmap.pools.get(target.pool_id)
    return bool(osdmap.flags & MapFlag.FULL) or (pool is not None and bool(pool.flags & _FULL))
