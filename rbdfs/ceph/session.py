"""The session with one OSD at one address: its connection, and the ops that wait for its answers.

There is one connection at a time. When it breaks, it is dialled again for as long as the map says that the OSD is
there, and all pending ops are sent again, in the order of their tids, with the tids they had: the OSD knows those that
it has done. The objecter ends the session when the map says otherwise, and takes the ops elsewhere.
"""

import logging
from collections.abc import Iterable
from operator import attrgetter
from typing import Protocol

import trio

from rbdfs.ceph import op_message
from rbdfs.ceph.backoff import Backoffs, decode_backoff
from rbdfs.ceph.messages import BackoffCode, MessageType, OSDBackoff, OSDMapMessage, WatchNotify
from rbdfs.ceph.msgr2.connection import Connection, ConnectionLost
from rbdfs.ceph.op_message import OpReply, decode_reply
from rbdfs.ceph.pending import ObjectTarget, PendingOp
from rbdfs.entities import EntityAddr
from rbdfs.errors import AuthenticationFailed, NotSupported, RbdfsError, StoreFailure
from rbdfs.wire import Buffer

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0  # between two attempts to connect
_SHORT_LIFE = 1.0  # of a connection that had better not been made


class SessionOwner(Protocol):
    """What a session needs of the objecter."""

    async def dial(self, address: EntityAddr) -> Connection:
        """Connect to an OSD."""

    async def renew_tickets(self) -> None:
        """Get new tickets, because the OSD does not accept ours."""

    def locate(self, target: ObjectTarget) -> None:
        """Note where an object is by the newest map."""

    def on_reply(self, op: PendingOp, reply: OpReply, data: Buffer) -> None:
        """An op is answered; it is no longer pending here."""

    def on_maps(self, message: OSDMapMessage) -> None:
        """The OSD has newer maps than the one that an op named."""

    def on_watch_event(self, event: WatchNotify, data: Buffer) -> None:
        """A watch hears something, or a notify is complete."""

    def on_session_reset(self, session: "OSDSession") -> None:
        """The session has a new connection, on which nothing of the last one is known."""


class OSDSession:
    """One OSD, as long as it stays where it is."""

    def __init__(self, owner: SessionOwner, osd: int, address: EntityAddr) -> None:
        self.osd = osd
        self.address = address
        self.pending: dict[int, PendingOp] = {}  # by tid
        self._owner = owner
        self._backoffs = Backoffs()
        self._connection: Connection | None = None
        self._wanted = trio.Event()  # somebody has something to send
        self._scope = trio.CancelScope()

    def __str__(self) -> str:
        return f"osd.{self.osd}"

    # Ops.

    def add(self, op: PendingOp) -> None:
        """Take an op, and send it unless there is a reason to wait."""
        self.pending[op.tid] = op
        op.session = self
        if self._connection is None:
            self._wanted.set()
        elif not (self._backoffs and self._is_held(op)):
            self._connection.send(
                MessageType.OSD_OP,
                op.front(),
                op.data,
                tid=op.tid,
                version=op_message.VERSION,
                compat=op_message.COMPAT,
                priority=op_message.PRIORITY,
            )

    def remove(self, op: PendingOp) -> None:
        """Give an op away; an answer to it is ignored from now on."""
        self.pending.pop(op.tid, None)
        op.session = None
        if self._connection is not None and op.data:
            self._connection.copy_unsent()  # the op may end before its data has left, and its buffers be used again

    def _is_held(self, op: PendingOp) -> bool:
        assert op.placement is not None
        pg = op.placement.pg
        return self._backoffs.holds_pg(pg) and self._backoffs.holds(pg, op.target.order())

    def _send_again(self, ops: Iterable[PendingOp]) -> None:
        for op in sorted(ops, key=attrgetter("tid")):
            self._owner.locate(op.target)  # to name the newest epoch: where it goes has not changed
            self.add(op)

    # The connection.

    def close(self) -> list[PendingOp]:
        """End the session at once; gives the ops that it leaves behind."""
        self._scope.cancel()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        ops = list(self.pending.values())
        for op in ops:
            self.remove(op)
        return ops

    def reset(self) -> None:
        """Begin again with a new connection, and send everything again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def run(self) -> None:
        """Keep a connection until `close`."""
        pause = 0.0
        with self._scope:
            while True:
                connection = await self._connect()
                began = trio.current_time()
                try:
                    self._begin(connection)
                    await connection.run(self._on_message)
                except ConnectionLost as err:
                    log.info("%s: %s", self, err)
                finally:
                    if self._connection is connection:
                        self._connection = None
                    connection.close()
                if self._scope.cancel_called:
                    return
                self._wanted = trio.Event()
                self._owner.on_session_reset(self)
                if not self.pending:  # an OSD closes what is idle; so nothing is lost by waiting
                    await self._wanted.wait()
                is_flapping = trio.current_time() - began < _SHORT_LIFE
                pause = min(max(pause * 2, _FIRST_PAUSE), _LAST_PAUSE) if is_flapping else 0.0
                if pause > _FIRST_PAUSE:  # not the first time
                    await trio.sleep(pause)

    async def _connect(self) -> Connection:
        pause, trouble = _FIRST_PAUSE, ""
        while True:
            try:
                connection = await self._owner.dial(self.address)
                if trouble:
                    log.info("%s: connected", self)
                return connection
            except ConnectionLost as err:
                if str(err) != trouble:  # an OSD may be away for days
                    trouble = str(err)
                    log.info("%s: %s; trying on", self, err)
            except AuthenticationFailed as err:
                log.info("%s: %s; renewing tickets", self, err)
                await self._owner.renew_tickets()
            except NotSupported as err:
                self._fail_all(StoreFailure(f"{self}: {err}"))
                await self._wanted.wait()
            await trio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    def _begin(self, connection: Connection) -> None:
        self._connection = connection
        self._backoffs.clear()
        self._send_again(list(self.pending.values()))

    def _fail_all(self, error: RbdfsError) -> None:
        ops = list(self.pending.values())
        self.pending.clear()
        self._wanted = trio.Event()
        for op in ops:
            op.session = None
        for op in ops:
            op.complete(error)

    def _on_message(self, kind: int, tid: int, version: int, front: memoryview, data: Buffer) -> None:
        if kind == MessageType.OSD_OPREPLY:
            op = self.pending.get(tid)
            if op is None:
                return
            reply = decode_reply(front)
            if reply.attempt < op.attempt and reply.attempt >= 0:
                return  # to an earlier attempt; the later one is answered, too
            del self.pending[tid]
            self._owner.on_reply(op, reply, data)
        elif kind == MessageType.WATCH_NOTIFY:
            self._owner.on_watch_event(WatchNotify.from_bytes(front), data)
        elif kind == MessageType.OSD_MAP:
            self._owner.on_maps(OSDMapMessage.from_bytes(front))
        elif kind == MessageType.OSD_BACKOFF:
            self._on_backoff(decode_backoff(front))

    def _on_backoff(self, message: OSDBackoff) -> None:
        if message.code == BackoffCode.BLOCK:
            answer = self._backoffs.block(message)
            assert self._connection is not None
            self._connection.send(MessageType.OSD_BACKOFF, answer.to_bytes())
            return
        pg = self._backoffs.unblock(message)
        if pg is not None:
            self._send_again([op for op in self.pending.values() if op.placement and op.placement.pg == pg])
