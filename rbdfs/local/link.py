"""One connection between an owner and an attached process: messages in both directions over a unix socket.

A message is two lengths (u32 header, u64 payload), a msgpack header and a payload (`codec`). Sending does not wait: a
message goes out at once where the socket takes it, else from a task, in order.
"""

import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from rbdfs.errors import ProtocolError
from rbdfs.local import codec
from rbdfs.local.absentees import Process
from rbdfs.rados.ops import Buffer

_LENGTHS = struct.Struct("<IQ")
_CREDENTIALS = struct.Struct("iII")  # linux/socket.h: struct ucred; pid, uid, gid
_MAX_HEADER = 256 << 20
_MAX_PAYLOAD = 512 << 20
_BUFFER = 256 << 10
_FAIR = 32  # receptions before others have their turn
_MAX_PARTS = 512  # of one sendmsg; IOV_MAX is 1024


@contextmanager
def short_address(directory: Path, name: str) -> Iterator[str]:
    """An address for a socket in a directory, short enough for the kernel however deep that lies."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


class EndOfLink(Exception):
    """The other end closed before it said what was waited for."""


class Link:
    """A connected socket. `run_sender` must be running."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._backlog: deque[Buffer] = deque()
        self._more = trio.Event()
        self._empty = trio.Event()
        self._buffer = bytearray(_BUFFER)
        self._start = self._end = 0  # of what is received and not yet used
        self._received = 0
        self.is_broken = False

    @classmethod
    def connect(cls, directory: Path, name: str) -> "Link":
        """A link to whoever listens on a socket in a directory; OSError where nobody does."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_address(directory, name) as address:
                connected.connect(address)
        except BaseException:
            connected.close()
            raise
        return cls(connected)

    @property
    def peer(self) -> Process:
        """The process at the other end; its pid is 0 where that is in a namespace that cannot be seen from here."""
        pid, _, _ = _CREDENTIALS.unpack(
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        return Process.of(pid)

    def close(self) -> None:
        """Close the socket; whoever receives from it is told."""
        self.is_broken = True
        self._more.set()
        self._empty.set()
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    # Sending.

    def send(self, make: Callable[[codec.Packer], list[Any]]) -> None:
        """Send the message whose fields `make` gives; lost where the link is broken."""
        if self.is_broken:
            return
        packer = codec.Packer()
        header = packer.header(*make(packer))
        head = _LENGTHS.pack(len(header), packer.payload_size) + header
        parts: list[Buffer] = [head, *packer.payload]
        if not self._backlog and len(parts) <= _MAX_PARTS:
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.is_broken = True
                return
            parts = _unsent(parts, sent)
        if parts:
            self._backlog.extend(parts)
            self._more.set()

    async def drain(self) -> None:
        """Wait until everything is sent, or the link is broken."""
        while self._backlog and not self.is_broken:
            self._empty = trio.Event()
            await self._empty.wait()

    async def run_sender(self) -> None:
        """Send what could not go out at once, for ever."""
        while not self.is_broken:
            await self._more.wait()
            self._more = trio.Event()
            try:
                while self._backlog:
                    await trio.lowlevel.wait_writable(self._socket)
                    parts = [self._backlog.popleft() for _ in range(min(len(self._backlog), _MAX_PARTS))]
                    try:
                        sent = self._socket.sendmsg(parts)
                    except BlockingIOError:
                        sent = 0
                    self._backlog.extendleft(reversed(_unsent(parts, sent)))
            except (OSError, trio.ClosedResourceError):
                self.is_broken = True
            self._empty.set()

    # Receiving.

    async def receive(self) -> list[Any] | None:
        """The fields of the next message, None at the end."""
        try:
            if not await self._fill(_LENGTHS.size):
                return None
            header_size, payload_size = _LENGTHS.unpack_from(self._buffer, self._start)
            if header_size > _MAX_HEADER or payload_size > _MAX_PAYLOAD:
                raise ProtocolError(f"a message of {header_size} and {payload_size} bytes")
            size = _LENGTHS.size + header_size + payload_size
            if size <= _BUFFER:
                if not await self._fill(size):
                    return None
                view = memoryview(self._buffer)[self._start + _LENGTHS.size : self._start + size]
                self._start += size
            else:
                large = await self._receive_large(size)
                if large is None:
                    return None
                view = memoryview(large)[_LENGTHS.size :]
        except (OSError, trio.ClosedResourceError):
            return None
        return codec.unpack(view[:header_size], view[header_size:])

    async def _fill(self, size: int) -> bool:
        """Have `size` bytes in the buffer; False at the end."""
        if self._end - self._start >= size:
            return True
        if self._start + size > _BUFFER:
            kept = self._buffer[self._start : self._end]
            self._buffer = bytearray(_BUFFER)  # the old one may still be looked at
            self._buffer[: len(kept)] = kept
            self._start, self._end = 0, len(kept)
        with memoryview(self._buffer) as view:
            while self._end - self._start < size:
                got = await self._receive_into(view[self._end :])
                if not got:
                    return False
                self._end += got
        return True

    async def _receive_large(self, size: int) -> bytearray | None:
        """A message that does not fit the buffer, in one of its own."""
        large = bytearray(size)
        done = self._end - self._start
        large[:done] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = bytearray(_BUFFER), 0, 0  # the old one may still be looked at
        with memoryview(large) as view:
            while done < size:
                got = await self._receive_into(view[done:])
                if not got:
                    return None
                done += got
        return large

    async def _receive_into(self, view: memoryview) -> int:
        self._received += 1
        if not self._received % _FAIR:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._socket.recv_into(view)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)


def _unsent(parts: list[Buffer], sent: int) -> list[Buffer]:
    for index, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []
