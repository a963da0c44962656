"""The session with the monitors, against monitors in memory: what breaks is made good, and nobody waits in vain."""

import json
import math
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
import trio

from rbdfs.ceph.messages import (
    ConfigMessage,
    MessageType,
    MonCommand,
    MonCommandAck,
    MonGetVersion,
    MonGetVersionReply,
    MonSubscribe,
    OSDMapMessage,
    Paxos,
    PoolOp,
    PoolOpCode,
    PoolOpReply,
    Subscription,
)
from rbdfs.ceph.monitor import MonitorClient
from rbdfs.ceph.monmap import MonInfo, MonMap
from rbdfs.ceph.msgr2.connection import ConnectionLost, Identity
from rbdfs.entities import AddrType, AddrVec, EntityAddr
from rbdfs.errors import AuthenticationFailed, NotFound, NotSupported, TimedOut
from rbdfs.rados.ops import PoolId
from rbdfs.wire import Buffer

FSID = UUID(int=5)
MY_ADDR = EntityAddr(AddrType.ANY, "10.0.0.9", 0, 77)


def address(port: int) -> EntityAddr:
    return EntityAddr(AddrType.MSGR2, "10.0.0.1", port)


class Session:
    """One connection, the monitor's side."""

    def __init__(self, monitors: "Monitors", where: EntityAddr) -> None:
        self.address = where
        self.my_addr = MY_ADDR
        self.global_id = monitors.global_id
        self.monitors = monitors
        self.over = trio.Event()
        self.sent: list[tuple[int, int, bytes]] = []  # kind, tid, front

    def send(self, kind: int, front: Buffer, data: Sequence[Buffer] = (), *, tid: int = 0, **_: int) -> None:
        self.sent.append((kind, tid, bytes(front)))

    async def run(self, on_message) -> None:  # type: ignore[no-untyped-def]
        self.on_message = on_message
        await self.over.wait()
        raise ConnectionLost("cut")

    def close(self) -> None:
        self.over.set()

    def receive(self, kind: int, front: bytes, tid: int = 0, data: bytes = b"") -> None:
        self.on_message(kind, tid, 1, memoryview(front), data)

    def of(self, kind: MessageType) -> list[tuple[int, bytes]]:
        """The messages of a kind: tid and front."""
        return [(tid, front) for found, tid, front in self.sent if found == kind]


class Credentials:
    """No tickets that would end, but as many logins as are asked for."""

    renew_at = login_again_at = math.inf
    forgotten = renewals = 0

    def monitor_login(self, now: float) -> None:
        pass

    def forget_tickets(self) -> None:
        self.forgotten += 1

    def renewal_request(self, now: float) -> bytes:
        return b"please"

    def on_renewal_reply(self, front: memoryview, now: float) -> None:
        if front == b"no":
            raise AuthenticationFailed("no")
        self.renewals += 1


class Follower:
    """Follows the OSD map; notes what it hears."""

    def __init__(self) -> None:
        self.epoch = 0
        self.identities: list[bool] = []

    def on_maps(self, message: OSDMapMessage) -> None:
        self.epoch = message.newest

    def on_identity(self, my_addr: EntityAddr, *, is_new: bool) -> None:
        assert my_addr == MY_ADDR
        self.identities.append(is_new)


class Client(MonitorClient):
    """Dials in memory."""

    monitors: "Monitors"

    async def _dial(self, where: EntityAddr, patience: float) -> Session:  # type: ignore[override]
        await trio.lowlevel.checkpoint()
        self.monitors.dialled.append(where)
        if where in self.monitors.refusals:
            raise self.monitors.refusals[where]
        session = Session(self.monitors, where)
        self.monitors.sessions.append(session)
        return session


