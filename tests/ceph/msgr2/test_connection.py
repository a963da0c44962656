"""A connection on a real socket, the other end of which the test holds."""

import itertools
import math
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
from ceph.monitor_peer import MonitorPeer, TicketMonitor, new_key

from rbdfs.ceph.cephx.credentials import Credentials
from rbdfs.ceph.cephx.keys import KeyType
from rbdfs.ceph.msgr2.buffers import BufferPool
from rbdfs.ceph.msgr2.connection import (
    KEEPALIVE_INTERVAL,
    KEEPALIVE_TIMEOUT,
    OPEN_TIMEOUT,
    Connection,
    ConnectionLost,
    Identity,
)
from rbdfs.ceph.msgr2.frames import CrcFrames, FrameCodec, Tag
from rbdfs.ceph.msgr2.handshake import Established
from rbdfs.ceph.msgr2.login import Mode
from rbdfs.ceph.msgr2.secure import SecureFrames
from rbdfs.entities import AddrType, AddrVec, EntityAddr, EntityType
from rbdfs.errors import StoreFailure

HEADER = struct.Struct("<QQHHHIHQBHH")
SECRET = bytes(range(64))
Received = tuple[int, int, int, bytes, bytes]


class Peer:
    """The daemon's end of a connection."""

    def __init__(self, sock: socket.socket, codec: FrameCodec) -> None:
        self.socket = trio.socket.from_stdlib_socket(sock)
        self.codec = codec
        self.buffer = b""
        self.seq = 0

    def message(self, kind: int, tid: int = 0, front: bytes = b"", data: bytes = b"") -> bytes:
        self.seq += 1
        header = HEADER.pack(self.seq, tid, kind, 127, 1, 0, 0, 0, 0, 1, 0)
        return b"".join(self.codec.encode_message(header, front, [data] if data else []))

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[await self.socket.send(view) :]

    async def receive_frame(self) -> tuple[int, list[bytes]]:
        while True:
            view = memoryview(self.buffer)
            frame = self.codec.decode(view, 0, len(view))
            if frame is not None:
                tag, segments, size = frame
                self.buffer = self.buffer[size:]
                return tag, [bytes(segment) for segment in segments]
            received = await self.socket.recv(1 << 20)
            assert received, "the client closed the connection"
            self.buffer += received


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs = server.accept()[0]
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def sock_now(peer: Peer) -> bytes:
    """What has already come."""
    with socket.socket(fileno=os.dup(peer.socket.fileno())) as sock:
        return sock.recv(1 << 20)


@asynccontextmanager
async def connected(
    mode: Mode = Mode.CRC,
    leftover: bytes = b"",
    pair: Callable[[], tuple[socket.socket, socket.socket]] = socket.socketpair,
) -> AsyncIterator[tuple[Connection, Peer]]:
    """A connection that is established, not yet running, and its peer."""
    ours, theirs = pair()
    ours.setblocking(False)
    theirs.setblocking(False)
    secure = mode == Mode.SECURE
    established = Established(
        my_addr=EntityAddr(3, "127.0.0.1", 0, 7),
        peer_addrs=AddrVec(),
        peer_id=0,
        peer_features=0,
        global_id=1,
        mode=mode,
        codec=SecureFrames(SECRET, BufferPool()) if secure else CrcFrames(),
        leftover=leftover,
    )
    connection = Connection(ours, EntityAddr(2, "10.0.0.1", 6800, 1), Identity(), established)
    peer = Peer(theirs, SecureFrames(SECRET, BufferPool(), as_server=True) if secure else CrcFrames())
    try:
        yield connection, peer
    finally:
        connection.close()
        peer.socket.close()


async def run_until_lost(connection: Connection, on_message: Callable[..., None]) -> ConnectionLost:
    with pytest.raises(ConnectionLost) as lost:
        await connection.run(on_message)
    return lost.value


