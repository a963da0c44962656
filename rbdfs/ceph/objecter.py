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

All of this runs in the trio thread, and no function here waits but those marked async: so nothing comes in between.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

import trio

from rbdfs.ceph import op_message
from rbdfs.ceph.cephx.credentials import Credentials
from rbdfs.ceph.linger import Linger
from rbdfs.ceph.messages import OSDMapMessage, WatchNotify, check_fsid
from rbdfs.ceph.msgr2.connection import Connection, Identity
from rbdfs.ceph.msgr2.login import Mode
from rbdfs.ceph.op_message import ALWAYS, OpFlag, OpReply
from rbdfs.ceph.osd_ops import READING_STEPS, SNAP_DIR, Decoder, EncodedSteps, encode_read, encode_steps, encode_write
from rbdfs.ceph.osdmap import Incremental, MapFlag, OSDMap
from rbdfs.ceph.pending import ObjectTarget, PendingOp
from rbdfs.ceph.placement import NO_OSD, is_new_interval, place
from rbdfs.ceph.pool import PoolFlag
from rbdfs.ceph.session import OSDSession
from rbdfs.ceph.types import EntityAddr, EntityType
from rbdfs.errors import Blocklisted, Corrupt, NotFound, RbdfsError, StoreFailure, TimedOut, WireError, from_result
from rbdfs.rados.api import OnComplete
from rbdfs.rados.ops import HEAD, NO_SNAPS, Buffer, ListSnaps, Read, ReadOp, Reply, Write, WriteOp

log = logging.getLogger(__name__)

_READ_FLAGS = int(ALWAYS | OpFlag.READ)
_WRITE_FLAGS = int(ALWAYS | OpFlag.WRITE)
_READ_WRITE_FLAGS = int(ALWAYS | OpFlag.READ | OpFlag.WRITE)
_FULL = PoolFlag.FULL | PoolFlag.FULL_QUOTA
_RESTRICTING = MapFlag.FULL | MapFlag.PAUSERD | MapFlag.PAUSEWR
_ESHUTDOWN = -108
_MAX_ERRNO = 4094
_NO_OUTPUT: tuple[Decoder | None, ...] = (None,)
_THE_DATA: tuple[Decoder | None, ...] = (lambda output: output,)


class Monitors(Protocol):
    """What the objecter asks of the monitors."""

    def want_maps(self) -> None:
        """Send the maps after the one we have."""

    async def renew_tickets(self) -> None:
        """Get new tickets for OSDs."""


