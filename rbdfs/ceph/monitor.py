"""The session with the monitors: maps as they change, commands, versions, tickets.

There is one session at a time, with any of the monitors. When it breaks, the next monitor is tried ("hunting"), with
the same global id; then the subscriptions are made again from the epoch that we have on, and requests without an answer
are sent again. So a caller sees a slow answer, never a lost one. What a repeated request may do twice is harmless: a
snapshot id is allocated that nobody uses; a pool that exists is reported as existing.
"""

import json
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from rbdfs.ceph.cephx.credentials import Credentials
from rbdfs.ceph.messages import (
    ConfigMessage,
    Message,
    MessageType,
    MonCommand,
    MonCommandAck,
    MonGetVersion,
    MonGetVersionReply,
    MonMapMessage,
    MonSubscribe,
    OSDMapMessage,
    Paxos,
    PoolOp,
    PoolOpCode,
    PoolOpReply,
    Statfs,
    StatfsReply,
    Subscription,
)
from rbdfs.ceph.monmap import MonMap
from rbdfs.ceph.msgr2.connection import OPEN_TIMEOUT, Connection, ConnectionLost, Identity
from rbdfs.ceph.msgr2.login import Mode
from rbdfs.entities import EntityAddr, EntityType
from rbdfs.errors import AuthenticationFailed, NotSupported, RbdfsError, TimedOut, from_result
from rbdfs.rados.ops import PoolId, SnapId
from rbdfs.wire import Buffer, Cursor

log = logging.getLogger(__name__)

_DIAL_SECONDS = 3.0  # per monitor in the first round of a hunt (librados: mon_client_hunt_interval)
_FIRST_PAUSE, _MAX_PAUSE = 0.1, 3.0  # between two rounds of all monitors
_SHORT_LIFE = 1.0  # of a session that had better not been begun
_RENEW_RETRY = 5.0  # after a renewal that got no answer
_CONFIG_SECONDS = 3.0  # for the configuration to come, which monitors send at the beginning of a session


class MapConsumer(Protocol):
    """Who follows the OSD map: the objecter."""

    @property
    def epoch(self) -> int:
        """The epoch that it has; 0 before the first map."""

    def on_maps(self, message: OSDMapMessage) -> None:
        """Take maps."""

    def on_identity(self, my_addr: EntityAddr, *, is_new: bool) -> None:
        """The cluster knows us by this address, and where that `is_new`, takes us for another client than before."""


@dataclass(slots=True)
class _Request:
    """A message that waits for an answer, over several sessions if it must."""

    message: Message
    answered: trio.Event = field(default_factory=trio.Event)
    front: bytes = b""
    data: Buffer = b""


