"""A connection to one daemon, on a trio socket; what it offers stands at the head of the package.

Receiving is one loop: wait until the socket is readable, take what is there in one call, hand every message in it to
the callee. Small data is copied out of the receive buffer, large data is handed out as a view of it, and the buffer is
then left to its viewers (`buffers`). Of a large message the loop waits for a good piece at a time.

Sending never waits. Small messages leave together at the end of the turn (`outbox`), large ones at once, so that the
peer receives one while the next is still being summed or encrypted. Where the socket's own buffer is full, a task of
`run` sends the rest.
"""

import fcntl
import logging
import os
import socket
import struct
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import trio

from rbdfs.ceph.msgr2.buffers import BufferPool, ReceiveWindow
from rbdfs.ceph.msgr2.frames import Tag
from rbdfs.ceph.msgr2.handshake import Established, Handshake
from rbdfs.ceph.msgr2.login import Login, Mode
from rbdfs.ceph.msgr2.outbox import current_outbox
from rbdfs.entities import EntityAddr, EntityType, UTime
from rbdfs.errors import ProtocolError, RbdfsError, WireError
from rbdfs.wire import Buffer

log = logging.getLogger(__name__)

OnMessage = Callable[[int, int, int, memoryview, Buffer], None]  # kind, tid, version, front, data

OPEN_TIMEOUT = 15.0  # for connecting and the handshake
KEEPALIVE_INTERVAL = 10.0  # a monitor drops a session that is silent for 300 s
KEEPALIVE_TIMEOUT = 30.0  # this long without a byte, although asked: the peer is gone (mon_client_ping_timeout)

# seq, tid, type, priority, version, data padding, data offset, ack seq, flags, compat version, reserved
_HEADER = struct.Struct("<QQHHHIHQBHH")
_KEEPALIVE_SIZE = 8
_LEND = 32 << 10  # data from this size on is not copied out of the receive buffer
_BURST = 4 << 20  # received without letting other tasks run
_PIECE = 256 << 10  # of a large message that is worth waking up for
_AT_ONCE = 128 << 10  # a message with so large a buffer does not wait for the end of the turn
_MAX_BUFFERS = 1024  # IOV_MAX
_NO_FRONT = memoryview(b"")


class ConnectionLost(RbdfsError):
    """The connection broke, or we closed it; what was under way on it may or may not have been done."""


@dataclass(slots=True)
class Identity:
    """What is the same on all connections of one client: first the address by which the cluster knows and fences it."""

    nonce: int = field(default_factory=lambda: int.from_bytes(os.urandom(4), "little") or 1)
    host: str = ""  # as the first peer sees us: others may see another one
    buffers: BufferPool = field(default_factory=BufferPool, repr=False)
    with_data_crc: bool = True  # ms_crc_data: False where peers may leave out the checksums of segments
    _global_seq: int = 0

    def next_global_seq(self) -> int:
        """The number of one more connection."""
        self._global_seq += 1
        return self._global_seq