class Objecter:
    """All ops of one client."""

    def __init__(
        self,
        monitors: Monitors,
        credentials: Credentials,
        identity: Identity,
        modes: tuple[Mode, ...],
        op_timeout: float = 0.0,
    ) -> None:
        self._monitors = monitors
        self._credentials = credentials
        self._identity = identity
        self._modes = modes
        self._op_timeout = op_timeout  # rados_osd_op_timeout, in seconds; 0: none

        self.osdmap: OSDMap | None = None
        self.my_addr = EntityAddr()
        self._is_blocklisted = False
        self._is_restricted = False  # some flag of the map or of a pool holds some ops
        self._new_map = trio.Event()
        self._last_tid = 0
        self._sessions: dict[int, OSDSession] = {}  # by OSD
        self._held: dict[int, PendingOp] = {}  # by tid: ops without a session
        self._lingers: dict[int, Linger] = {}  # by cookie
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve ops until cancelled: owns the tasks of the sessions and of the watches."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._op_timeout:
                nursery.start_soon(self._watch_deadlines)
            task_status.started()
            await trio.sleep_forever()

    # Submitting.

    def submit(self, target: ObjectTarget, op: ReadOp | WriteOp, on_complete: OnComplete) -> None:
        """Do one op on one object."""
        data: tuple[Buffer, ...]
        steps = op.steps
        try:
            if type(op) is ReadOp:
                flags, mtime, tail = _READ_FLAGS, op_message.NO_MTIME, op_message.read_tail(op.snap_id)
                if len(steps) == 1 and type(steps[0]) is Read:
                    ops, data, decoders = encode_read(steps[0].offset, steps[0].length), (), _THE_DATA
                else:
                    ops, data, decoders = encode_steps(steps)
                    if any(type(step) is ListSnaps for step in steps):
                        tail = op_message.read_tail(SNAP_DIR)
            else:
                assert type(op) is WriteOp
                flags, tail = _WRITE_FLAGS, op_message.write_tail(op.snapc)
                seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
                mtime = op_message.MTIME.pack(seconds, nanoseconds)
                if len(steps) == 1 and type(steps[0]) is Write:
                    ops = encode_write(steps[0].offset, len(steps[0].data))
                    data, decoders = (steps[0].data,), _NO_OUTPUT
                else:
                    ops, data, decoders = encode_steps(steps)
                    decoders = (None,) * len(decoders)
                    if any(type(step) in READING_STEPS for step in steps):
                        flags = _READ_WRITE_FLAGS
                if op.full_try:
                    flags |= OpFlag.FULL_TRY
        except RbdfsError as err:
            on_complete(err)
            return
        self._last_tid += 1
        self._start(PendingOp(self._last_tid, target, flags, mtime, ops, data, tail, decoders, on_complete))

    def submit_encoded(
        self,
        target: ObjectTarget,
        encoded: EncodedSteps,
        on_complete: OnComplete,
        *,
        is_write: bool = False,
        flags: int = 0,
    ) -> PendingOp:
        """Do an op that is no step of the contract: of a watch, a notify, a listing."""
        self._last_tid += 1
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        mtime = op_message.MTIME.pack(seconds, nanoseconds) if is_write else op_message.NO_MTIME
        flags |= _WRITE_FLAGS if is_write else _READ_FLAGS
        tail = op_message.write_tail(NO_SNAPS) if is_write else op_message.read_tail(HEAD)
        op = PendingOp(
            self._last_tid, target, flags, mtime, encoded.ops, encoded.data, tail, encoded.decoders, on_complete
        )
        self._start(op)
        return op

    def abandon(self, op: PendingOp) -> None:
        """Forget an op whose outcome does not matter any more."""
        op.is_abandoned = True
        self._detach(op)
        op.gone()

    def _start(self, op: PendingOp) -> None:
        if self._is_blocklisted:
            op.fail(self._blocklisted())
            return
        if self._op_timeout:
            op.deadline = trio.current_time() + self._op_timeout
        self._send(op)

    def _send(self, op: PendingOp) -> None:
        """Give an op to the session that it belongs to by the present map, or hold it."""
        target, osdmap = op.target, self.osdmap
        if osdmap is None:
            self._held[op.tid] = op
            return
        if target.epoch != osdmap.epoch:
            try:
                self._locate(target, osdmap)
            except NotFound as err:
                op.fail(err)
                return
        op.placement = target.placement
        if self._is_restricted and (failure := self._pool_failure(op)) is not None:
            op.fail(failure)
            return
        if target.session is None or ((self._is_restricted or self._held) and self._must_wait(op)):
            self._held[op.tid] = op
            return
        target.session.add(op)

    def _locate(self, target: ObjectTarget, osdmap: OSDMap) -> None:
        placement = place(osdmap, target.pool_id, target.raw_hash)
        session = None
        if placement.osd != NO_OSD and osdmap.is_up(placement.osd):
            session = self._session(placement.osd, osdmap)
        target.move(osdmap.epoch, placement, session)

    def _session(self, osd: int, osdmap: OSDMap) -> OSDSession | None:
        session = self._sessions.get(osd)
        if session is None:
            address = osdmap.address(osd).msgr2
            if address is None:  # an OSD that speaks the old messenger only
                log.warning("osd.%d has no address of messenger 2", osd)
                return None
            assert self._nursery is not None
            session = self._sessions[osd] = OSDSession(self, osd, address)
            self._nursery.start_soon(session.run)
        return session

    # Waiting.

    def _must_wait(self, op: PendingOp) -> bool:
        """Whether flags forbid to send it now, or an earlier op on the same object waits."""
        if self._is_paused(op):
            return True
        return any(held.tid < op.tid and held.target.name_part == op.target.name_part for held in self._held.values())

    def _is_paused(self, op: PendingOp) -> bool:
        assert self.osdmap is not None
        flags = self.osdmap.flags
        if op.is_write:
            return bool(flags & MapFlag.PAUSEWR) or (
                not op.flags & OpFlag.FULL_TRY and _is_full(self.osdmap, op.target)
            )
        return bool(flags & MapFlag.PAUSERD)

    def _pool_failure(self, op: PendingOp) -> RbdfsError | None:
        assert self.osdmap is not None
        if self.osdmap.pools[op.target.pool_id].flags & PoolFlag.EIO:
            return StoreFailure(f"{op.target}: the pool is marked to fail every op")
        return None

    async def _watch_deadlines(self) -> None:
        while True:
            await trio.sleep(min(1.0, self._op_timeout / 4))
            now = trio.current_time()
            for op in [op for op in self._all_ops() if op.deadline and op.deadline <= now]:
                self._detach(op)
                op.fail(TimedOut(f"{op.target}: no answer within {self._op_timeout:g} s"))

    def _all_ops(self) -> Iterator[PendingOp]:
        for session in self._sessions.values():
            yield from session.pending.values()
        yield from self._held.values()

    def _detach(self, op: PendingOp) -> None:
        if op.session is not None:
            op.session.remove(op)
        else:
            self._held.pop(op.tid, None)

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

    # Completing.

    def on_reply(self, op: PendingOp, reply: OpReply, data: Buffer) -> None:
        """End an op with what the OSD answered."""
        op.session = None
        if reply.result < 0:
            if reply.result == _ESHUTDOWN:
                self._is_blocklisted = True
            outcome: Reply | RbdfsError = _error_of(op, reply.result)
        elif len(op.decoders) == 1 == len(reply.lengths):
            decode = op.decoders[0]
            try:
                outcome = Reply([None if decode is None else decode(data)], reply.version)
            except WireError as err:
                outcome = Corrupt(f"{op.target}: {err}")
        else:
            outcome = _decode_outputs(op, reply, data)
        try:
            op.on_complete(outcome)
        except Exception:  # the callee's bug must not end the session of all others
            log.exception("completion of an op on %s", op.target)
        if op.on_gone is not None:
            op.gone()
        if self._is_blocklisted:
            self._fail_all()

    def _fail_all(self) -> None:
        """Fenced: nothing that is pending will be done any more."""
        for op in sorted(self._all_ops(), key=lambda op: op.tid):
            self._detach(op)
            op.fail(self._blocklisted())
        for linger in list(self._lingers.values()):
            linger.fail(self._blocklisted())

    def _blocklisted(self) -> Blocklisted:
        return Blocklisted(f"client {self.my_addr} is on the cluster's blocklist")

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
        self.take_maps(self._newer_maps(message))

    def take_maps(self, maps: Iterable[OSDMap]) -> None:
        """Take maps in the order of their epochs; each is used before the next one is asked for."""
        before = self.epoch
        again: dict[int, PendingOp] = {}
        anew: dict[int, Linger] = {}
        for osdmap in maps:
            self._note_changes(osdmap, again, anew)
        if self.epoch != before:
            self._act_on_map(again, anew)

    def _newer_maps(self, message: OSDMapMessage) -> Iterator[OSDMap]:
        """The maps of a message that follow ours, each made from the one before."""
        if self.osdmap is None:
            if message.full_maps:
                yield OSDMap.from_bytes(message.full_maps[max(message.full_maps)])
            else:
                self._monitors.want_maps()
                return
        assert self.osdmap is not None
        for epoch in sorted(message.increments.keys() | message.full_maps.keys()):
            if epoch <= self.osdmap.epoch:
                continue
            if epoch == self.osdmap.epoch + 1 and epoch in message.increments:
                yield self.osdmap.apply(Incremental.from_bytes(message.increments[epoch]))
            elif epoch in message.full_maps:  # the epochs between are gone: the monitors trimmed them
                yield OSDMap.from_bytes(message.full_maps[epoch])
            else:
                self._monitors.want_maps()
                return

    def _note_changes(self, new: OSDMap, again: dict[int, PendingOp], anew: dict[int, Linger]) -> None:
        """Take one map; collect the ops to send again, and what lingers and is to be set up anew."""
        old, self.osdmap = self.osdmap, new
        skipped = old is None or new.epoch != old.epoch + 1
        for op in list(self._all_ops()):
            try:
                placement = place(new, op.target.pool_id, op.target.raw_hash)
            except NotFound as err:  # pool ids are not used again: what was once there is gone for good
                self._detach(op)
                again.pop(op.tid, None)
                op.fail(err)
                continue
            if (
                skipped
                or op.placement is None
                or is_new_interval(op.placement, placement)
                # what the OSD got while the pool was full it may have dropped (Objecter: _scan_requests)
                or (op.is_write and (_is_full(new, op.target) or (old is not None and _is_full(old, op.target))))
            ):
                again[op.tid] = op
            op.placement = placement
        for linger in list(self._lingers.values()):
            try:
                placement = place(new, linger.target.pool_id, linger.target.raw_hash)
            except NotFound as err:
                anew.pop(linger.cookie, None)
                linger.fail(err)
                continue
            if skipped or linger.placement is None or is_new_interval(linger.placement, placement):
                anew[linger.cookie] = linger
            linger.placement = placement

    def _act_on_map(self, again: dict[int, PendingOp], anew: dict[int, Linger]) -> None:
        """Move to where the newest map says what the maps since the last one have unsettled."""
        osdmap = self.osdmap
        assert osdmap is not None
        log.debug("osdmap %d", osdmap.epoch)
        self._is_restricted = bool(osdmap.flags & _RESTRICTING) or any(
            pool.flags & (_FULL | PoolFlag.EIO) for pool in osdmap.pools.values()
        )
        for osd, session in list(self._sessions.items()):
            if not osdmap.is_up(osd) or osdmap.address(osd).msgr2 != session.address:
                del self._sessions[osd]
                again |= {op.tid: op for op in session.close()}
        again |= self._held
        for op in again.values():
            self._detach(op)
        if osdmap.is_blocklisted(self.my_addr):
            self._is_blocklisted = True
            for op in again.values():
                op.fail(self._blocklisted())
            self._fail_all()
        else:
            for linger in anew.values():  # first: it abandons what it has sent
                if linger.cookie in self._lingers:
                    linger.restart()
            self._send_again(again.values())
        new_map, self._new_map = self._new_map, trio.Event()
        new_map.set()

    def _send_again(self, ops: Iterable[PendingOp]) -> None:
        for op in sorted(ops, key=lambda op: op.tid):
            if not op.is_abandoned:
                self._send(op)

    def on_new_identity(self) -> None:
        """Our global id has changed: the OSDs would not know again what they have already done for us.

        So writes that have been sent are not sent again, and nobody knows what became of them.
        """
        for op in sorted(self._all_ops(), key=lambda op: op.tid):
            if op.is_write and op.attempt >= 0:
                self._detach(op)
                op.fail(StoreFailure(f"{op.target}: the cluster has forgotten this client; the write may be lost"))
        for linger in list(self._lingers.values()):
            linger.fail(StoreFailure(f"{linger.target}: the cluster has forgotten this client"))
        for session in self._sessions.values():
            session.reset()

    # Sessions: what `OSDSession` asks for.

    async def dial(self, address: EntityAddr) -> Connection:
        """Connect to an OSD."""
        login = self._credentials.service_login(EntityType.OSD, trio.current_time())
        return await Connection.open(address, EntityType.OSD, login, self._identity, modes=self._modes)

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
        self._lingers[linger.cookie] = linger
        if self._is_blocklisted:
            linger.fail(self._blocklisted())
        else:
            linger.restart()

    def remove_linger(self, linger: Linger) -> None:
        """Forget it."""
        self._lingers.pop(linger.cookie, None)

    def on_watch_event(self, event: WatchNotify, data: Buffer) -> None:
        """Pass an event on to whom it is for; those that have left get none."""
        linger = self._lingers.get(event.cookie)
        if linger is not None:
            linger.on_event(event, data)


def _error_of(op: PendingOp, result: int) -> RbdfsError:
    if result < -_MAX_ERRNO:  # where a comparison found a difference
        return from_result(result, str(op.target))
    return from_result(result, f"{op.target}: {os.strerror(-result).lower()}")


def _is_full(osdmap: OSDMap, target: ObjectTarget) -> bool:
    pool = osdmap.pools.get(target.pool_id)
    return bool(osdmap.flags & MapFlag.FULL) or (pool is not None and bool(pool.flags & _FULL))


def _decode_outputs(op: PendingOp, reply: OpReply, data: Buffer) -> Reply | RbdfsError:
    outputs, start, view = [], 0, memoryview(data)
    try:
        for decode, length in zip(op.decoders, reply.lengths, strict=False):
            outputs.append(None if decode is None else decode(view[start : start + length]))
            start += length
    except WireError as err:
        return Corrupt(f"{op.target}: {err}")
    outputs += [None] * (len(op.decoders) - len(outputs))
    return Reply(outputs, reply.version)