class Monitors:
    """Some monitors and their one client."""

    def __init__(self, count: int = 3, timeout: float | None = None) -> None:
        self.addresses = [address(3300 + number) for number in range(count)]
        self.refusals: dict[EntityAddr, Exception] = {}
        self.dialled: list[EntityAddr] = []
        self.sessions: list[Session] = []
        self.global_id = 4100
        self.credentials = Credentials()
        self.follower = Follower()
        self.client = Client(self.addresses, self.credentials, Identity(1), (), timeout)  # type: ignore[arg-type]
        self.client.monitors = self

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """A client with a session, and the monitor map."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.client.run, self.follower)
            infos = {f"m{where.port}": MonInfo(f"m{where.port}", AddrVec([where])) for where in self.addresses}
            self.client.monmap = MonMap(FSID, 3, infos)
            self.client._has_monmap.set()
            await self.settle()
            yield self.client
            nursery.cancel_scope.cancel()

    @property
    def session(self) -> Session:
        """The one that lives."""
        return self.sessions[-1]

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked(0.001)


def subscriptions(session: Session) -> dict[str, Subscription]:
    [(_, front)] = session.of(MessageType.MON_SUBSCRIBE)
    return MonSubscribe.from_bytes(front).what


async def test_the_first_session_asks_for_whole_maps_and_a_later_one_for_what_follows(autojump_clock: object) -> None:
    monitors = Monitors()
    async with monitors.connected():
        first = {"monmap": Subscription(0), "osdmap": Subscription(0), "config": Subscription(0)}
        assert subscriptions(monitors.session) == first
        monitors.session.receive(MessageType.OSD_MAP, OSDMapMessage(FSID.bytes, {}, {}, 1, 17).to_bytes())
        monitors.session.close()
        await monitors.settle()
        later = {"monmap": Subscription(4), "osdmap": Subscription(18), "config": Subscription(0)}
        assert subscriptions(monitors.session) == later
        assert monitors.follower.identities == [False, False]


async def test_the_configuration_is_waited_for_and_follows_its_database(autojump_clock: object) -> None:
    monitors = Monitors()
    async with monitors.connected() as client:
        assert await client.options() == {}  # some seconds later
        for options in ({"rbd_default_order": "20", "debug_rbd": "5"}, {"debug_rbd": "5"}, {}):
            monitors.session.receive(MessageType.CONFIG, ConfigMessage(options).to_bytes())
            assert await client.options() == options


async def test_a_command_gives_its_output_and_its_status() -> None:
    monitors = Monitors()
    answers: list[tuple[str, bytes]] = []
    async with monitors.connected() as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await client.command("osd dump", format="json"))

        nursery.start_soon(ask)
        await monitors.settle()
        [(tid, front)] = monitors.session.of(MessageType.MON_COMMAND)
        command = MonCommand.from_bytes(front)
        assert json.loads(command.words[0]) == {"prefix": "osd dump", "format": "json"}
        assert command.fsid == FSID.bytes
        other = MonCommandAck(Paxos(), 0, "somebody else's").to_bytes()
        monitors.session.receive(MessageType.MON_COMMAND_ACK, other, tid + 1)
        ack = MonCommandAck(Paxos(), 0, "dumped").to_bytes()
        monitors.session.receive(MessageType.MON_COMMAND_ACK, ack, tid, b"{}")
    assert answers == [("dumped", b"{}")]


async def test_a_command_that_fails_says_why() -> None:
    monitors = Monitors()
    async with monitors.connected() as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(NotFound, match="osd pool rm: no pool of that name"):
                await client.command("osd pool rm")

        nursery.start_soon(ask)
        await monitors.settle()
        [(tid, _)] = monitors.session.of(MessageType.MON_COMMAND)
        ack = MonCommandAck(Paxos(), -2, "no pool of that name").to_bytes()
        monitors.session.receive(MessageType.MON_COMMAND_ACK, ack, tid)


async def test_questions_without_an_answer_are_asked_again_in_the_next_session(autojump_clock: object) -> None:
    monitors = Monitors()
    answers: list[int] = []
    async with monitors.connected() as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await client.newest_version("osdmap"))

        nursery.start_soon(ask)
        await monitors.settle()
        first = monitors.session.of(MessageType.MON_GET_VERSION)
        monitors.session.close()
        await monitors.settle()
        assert monitors.session.of(MessageType.MON_GET_VERSION) == first
        [(tid, front)] = first
        handle = MonGetVersion.from_bytes(front).handle
        reply = MonGetVersionReply(handle, 42, 1).to_bytes()
        monitors.session.receive(MessageType.MON_GET_VERSION_REPLY, reply, tid)
    assert answers == [42]


async def test_a_question_that_nobody_waits_for_is_not_asked_again(autojump_clock: object) -> None:
    monitors = Monitors()
    async with monitors.connected() as client:
        with trio.move_on_after(1):
            await client.newest_version("osdmap")
        monitors.session.close()
        await monitors.settle()
        assert not monitors.session.of(MessageType.MON_GET_VERSION)


async def test_a_time_limit_ends_a_question(autojump_clock: object) -> None:
    monitors = Monitors(timeout=7)
    async with monitors.connected() as client:
        began = trio.current_time()
        with pytest.raises(TimedOut):
            await client.newest_version("osdmap")
        assert trio.current_time() - began == pytest.approx(7)


async def test_snapshot_ids_come_with_the_epoch_that_shows_them() -> None:
    monitors = Monitors()
    answers: list[tuple[int, int]] = []
    async with monitors.connected() as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await client.create_snap_id(PoolId(3)))

        nursery.start_soon(ask)
        await monitors.settle()
        [(tid, front)] = monitors.session.of(MessageType.POOL_OP)
        op = PoolOp.from_bytes(front)
        assert (op.pool, op.code) == (3, PoolOpCode.CREATE_UNMANAGED_SNAP)
        reply = PoolOpReply(Paxos(), FSID.bytes, 0, 99, (12).to_bytes(8, "little")).to_bytes()
        monitors.session.receive(MessageType.POOL_OP_REPLY, reply, tid)
    assert answers == [(12, 99)]


async def test_monitors_that_do_not_answer_are_passed_over(autojump_clock: object) -> None:
    monitors = Monitors()
    alive = monitors.addresses[1]
    monitors.refusals = {where: ConnectionLost("refused") for where in monitors.addresses if where != alive}
    async with monitors.connected():
        assert monitors.session.address == alive


async def test_all_are_tried_again_when_none_answers(autojump_clock: object) -> None:
    monitors = Monitors()
    monitors.refusals = dict.fromkeys(monitors.addresses, ConnectionLost("refused"))
    with trio.move_on_after(60):
        await monitors.client.run(monitors.follower)
    assert len(monitors.dialled) >= 30
    assert set(monitors.dialled) == set(monitors.addresses)


async def test_monitors_that_are_slow_are_given_more_time_from_round_to_round(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitors = Monitors()

    async def answer_slowly(where: EntityAddr, *_: object, **__: object) -> Session:
        await trio.sleep(10)
        return Session(monitors, where)

    monkeypatch.setattr("rbdfs.ceph.monitor.Connection.open", answer_slowly)
    client = MonitorClient(monitors.addresses, monitors.credentials, Identity(1), ())  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            await nursery.start(client.run, monitors.follower)
        nursery.cancel_scope.cancel()


async def test_a_client_that_no_monitor_accepts_is_told_so(autojump_clock: object) -> None:
    monitors = Monitors()
    monitors.refusals = dict.fromkeys(monitors.addresses, AuthenticationFailed("wrong key"))
    with pytest.raises(AuthenticationFailed, match="wrong key"):
        await monitors.client.run(monitors.follower)
    assert set(monitors.dialled) == set(monitors.addresses)


@pytest.mark.complains("expired", "the tickets were lost")
async def test_lost_tickets_cost_the_identity_and_it_is_said(autojump_clock: object) -> None:
    monitors = Monitors()
    async with monitors.connected():
        monitors.refusals = dict.fromkeys(monitors.addresses, AuthenticationFailed("expired"))
        monitors.session.close()
        await monitors.settle()
        monitors.refusals.clear()
        monitors.global_id = 4200
        await trio.sleep(10)
        assert monitors.credentials.forgotten >= 1
        assert monitors.follower.identities == [False, True]


async def test_tickets_are_renewed_when_an_osd_refuses_them(autojump_clock: object) -> None:
    monitors = Monitors()
    async with monitors.connected() as client, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(client.renew_tickets)
        await monitors.settle()
        assert monitors.session.of(MessageType.AUTH) == [(0, b"please")]
        monitors.session.receive(MessageType.AUTH_REPLY, b"here")
    assert monitors.credentials.renewals == 1


async def test_a_renewal_without_an_answer_is_asked_for_again(autojump_clock: object) -> None:
    monitors = Monitors()
    async with monitors.connected() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.renew_tickets)
        await trio.sleep(12)
        assert monitors.session.of(MessageType.AUTH) == [(0, b"please")] * 3
        monitors.session.receive(MessageType.AUTH_REPLY, b"here")


async def test_a_refused_renewal_means_a_new_login(autojump_clock: object) -> None:
    monitors = Monitors()
    async with monitors.connected() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.renew_tickets)
        await monitors.settle()
        monitors.session.receive(MessageType.AUTH_REPLY, b"no")
    assert len(monitors.sessions) == 2  # which brought new tickets: nobody waits any more


@pytest.mark.complains("is no Ceph daemon")
async def test_one_odd_monitor_does_not_cost_the_identity(autojump_clock: trio.testing.MockClock) -> None:
    for seed in range(5):
        random.seed(seed)
        monitors = Monitors()
        async with monitors.connected():
            odd = next(address for address in monitors.addresses if address != monitors.session.address)
            monitors.refusals = {odd: NotSupported(f"{odd} is no Ceph daemon")}
            monitors.session.close()
            await monitors.settle()
            assert not monitors.credentials.forgotten