def collect(into: list[Received]) -> Callable[..., None]:
    def on_message(kind: int, tid: int, version: int, front: memoryview, data: Any) -> None:
        into.append((kind, tid, version, bytes(front), bytes(data)))

    return on_message


BOTH_MODES = pytest.mark.parametrize("mode", list(Mode))


@BOTH_MODES
async def test_messages_of_one_turn_leave_in_one_system_call(mode: Mode) -> None:
    packets = partial(socket.socketpair, type=socket.SOCK_SEQPACKET)  # one packet a call
    async with connected(mode, pair=packets) as (connection, peer):
        for tid in range(20):
            connection.send(42, b"front", (b"data" * 100,), tid=tid, version=8, compat=3, priority=63)
        peer.buffer = await peer.socket.recv(1 << 20)
        for tid in range(20):
            tag, segments = await peer.receive_frame()
            assert tag == Tag.MESSAGE
            assert HEADER.unpack(segments[0]) == (tid + 1, tid, 42, 63, 8, 0, 0, 0, 0, 3, 0)
            assert segments[1:] == [b"front", b"", b"data" * 100]
        assert peer.buffer == b""


@BOTH_MODES
async def test_many_messages_come_in_order(mode: Mode) -> None:
    async with connected(mode) as (connection, peer):
        got: list[Received] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, collect(got))
            sent = [(43, tid, 1, b"f" * (tid % 300), b"d" * (tid * 37 % 70000)) for tid in range(400)]
            await peer.send(b"".join(peer.message(kind, tid, front, data) for kind, tid, _, front, data in sent))
            peer.socket.close()
        assert got == sent


@BOTH_MODES
async def test_data_belongs_to_the_callee_for_ever(mode: Mode) -> None:
    async with connected(mode) as (connection, peer):
        kept: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, lambda *message: kept.append(message[4]))
            sizes = [4096, 40000, 100000, 3 << 20, 100, 1 << 20, 65536, 250000] * 3
            for number, size in enumerate(sizes):
                await peer.send(peer.message(43, number, b"front", bytes([number + 1]) * size))
            peer.socket.close()
        assert [bytes(data) for data in kept] == [bytes([n + 1]) * size for n, size in enumerate(sizes)]


@BOTH_MODES
async def test_large_message_leaves_at_once_and_in_its_order(mode: Mode) -> None:
    async with connected(mode) as (connection, peer):
        connection.send(42, b"small", tid=0)
        connection.send(42, b"large", (bytes(150_000),), tid=1)
        connection.send(42, b"small", tid=2)
        peer.buffer = sock_now(peer)
        for tid in range(2):
            _, segments = await peer.receive_frame()
            assert HEADER.unpack(segments[0])[1] == tid
        assert peer.buffer == b""
        assert HEADER.unpack((await peer.receive_frame())[1][0])[1] == 2


@BOTH_MODES
async def test_more_than_the_socket_takes_is_sent_later(mode: Mode) -> None:
    async with connected(mode) as (connection, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, collect([]))
            for number in range(5):
                connection.send(42, b"big", (bytes([number]) * (4 << 20),), tid=number)
            connection.send(42, b"last", tid=5)
            for number in range(5):
                _, segments = await peer.receive_frame()
                assert segments[3] == bytes([number]) * (4 << 20)
            assert (await peer.receive_frame())[1][1] == b"last"
            connection.send(42, b"after")
            assert (await peer.receive_frame())[1][1] == b"after"
            connection.close()


@BOTH_MODES
async def test_what_is_unsent_may_be_copied_and_its_buffers_used_again(mode: Mode) -> None:
    async with connected(mode) as (connection, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, collect([]))
            buffers = [bytearray(b"a" * (4 << 20)) for _ in range(3)]
            for buffer in buffers:
                connection.send(42, b"big", (memoryview(buffer),))
            connection.copy_unsent()
            for buffer in buffers:
                buffer[:] = b"z" * len(buffer)
            for _ in buffers:
                _, segments = await peer.receive_frame()
                assert segments[3] == b"a" * (4 << 20)
            connection.close()