class MonitorClient:
    """A session with some monitor, kept for as long as `run` runs."""

    def __init__(
        self,
        addresses: Sequence[EntityAddr],
        credentials: Credentials,
        identity: Identity,
        modes: Sequence[Mode],
        timeout: float | None = None,
        refusal_timeout: float = math.inf,
    ) -> None:
        self.credentials = credentials
        self._identity = identity
        self._modes = tuple(modes)
        self._timeout = timeout  # rados_mon_op_timeout: seconds that a request waits for its answer; None: for ever
        self._refusal_timeout = refusal_timeout  # seconds that the first hunt goes on where nobody listens
        self._seeds = list(addresses)  # until there is a monitor map
        self._failures: dict[EntityAddr, RbdfsError] = {}  # of this hunt: by monitor, the last one
        self._consumer: MapConsumer | None = None

        self.monmap: MonMap | None = None
        self.my_addr = EntityAddr()
        self.global_id = 0
        self._connection: Connection | None = None
        self._has_monmap = trio.Event()
        self._options: dict[str, str] = {}
        self._has_options = trio.Event()
        self._had_session = False
        self._requests: dict[int, _Request] = {}
        self._last_tid = 0
        self._renewal_wanted = trio.Event()
        self._renewed = trio.Event()

    # What the cluster asks of the monitors.

    async def command(self, prefix: str, **arguments: Any) -> tuple[str, bytes]:
        """Run a command as `ceph` does; gives the line for a person and the output."""
        words = json.dumps({"prefix": prefix, **arguments})
        request = await self._ask(MonCommand(Paxos(), await self.fsid(), [words]))
        ack = MonCommandAck.from_bytes(request.front)
        if ack.result < 0:
            raise from_result(ack.result, f"{prefix}: {ack.status}" if ack.status else prefix)
        return ack.status, bytes(request.data)

    async def newest_version(self, what: str) -> int:
        """The newest version of a map that the monitors have, such as `osdmap`."""
        request = await self._ask(MonGetVersion(self._next_tid(), what))
        return MonGetVersionReply.from_bytes(request.front).version

    async def create_snap_id(self, pool: PoolId) -> tuple[SnapId, int]:
        """A new snapshot id of a pool, and the epoch of the map that shows it."""
        reply = await self._pool_op(pool, PoolOpCode.CREATE_UNMANAGED_SNAP, 0)
        return SnapId(Cursor(reply.value or b"").u64()), reply.epoch

    async def remove_snap_id(self, pool: PoolId, snap_id: SnapId) -> int:
        """Give up a snapshot id; gives the epoch of the map that shows it."""
        return (await self._pool_op(pool, PoolOpCode.DELETE_UNMANAGED_SNAP, snap_id)).epoch

    async def _pool_op(self, pool: PoolId, code: PoolOpCode, snap_id: int) -> PoolOpReply:
        request = await self._ask(PoolOp(Paxos(), await self.fsid(), pool, code, snap_id=snap_id))
        reply = PoolOpReply.from_bytes(request.front)
        if reply.result < 0:
            raise from_result(reply.result, f"pool {pool}: {code.name.lower().replace('_', ' ')}")
        return reply

    async def statfs(self, pool: PoolId) -> StatfsReply:
        """How full a pool is."""
        request = await self._ask(Statfs(Paxos(), await self.fsid(), True, pool))
        return StatfsReply.from_bytes(request.front)

    async def fsid(self) -> bytes:
        """The cluster's id, once it is known."""
        await self._has_monmap.wait()
        assert self.monmap is not None
        return self.monmap.fsid.bytes

    async def options(self) -> dict[str, str]:
        """What the cluster's configuration database sets for this client (`ceph config set client ...`)."""
        with trio.move_on_after(_CONFIG_SECONDS):
            await self._has_options.wait()
        return self._options

    @property
    def session_address(self) -> EntityAddr | None:
        """Which monitor the session is with; None between two sessions."""
        return None if self._connection is None else self._connection.address

    def want_maps(self, *, full: bool = False) -> None:
        """Ask for the OSD maps after the consumer's, because some are missing; or for the newest one, whole."""
        if self._connection is not None:
            self._send(MonSubscribe({"osdmap": Subscription(0 if full else self._next_epoch())}))

    async def renew_tickets(self) -> None:
        """Get new tickets, because an OSD does not accept those we have."""
        renewed = self._renewed
        self._renewal_wanted.set()
        await renewed.wait()

    # Requests.

    def _next_tid(self) -> int:
        return self._last_tid + 1

    async def _ask(self, message: Message) -> _Request:
        self._last_tid += 1
        tid = self._last_tid
        request = self._requests[tid] = _Request(message)
        try:
            self._send(message, tid)
            with trio.CancelScope(deadline=trio.current_time() + (self._timeout or math.inf)):
                await request.answered.wait()
                return request
        finally:
            self._requests.pop(tid, None)
        raise TimedOut(f"no monitor answered within {self._timeout:g} s")

    def _send(self, message: Message, tid: int = 0) -> None:
        if self._connection is not None:
            self._connection.send(
                message.TYPE, message.to_bytes(), tid=tid, version=message.VERSION, compat=message.COMPAT
            )

    # The session.

    async def run(self, consumer: MapConsumer, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a session; started once the first one stands."""
        self._consumer = consumer
        pause = 0.0
        while True:
            connection = await self._hunt()
            began = trio.current_time()
            self._begin(connection)
            if not self._had_session:
                self._had_session = True
                task_status.started()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_tickets, connection)
                    await self._receive(connection)
            except* ConnectionLost as lost:
                log.info("session with a monitor lost: %s", lost.exceptions[0])
            finally:
                self._connection = None
                connection.close()
            is_flapping = trio.current_time() - began < _SHORT_LIFE
            pause = min(max(pause * 2, _FIRST_PAUSE), _MAX_PAUSE) if is_flapping else 0.0
            if pause > _FIRST_PAUSE:  # not the first time
                await trio.sleep(pause)

    async def _receive(self, connection: Connection) -> None:
        await connection.run(self._on_message)

    def _begin(self, connection: Connection) -> None:
        """Subscribe, and ask again what has no answer yet."""
        assert self._consumer is not None
        self._connection = connection
        is_new = self.global_id not in (0, connection.global_id)
        if is_new:
            log.warning("the tickets were lost, and the global id with them")
        self.my_addr, self.global_id = connection.my_addr, connection.global_id
        self._consumer.on_identity(self.my_addr, is_new=is_new)
        self._on_new_tickets()  # the login has brought them
        known = 0 if self.monmap is None else self.monmap.epoch + 1
        wanted = {"monmap": known, "osdmap": self._next_epoch(), "config": 0}
        self._send(MonSubscribe({what: Subscription(version) for what, version in wanted.items()}))
        for tid, request in self._requests.items():
            self._send(request.message, tid)

    def _next_epoch(self) -> int:
        assert self._consumer is not None
        return self._consumer.epoch + 1 if self._consumer.epoch else 0

    def _on_message(self, kind: int, tid: int, version: int, front: memoryview, data: Buffer) -> None:
        if kind == MessageType.OSD_MAP:
            assert self._consumer is not None
            self._consumer.on_maps(OSDMapMessage.from_bytes(front))
        elif kind == MessageType.MON_MAP:
            self.monmap = MonMap.from_bytes(MonMapMessage.from_bytes(front).monmap)
            self._has_monmap.set()
        elif kind == MessageType.CONFIG:
            self._options = ConfigMessage.from_bytes(front).options
            self._has_options.set()
        elif kind == MessageType.AUTH_REPLY:
            self._on_renewal_reply(front)
        else:
            request = self._requests.get(tid)
            if request is not None and not request.answered.is_set():
                request.front, request.data = bytes(front), data
                request.answered.set()

    def _on_renewal_reply(self, front: memoryview) -> None:
        try:
            self.credentials.on_renewal_reply(front, trio.current_time())
        except AuthenticationFailed as err:
            self._log_in_again(err)
        else:
            self._on_new_tickets()

    def _on_new_tickets(self) -> None:
        renewed, self._renewed = self._renewed, trio.Event()
        renewed.set()

    async def _keep_tickets(self, connection: Connection) -> None:
        """Renew the tickets before they expire, and when somebody wants new ones."""
        credentials = self.credentials
        while True:
            with trio.CancelScope(deadline=min(credentials.renew_at, credentials.login_again_at)):
                await self._renewal_wanted.wait()
            self._renewal_wanted = trio.Event()
            renewed, now = self._renewed, trio.current_time()
            try:
                if now >= credentials.login_again_at:
                    raise AuthenticationFailed("the AUTH ticket is about to end")
                connection.send(MessageType.AUTH, credentials.renewal_request(now))
            except AuthenticationFailed as err:
                self._log_in_again(err)
                return
            with trio.move_on_after(_RENEW_RETRY) as patience:
                await renewed.wait()
            if patience.cancelled_caught:
                self._renewal_wanted.set()

    def _log_in_again(self, reason: AuthenticationFailed) -> None:
        """A new login shows the old ticket, and keeps the global id by it."""
        log.info("logging in again: %s", reason)
        if self._connection is not None:
            self._connection.close()

    # Finding a monitor.

    async def _hunt(self) -> Connection:
        """Connect to one monitor, in random order, again and again until one answers."""
        pause, patience, refusal, began = _FIRST_PAUSE, _DIAL_SECONDS, None, trio.current_time()
        self._failures.clear()
        while True:
            for address in random.sample(self.addresses, len(self.addresses)):
                try:
                    return await self._dial(address, patience)
                except ConnectionLost as err:
                    if str(err) != str(self._failures.get(address)):
                        log.info("monitor %s: %s", address, err)
                    self._failures[address] = err
                except (AuthenticationFailed, NotSupported) as err:
                    self._failures[address] = refusal = err
                    log.log(logging.WARNING if self._had_session else logging.INFO, "monitor %s: %s", address, err)
            # The global id goes with the tickets, and all locks and watches with it: not before all have been asked.
            if any(isinstance(failure, AuthenticationFailed) for failure in self._failures.values()):
                self.credentials.forget_tickets()
            if not self._had_session:
                if refusal is not None:
                    raise refusal
                if trio.current_time() - began >= self._refusal_timeout and self._nobody_listens:
                    raise TimedOut(f"no monitor there: {self.trouble}")
            await trio.sleep(pause)
            pause, patience = min(pause * 2, _MAX_PAUSE), min(patience * 2, OPEN_TIMEOUT)

    @property
    def _nobody_listens(self) -> bool:
        return all(isinstance(error.__cause__, ConnectionRefusedError) for error in self._failures.values())

    @property
    def trouble(self) -> str:
        """Of each monitor, why there is no session with it; empty where there is one with some."""
        if self._connection is not None:
            return ""
        return "; ".join(f"{address.endpoint}: {self._why_not(address)}" for address in self.addresses)

    def _why_not(self, address: EntityAddr) -> str:
        error = self._failures.get(address)
        return "not tried yet" if error is None else str(error).removeprefix(f"{address}: ")

    @property
    def addresses(self) -> list[EntityAddr]:
        """Where the monitors are: by their map, or before there is one by the configuration."""
        if self.monmap is None:
            return self._seeds
        found = (info.addresses.msgr2 for info in self.monmap.monitors.values())
        return [address for address in found if address is not None] or self._seeds

    async def _dial(self, address: EntityAddr, patience: float) -> Connection:
        with trio.move_on_after(patience):
            login = self.credentials.monitor_login(trio.current_time())
            return await Connection.open(address, EntityType.MON, login, self._identity, modes=self._modes)
        raise ConnectionLost(f"no answer within {patience:g} s")