class Connection:
    """An authenticated connection; made by `open`, received from by `run`."""

    def __init__(self, sock: socket.socket, address: EntityAddr, identity: Identity, session: Established) -> None:
        self.address = address
        self.my_addr = session.my_addr
        self.peer_addrs = session.peer_addrs
        self.peer_id = session.peer_id
        self.peer_features = session.peer_features
        self.global_id = session.global_id
        self.mode = session.mode
        self.lost: ConnectionLost | None = None  # why it is over
        self._socket = sock
        self._codec = session.codec
        self._buffers = identity.buffers
        self._leftover = session.leftover
        self._outbox = current_outbox()
        self._token = trio.lowlevel.current_trio_token()
        self._queue: list[Buffer] = []
        self._handed_over = 0  # bytes that the socket has taken
        self._is_stuck = False  # the socket's buffer is full; a task waits for room
        self._room_wanted = trio.Event()
        self._low_water = 1  # bytes that make the socket readable
        self._out_seq = self._in_seq = 0
        self._has_heard = self._has_sent = True  # since the last look of `_keep_alive`

    @classmethod
    async def open(
        cls,
        address: EntityAddr,
        peer_type: EntityType,
        login: Login,
        identity: Identity,
        *,
        modes: Sequence[Mode] = (Mode.CRC, Mode.SECURE),
    ) -> Self:
        """Connect and authenticate; `modes` in order of preference."""
        handshake = Handshake(
            address,
            peer_type,
            login,
            nonce=identity.nonce,
            host=identity.host,
            global_seq=identity.next_global_seq(),
            modes=modes,
            buffers=identity.buffers,
            with_data_crc=identity.with_data_crc,
        )
        with trio.move_on_after(OPEN_TIMEOUT):
            try:
                sock = await _connect(address)
                try:
                    session = await _shake_hands(sock, handshake)
                    identity.host = identity.host or session.my_addr.host
                    return cls(sock, address, identity, session)
                except BaseException:
                    sock.close()
                    raise
            except OSError as err:
                raise ConnectionLost(f"{address}: {err.strerror or err}") from err
            except (WireError, ProtocolError) as err:
                raise ConnectionLost(str(err)) from err
        raise ConnectionLost(f"{address}: no answer within {OPEN_TIMEOUT:g} s")

    def send(
        self,
        kind: int,
        front: Buffer,
        data: Sequence[Buffer] = (),
        *,
        tid: int = 0,
        version: int = 1,
        compat: int = 1,
        priority: int = 127,
    ) -> None:
        """Send a message, at the end of this turn of the loop or before; does nothing once the connection is lost."""
        if self.lost is not None:
            return
        self._out_seq += 1
        header = _HEADER.pack(self._out_seq, tid, kind, priority, version, 0, 0, self._in_seq, 0, compat, 0)
        self._enqueue(self._codec.encode_message(header, front, data))

    def copy_unsent(self) -> None:
        """Copy what has not left yet: from now on the buffers that were given to `send` may change."""
        self._queue[:] = map(bytes, self._queue)  # of bytes it makes no copy

    def close(self) -> None:
        """End the connection at once."""
        self._lose(ConnectionLost(f"{self.address}: closed"))

    async def run(self, on_message: OnMessage) -> None:
        """Receive until the connection is lost, and raise ConnectionLost then."""
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_rest)
                nursery.start_soon(self._keep_alive)
                try:
                    await self._receive(on_message)
                except (WireError, ProtocolError) as err:
                    failure = err
                    self._lose(ConnectionLost(f"{self.address}: {err}"))
                except Exception as err:  # out of on_message: not to be wrapped by the nursery
                    failure = err
                nursery.cancel_scope.cancel()
        finally:
            self.close()
        if failure is not None and not isinstance(failure, (WireError, ProtocolError)):
            raise failure
        assert self.lost is not None
        raise self.lost from failure

    # sending

    def _enqueue(self, buffers: Sequence[Buffer]) -> None:
        at_once = len(buffers) > 1 and max(map(len, buffers)) >= _AT_ONCE
        if not (at_once or self._queue or self._is_stuck):
            self._outbox.add(self)
        self._queue += buffers
        if at_once and not self._send_queue():
            self._room_wanted.set()

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it: called by the outbox."""
        if not self._send_queue():
            self._token.run_sync_soon(self._room_wanted.set)

    def _send_queue(self) -> bool:
        """Send until all has left or the socket is stuck, and tell whether it is not; wakes no task."""
        queue = self._queue
        self._has_sent = True
        try:
            while queue and self.lost is None and not self._is_stuck:
                count = min(len(queue), _MAX_BUFFERS)
                sent = self._socket.sendmsg(queue if count == len(queue) else queue[:count])
                self._handed_over += sent
                self._is_stuck = not _drop_sent(queue, count, sent)
        except BlockingIOError:
            self._is_stuck = True
        except OSError as err:
            self._token.run_sync_soon(self._lose, ConnectionLost(f"{self.address}: {err.strerror}"))
        except Exception as err:  # trio would switch the outbox off, and nothing would be sent any more
            log.exception("%s: cannot send", self.address)
            self._token.run_sync_soon(self._lose, ConnectionLost(f"{self.address}: {err}"))
        return not self._is_stuck

    async def _send_rest(self) -> None:
        while True:
            await self._room_wanted.wait()
            self._room_wanted = trio.Event()
            while self._is_stuck:
                if self.lost is not None:
                    return
                with suppress(trio.ClosedResourceError):  # lost meanwhile: `_receive` sees it, too
                    await trio.lowlevel.wait_writable(self._socket)
                    self._is_stuck = False
                    self._send_queue()

    async def _keep_alive(self) -> None:
        """Ask for a sign of life wherever one direction was silent, and give up when none comes.

        Over a slow link the question stands behind what is being sent, for longer than we wait for the answer: there it
        is a sign of life, too, that the peer takes more of that.
        """
        last_heard = trio.current_time()
        waiting = taken = 0  # bytes: in the socket's buffer, and taken by the peer
        while self.lost is None:
            await trio.sleep(KEEPALIVE_INTERVAL)
            now = trio.current_time()
            was_waiting, was_taken = waiting, taken
            waiting = self._count_waiting()
            taken = self._handed_over - waiting
            if self._has_heard or (was_waiting and taken > was_taken):
                last_heard = now
            elif now - last_heard >= KEEPALIVE_TIMEOUT:
                self._lose(ConnectionLost(f"{self.address}: silent for {now - last_heard:.0f} s"))
                return
            if not self._has_heard:
                self._set_low_water(1)  # what comes that slowly is a sign of life, too
            if not (self._has_heard and self._has_sent):
                self._enqueue([self._codec.encode(Tag.KEEPALIVE2, UTime.from_float(now).to_bytes())])
            self._has_heard = self._has_sent = False

    def _count_waiting(self) -> int:
        """How many bytes of ours the peer has not acknowledged."""
        if self.lost is not None:
            return 0
        return int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    # receiving

    async def _receive(self, on_message: OnMessage) -> None:
        sock = self._socket
        window = ReceiveWindow(self._buffers, self._leftover)
        burst = 0  # bytes received since other tasks could run
        while True:
            self._take_frames(window, on_message)
            if self.lost is not None:
                return
            window.make_room(self._codec.wanted if window.start != window.end else 0)
            if burst == 0 or burst >= _BURST:
                burst = 0
                missing = self._codec.wanted - (window.end - window.start) if window.start != window.end else 0
                self._set_low_water(min(missing, _PIECE) if missing >= _LEND else 1)
                try:
                    await trio.lowlevel.wait_readable(sock)
                except trio.ClosedResourceError:
                    return
            try:
                received = sock.recv_into(window.view[window.end :])
            except BlockingIOError:
                burst = 0
                continue
            except OSError as err:
                self._lose(ConnectionLost(f"{self.address}: {err.strerror}"))
                return
            if not received:
                self._lose(ConnectionLost(f"{self.address}: closed by the peer"))
                return
            window.end += received
            self._has_heard = True
            burst = burst + received if window.end == len(window.view) else 0  # not full: nothing more is there

    def _set_low_water(self, size: int) -> None:
        """Let the socket be readable from so many bytes on: the kernel sees to it that it can hold them."""
        if size != self._low_water and self.lost is None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._low_water = size

    def _take_frames(self, window: ReceiveWindow, on_message: OnMessage) -> None:
        """Take all frames that are whole; ends early when a callee closes the connection."""
        codec = self._codec
        while window.start != window.end and self.lost is None:
            frame = codec.decode(window.view, window.start, window.end)
            if frame is None:
                return
            tag, segments, size = frame
            window.start += size
            if tag != Tag.MESSAGE:
                self._take_control(tag, segments)
                continue
            try:
                self._in_seq, tid, kind, _, version, *_ = _HEADER.unpack(segments[0])
            except struct.error as err:
                raise WireError(f"message with a header of {len(segments[0])} bytes") from err
            data: Buffer = b""
            if len(segments) == 4:
                data = segments[3]
                if not codec.is_fresh:
                    if len(data) < _LEND:
                        data = bytes(data)
                    else:
                        window.is_lent = True
            on_message(kind, tid, version, memoryview(segments[1]) if len(segments) > 1 else _NO_FRONT, data)

    def _take_control(self, tag: int, segments: Sequence[Buffer]) -> None:
        if tag == Tag.KEEPALIVE2:
            if len(segments[0]) != _KEEPALIVE_SIZE:
                raise WireError(f"keepalive of {len(segments[0])} bytes")
            self._enqueue([self._codec.encode(Tag.KEEPALIVE2_ACK, segments[0])])
        elif tag not in _IGNORED:
            raise ProtocolError(f"frame {tag} in a session")

    def _lose(self, error: ConnectionLost) -> None:
        if self.lost is None:
            self.lost = error
            self._queue.clear()
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


_IGNORED = {Tag.KEEPALIVE2_ACK, Tag.ACK, Tag.ABORTED}  # ACK matters to sessions that can be taken up again


def _drop_sent(queue: list[Buffer], count: int, sent: int) -> bool:
    """Take `sent` bytes off the front of the queue; whether those are its first `count` buffers, and so all offered."""
    for index in range(count):
        buffer = queue[index]
        if sent < len(buffer):
            queue[: index + 1] = [memoryview(buffer)[sent:]]
            return False
        sent -= len(buffer)
    del queue[:count]
    return True


async def _connect(address: EntityAddr) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if address.is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(address.sockaddr)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error)) from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _shake_hands(sock: socket.socket, handshake: Handshake) -> Established:
    out = handshake.start()
    while True:
        while out:
            try:
                out = out[sock.send(out) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sock)
        if handshake.established is not None:
            return handshake.established
        await trio.lowlevel.wait_readable(sock)
        received = sock.recv(65536)
        if not received:
            raise ConnectionResetError(0, "closed by the peer during the handshake")
        out = handshake.receive(received)