async def test_connection_lost_with_a_full_socket_ends_cleanly() -> None:
    async with connected() as (connection, peer):
        connection.send(42, b"big", (bytes(16 << 20),))
        await trio.testing.wait_all_tasks_blocked()
        connection.close()
        assert "closed" in str(await run_until_lost(connection, collect([])))
    async with connected() as (connection, peer):
        connection.send(42, b"big", (bytes(16 << 20),))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, collect([]))
            await trio.testing.wait_all_tasks_blocked()
            peer.socket.close()
        assert connection.lost is not None


async def test_what_came_with_the_handshake_is_not_lost() -> None:
    codec = CrcFrames()
    first = b"".join(codec.encode_message(HEADER.pack(1, 9, 4, 127, 1, 0, 0, 0, 0, 1, 0), b"map", []))
    async with connected(leftover=first[:50]) as (connection, peer):
        got: list[Received] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, collect(got))
            await peer.send(first[50:])
            peer.socket.close()
        assert got == [(4, 9, 1, b"map", b"")]


async def test_sequence_numbers_are_acknowledged() -> None:
    async with connected() as (connection, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, lambda *_: connection.send(43, b"answer"))
            for expected in (1, 2):
                await peer.send(peer.message(42, 0, b"question"))
                _, segments = await peer.receive_frame()
                assert HEADER.unpack(segments[0])[7] == expected
            connection.close()


async def test_peer_that_closes_is_a_lost_connection() -> None:
    async with connected() as (connection, peer):
        peer.socket.close()
        assert "closed by the peer" in str(await run_until_lost(connection, collect([])))
        connection.send(42, b"to nobody")


async def test_closing_ends_run() -> None:
    async with connected() as (connection, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, collect([]))
            await trio.testing.wait_all_tasks_blocked()
            connection.close()
        assert await peer.socket.recv(1) == b""


@pytest.mark.parametrize("damaged", [b"\0" * 32, CrcFrames().encode(Tag.SERVER_IDENT, b"x")])
async def test_nonsense_is_a_lost_connection(damaged: bytes) -> None:
    async with connected() as (connection, peer):
        await peer.send(damaged)
        assert "10.0.0.1" in str(await run_until_lost(connection, collect([])))


async def test_error_of_the_callee_comes_out_of_run_as_it_was() -> None:
    async with connected() as (connection, peer):
        await peer.send(peer.message(42, 0, b"x"))

        def fail(*_: object) -> None:
            raise StoreFailure("here")

        with pytest.raises(StoreFailure, match="here"):
            await connection.run(fail)
        assert connection.lost is not None


async def test_peers_keepalive_is_answered() -> None:
    async with connected() as (connection, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, collect([]))
            await peer.send(peer.codec.encode(Tag.KEEPALIVE2, b"12345678"))
            assert await peer.receive_frame() == (Tag.KEEPALIVE2_ACK, [b"12345678"])
            connection.close()


