"""What lingers at an OSD after its op: a watch, and a notify that waits for the watchers' answers.

An OSD keeps both with the session. So after every new connection and every new interval of the object's placement
group the objecter calls `restart`: a watch is renewed under its cookie with the next generation, a notify is sent anew.
The op that does this is a new one each time (a repeated tid would be answered from the OSD's memory, and nothing set
up).

A watch is renewed by a ping every few seconds. The OSD refuses to renew a watch that has run out, and says so to one
that it drops; both are the event WatchLost, after which no event comes.
"""

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import trio

from rbdfs.ceph.messages import NotifyResult, WatchNotify, WatchOpcode
from rbdfs.ceph.op_message import OpFlag
from rbdfs.ceph.osd_ops import WatchStep, encode_notify, encode_notify_ack, encode_watch
from rbdfs.ceph.pending import ObjectTarget, PendingOp
from rbdfs.ceph.placement import Placement
from rbdfs.errors import Corrupt, NotConnected, RbdfsError, TimedOut, WireError, from_result
from rbdfs.rados.api import NotifyEvent, NotifyReply, OnComplete, Outcome, WatchEvent, WatchLost
from rbdfs.rados.ops import Buffer

if TYPE_CHECKING:
    from rbdfs.ceph.objecter import Objecter

log = logging.getLogger(__name__)

_PING_SECONDS = 5.0  # as librados; less for a watch with a short timeout
_GRACE_SECONDS = 10.0  # for an OSD that is late to say who has answered a notify
_ETIMEDOUT = -110


class Linger(Protocol):
    """What the objecter knows of a watch or a notify."""

    @property
    def cookie(self) -> int:
        """Its number."""

    @property
    def target(self) -> ObjectTarget:
        """The object."""

    placement: Placement | None  # as of the last map

    def restart(self) -> None:
        """Set it up anew: the OSD has forgotten it, or another one is in charge."""

    def fail(self, error: RbdfsError, *, is_closing: bool = False) -> None:
        """End it with an error; where the cluster `is_closing`, that is news only to who waits in a call."""

    def on_event(self, event: WatchNotify, data: Buffer) -> None:
        """Take a message that bears its cookie."""


def _ignore(_: Outcome) -> None:
    pass


class CephWatch:
    """A watch; see `rados.api.Watch`."""

    def __init__(
        self, objecter: "Objecter", target: ObjectTarget, on_event: Callable[[WatchEvent], None], seconds: int
    ) -> None:
        self.target = target
        self.placement: Placement | None = None
        self._objecter = objecter
        self._cookie = objecter.next_cookie()
        self._callback = on_event
        self._seconds = seconds
        self._generation = 0
        self._is_registered = False  # once at least
        self._is_over = False
        self._op: PendingOp | None = None  # under way: registers, renews or asks about the watch
        self._settled = trio.Event()  # the first registration has been answered
        self._error: RbdfsError | None = None  # by that answer
        self._early: list[WatchEvent] | None = []  # what came before our caller had the watch in hand
        self._scope = trio.CancelScope()

    @property
    def cookie(self) -> int:
        """The watch's number."""
        return self._cookie

    async def start(self) -> None:
        """Register, and wait for it; raises what the OSD says."""
        self._objecter.add_linger(self)
        try:
            await self._settled.wait()
        except trio.Cancelled:
            self._end()
            self._submit(WatchStep.UNWATCH, _ignore)
            raise
        if self._error is not None:
            raise self._error
        self._objecter.nursery.start_soon(self._keep)

    def acknowledge(self, notify_id: int, payload: bytes = b"") -> None:
        """Answer a NotifyEvent."""
        if not self._is_over:
            self._objecter.submit_encoded(self.target, encode_notify_ack(notify_id, self._cookie, payload), _ignore)

    async def close(self) -> None:
        """End the watch."""
        if self._is_over:
            return
        self._end()
        done = trio.Event()
        self._submit(WatchStep.UNWATCH, lambda _: done.set())
        await done.wait()

    def _end(self) -> None:
        self._is_over = True
        self._abandon()
        self._scope.cancel()
        self._objecter.remove_linger(self)

    # As a Linger.

    def restart(self) -> None:
        """Register, or renew under the next generation."""
        self._abandon()
        if self._is_registered:
            self._generation += 1
            self._submit(WatchStep.RECONNECT, self._on_answer)
        else:
            self._submit(WatchStep.WATCH, self._on_answer)
        self.placement = self.target.placement

    def fail(self, error: RbdfsError, *, is_closing: bool = False) -> None:
        """The watch is gone."""
        if self._is_over:
            return
        self._end()
        if self._settled.is_set():
            if not is_closing:
                self._tell(WatchLost(error))
        else:
            self._error = error
            self._settled.set()

    def on_event(self, event: WatchNotify, data: Buffer) -> None:
        """Somebody notifies, or the OSD has dropped the watch."""
        if event.opcode == WatchOpcode.NOTIFY:
            self._tell(NotifyEvent(event.notify_id, event.notifier, event.payload))
        elif event.opcode == WatchOpcode.DISCONNECT:
            self.fail(NotConnected(f"{self.target}: the OSD has dropped the watch"))

    def _tell(self, event: WatchEvent) -> None:
        if self._early is not None:
            self._early.append(event)
            return
        try:
            self._callback(event)
        except Exception:  # the callee's bug must not end the session of all others
            log.exception("event of a watch on %s", self.target)

    # Its ops.

    def _submit(self, what: WatchStep, on_complete: OnComplete) -> None:
        """Do a step on the watch. None takes room, so a full pool is no obstacle; and to an OSD a ping is a read."""
        encoded = encode_watch(what, self._cookie, self._generation, self._seconds)
        self._op = self._objecter.submit_encoded(
            self.target, encoded, on_complete, is_write=what != WatchStep.PING, flags=OpFlag.FULL_TRY
        )

    def _abandon(self) -> None:
        if self._op is not None:
            self._objecter.abandon(self._op)
            self._op = None

    def _on_answer(self, outcome: Outcome) -> None:
        self._op = None
        if isinstance(outcome, RbdfsError):
            self.fail(outcome)
        else:
            self._is_registered = True
            self._settled.set()

    async def _keep(self) -> None:
        """Ping for as long as the watch lasts; a ping waits for what else is under way."""
        early, self._early = self._early or [], None
        for event in early:
            self._tell(event)
        with self._scope:
            while True:
                await trio.sleep(min(_PING_SECONDS, self._seconds / 3))
                if self._op is None:
                    self._submit(WatchStep.PING, self._on_answer)