async def test_thousand_idle_minutes_lose_no_session(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (connection, peer):
        asked: list[float] = []

        async def answer() -> None:
            with suppress(AssertionError, OSError, trio.ClosedResourceError):
                while True:
                    tag, segments = await peer.receive_frame()
                    assert tag == Tag.KEEPALIVE2
                    asked.append(trio.current_time())
                    await peer.send(peer.codec.encode(Tag.KEEPALIVE2_ACK, segments[0]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, collect([]))
            nursery.start_soon(answer)
            await trio.sleep(1000 * 60)
            assert connection.lost is None
            connection.close()
        pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
        assert max(pauses) <= 2 * KEEPALIVE_INTERVAL  # a monitor wants one in 300 s


async def test_peer_that_falls_silent_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (connection, _):
        start = trio.current_time()
        assert "silent" in str(await run_until_lost(connection, collect([])))
        assert KEEPALIVE_TIMEOUT <= trio.current_time() - start <= KEEPALIVE_TIMEOUT + 2 * KEEPALIVE_INTERVAL


@BOTH_MODES
async def test_large_message_may_come_slowly(mode: Mode, autojump_clock: trio.testing.MockClock) -> None:
    """The loop waits for pieces of 256 KiB; a peer that sends 20 KiB in ten seconds is not taken for dead."""
    autojump_clock.autojump_threshold = math.inf  # the kernel needs time to deliver
    async with connected(mode, pair=tcp_pair) as (connection, peer):
        got: list[Received] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, collect(got))
            wire = peer.message(43, 7, b"front", b"d" * 500_000)
            for start in range(0, len(wire), 20_000):
                await peer.send(wire[start : start + 20_000])
                autojump_clock.jump(KEEPALIVE_INTERVAL)
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert connection.lost is None
            assert got == [(43, 7, 1, b"front", b"d" * 500_000)]
            connection.close()


async def test_large_message_may_leave_slowly(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that takes a piece every ten seconds is not taken for dead, though it hears us ask only at the end."""
    autojump_clock.autojump_threshold = math.inf  # the kernel needs time to deliver
    async with connected(pair=tcp_pair) as (connection, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_lost, connection, collect([]))
            connection.send(42, b"big", (bytes(8 << 20),))
            size, steps = 8 << 20, 0
            while size > 0:
                size -= len(await peer.socket.recv(200_000))
                steps += 1
                await trio.testing.wait_all_tasks_blocked(0.01)
                autojump_clock.jump(KEEPALIVE_INTERVAL)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert connection.lost is None
            assert steps * KEEPALIVE_INTERVAL > 5 * KEEPALIVE_TIMEOUT
            connection.close()


async def test_peer_that_takes_nothing_more_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(pair=tcp_pair) as (connection, _):
        connection.send(42, b"big", (bytes(32 << 20),))
        start = trio.current_time()
        assert "silent" in str(await run_until_lost(connection, collect([])))
        assert trio.current_time() - start <= KEEPALIVE_TIMEOUT + 3 * KEEPALIVE_INTERVAL


async def test_client_has_one_address_whoever_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    key, identity = new_key(KeyType.AES), Identity()
    credentials, monitor = Credentials("client.x", key, os.urandom), MonitorPeer(TicketMonitor(key), b"")
    monkeypatch.setattr("rbdfs.ceph.msgr2.connection._connect", monitor.connect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.serve)
        for monitor.sees in ("10.0.0.9", "192.0.2.9", "2001:db8::9"):
            login = credentials.monitor_login(trio.current_time())
            (await Connection.open(monitor.address, EntityType.MON, login, identity)).close()
        nursery.cancel_scope.cancel()
    assert monitor.clients == [EntityAddr(AddrType.ANY, "10.0.0.9", 0, identity.nonce)] * 3


async def test_refused_connection_is_lost() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = EntityAddr(2, "127.0.0.1", sock.getsockname()[1])
    login = Credentials("client.x", None, bytes).monitor_login(0)
    with pytest.raises(ConnectionLost, match="Connection refused"):
        await Connection.open(address, EntityType.MON, login, Identity())


async def test_daemon_that_says_nothing_times_out(autojump_clock: trio.testing.MockClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = EntityAddr(2, "127.0.0.1", server.getsockname()[1])
        login = Credentials("client.x", None, bytes).monitor_login(0)
        with pytest.raises(ConnectionLost, match=f"no answer within {OPEN_TIMEOUT:g} s"):
            await Connection.open(address, EntityType.MON, login, Identity())


def test_clients_have_nonces_of_their_own() -> None:
    nonces = {Identity().nonce for _ in range(20)}
    assert len(nonces) == 20
    assert 0 not in nonces