class Notification:
    """A notify, until all watchers have answered or the OSD's time for them is over.

    As any op, it waits for as long as nobody takes it; from then on the OSD has to answer within the time it was given.
    """

    def __init__(self, objecter: "Objecter", target: ObjectTarget, payload: bytes, seconds: float) -> None:
        self.target = target
        self.placement: Placement | None = None
        self.cookie = objecter.next_cookie()
        self._objecter = objecter
        self._seconds = max(1, math.ceil(seconds))
        self._step = encode_notify(self.cookie, self._seconds, payload)
        self._op: PendingOp | None = None
        self._notify_id = 0  # the OSD's number for it, once known
        self._done = trio.Event()
        self._patience = trio.CancelScope()
        self._outcome: NotifyReply | RbdfsError | None = None

    async def run(self) -> NotifyReply:
        """Notify, and wait for the answers."""
        self._objecter.add_linger(self)
        try:
            with self._patience:
                await self._done.wait()
        finally:
            self._abandon()
            self._objecter.remove_linger(self)
        if self._outcome is None:
            raise TimedOut(f"{self.target}: an OSD took a notify and never said who has answered it")
        if isinstance(self._outcome, RbdfsError):
            raise self._outcome
        return self._outcome

    def restart(self) -> None:
        """Notify anew: watchers may hear it twice."""
        self._abandon()
        self._notify_id, self._patience.deadline = 0, math.inf
        self._op = self._objecter.submit_encoded(self.target, self._step, self._on_sent)
        self.placement = self.target.placement

    def fail(self, error: RbdfsError, *, is_closing: bool = False) -> None:
        """End it with an error."""
        self._finish(error)

    def on_event(self, event: WatchNotify, data: Buffer) -> None:
        """The answers are here."""
        if event.opcode != WatchOpcode.NOTIFY_COMPLETE or event.notify_id != (self._notify_id or event.notify_id):
            return
        if event.return_code < 0 and event.return_code != _ETIMEDOUT:
            self._finish(from_result(event.return_code, f"{self.target}: notify"))
            return
        try:
            self._finish(NotifyReply(*NotifyResult.from_bytes(data)))
        except WireError as err:
            self._finish(Corrupt(f"{self.target}: answers to a notify: {err}"))

    def _on_sent(self, outcome: Outcome) -> None:
        self._op = None
        if isinstance(outcome, RbdfsError):
            self._finish(outcome)
        else:
            self._notify_id = outcome.outputs[0] if outcome.outputs else 0
            self._patience.deadline = trio.current_time() + self._seconds + _GRACE_SECONDS

    def _finish(self, outcome: NotifyReply | RbdfsError) -> None:
        if not self._done.is_set():
            self._outcome = outcome
            self._done.set()

    def _abandon(self) -> None:
        if self._op is not None:
            self._objecter.abandon(self._op)
            self._op = None
