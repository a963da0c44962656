"""libfuse behind a socket: requests that the data lane does not serve go there unchanged, and its replies come back.

libfuse takes one end of a SOCK_SEQPACKET pair for its device, since all it does with it is to read one request and to
write one reply at a time. Three replies are edited on their way: INIT (negotiation.py), OPEN and CREATE.

A slow handler of names must not stall data, so a request that does not fit the socket now waits in a queue; the order
is kept, because a FORGET counts on the LOOKUP before it. So does one whose reply might not fit: libfuse drops a reply
that its socket does not take at once, and the requester would wait for ever.
"""

import logging
import socket
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

import trio

from rbdfs.fuse.abi import (
    BATCH_FORGET_IN,
    ENTRY_OUT_SIZE,
    FORGET_ONE_SIZE,
    IN_HEADER,
    OUT_HEADER,
    READDIR_SIZE_OFFSET,
    Opcode,
)
from rbdfs.fuse.device import Device
from rbdfs.fuse.negotiation import Limits, init_for_kernel, init_for_libfuse, with_parallel_writes
from rbdfs.fuse.notifier import Notifier

log = logging.getLogger(__name__)

_LARGEST_MESSAGE = 160 << 10  # libfuse's buffer of 136 KiB, with room to spare
_LARGEST_LISTING = 64 << 10  # a reply must fit the socket, whose buffer an unprivileged daemon cannot raise
_LARGEST_FORGET = 64 << 10  # libfuse's buffer again, and the socket's; the kernel fills what we read into
_BUFFER = 2 << 20  # what root gets
_SO_SNDBUFFORCE = 32
# What the kernel counts for replies in that buffer, measured: up to 9 KiB beside the bytes of a large one.
_SMALL = 256
_SMALL_REPLIES = 192 << 10  # as many of them as libfuse may send at once
_OVERHEAD = 16 << 10
_SIZE_OFFSETS: dict[int, int] = {
    Opcode.READ: READDIR_SIZE_OFFSET,
    Opcode.READDIR: READDIR_SIZE_OFFSET,
    Opcode.READDIRPLUS: READDIR_SIZE_OFFSET,
    Opcode.GETXATTR: IN_HEADER.size,
    Opcode.LISTXATTR: IN_HEADER.size,
}  # where requests say how large their reply may be
_EDITED = frozenset((Opcode.INIT, Opcode.OPEN, Opcode.CREATE))


def parts_of_forget(request: bytes) -> Iterator[memoryview]:
    """A BATCH_FORGET as several, none larger than `_LARGEST_FORGET` bytes."""
    head = IN_HEADER.unpack_from(request)
    start = IN_HEADER.size + BATCH_FORGET_IN.size
    step = (_LARGEST_FORGET - start) // FORGET_ONE_SIZE * FORGET_ONE_SIZE
    for at in range(start, len(request), step):
        forgets = request[at : at + step]
        length = start + len(forgets)
        count = BATCH_FORGET_IN.pack(len(forgets) // FORGET_ONE_SIZE, 0)
        yield memoryview(IN_HEADER.pack(*head._replace(length=length)) + count + forgets)


class Relay:
    """The way to libfuse and back."""

    def __init__(self, device: Device, notifier: Notifier, limits: Limits) -> None:
        self._device = device
        self._notifier = notifier
        self._limits = limits
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _LARGEST_MESSAGE)
            with suppress(PermissionError):
                end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
        self._socket = trio.socket.from_stdlib_socket(ours)
        self._fileno = ours.fileno()
        self._raw = ours
        self._theirs: socket.socket | None = theirs
        self._edits: dict[int, tuple[int, bytes]] = {}  # unique -> opcode and, for INIT, the request
        self._queue: deque[tuple[int, int, bytes]] = deque()  # unique, bytes of its reply, request
        self._queued = trio.Event()
        self._room = theirs.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _SMALL_REPLIES  # for large replies
        self._reserved: dict[int, int] = {}  # unique -> how much of it
        self._is_roomier = trio.Event()
        self.initialized = trio.Event()

    def detach_device(self) -> str:
        """The `mountpoint` for `pyfuse3.init`; libfuse owns the descriptor from here on."""
        assert self._theirs is not None
        fd = self._theirs.detach()
        self._theirs = None
        return f"/dev/fd/{fd}"

    def forward(self, opcode: int, unique: int, head: memoryview, payload: memoryview) -> None:
        """Send a request to libfuse; its two parts may be reused when this returns."""
        if opcode == Opcode.BATCH_FORGET and len(head) + len(payload) > _LARGEST_FORGET:
            for part in parts_of_forget(bytes(head) + bytes(payload)):
                self._send(opcode, unique, part, part[:0])
            return
        if opcode in _EDITED:
            request = b""
            if opcode == Opcode.INIT:
                request = bytes(head) + bytes(payload)
                head, payload = memoryview(init_for_libfuse(request)), payload[:0]
            self._edits[unique] = (opcode, request)
        elif opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
            (size,) = struct.unpack_from("<I", head, READDIR_SIZE_OFFSET)
            struct.pack_into("<I", head, READDIR_SIZE_OFFSET, min(size, _LARGEST_LISTING))
        self._send(opcode, unique, head, payload)

    def _send(self, opcode: int, unique: int, head: memoryview, payload: memoryview) -> None:
        needed = self._needed(opcode, head)
        if not self._queue and self._has_room(needed):
            try:
                self._raw.sendmsg((head, payload))
            except BlockingIOError:
                pass
            else:
                self._reserve(unique, needed)
                return
        self._queue.append((unique, needed, bytes(head) + bytes(payload)))
        self._queued.set()

    async def run_requests(self) -> None:
        """Send what had to wait, until cancelled."""
        while True:
            await self._queued.wait()
            while self._queue:
                unique, needed, request = self._queue[0]
                while not self._has_room(needed):
                    self._is_roomier = trio.Event()
                    await self._is_roomier.wait()
                self._reserve(unique, needed)
                await self._socket.send(request)
                self._queue.popleft()
            self._queued = trio.Event()

    @staticmethod
    def _needed(opcode: int, head: memoryview) -> int:
        """What a reply may need of the room for large ones."""
        size_offset = _SIZE_OFFSETS.get(opcode)
        if size_offset is None:
            return 0
        size: int = struct.unpack_from("<I", head, size_offset)[0]
        return size + _OVERHEAD if size > _SMALL else 0

    def _has_room(self, needed: int) -> bool:
        return needed <= self._room or not needed or not self._reserved

    def _reserve(self, unique: int, needed: int) -> None:
        if needed:
            self._reserved[unique] = needed
            self._room -= needed

    async def run_replies(self) -> None:
        """Carry libfuse's replies to the kernel, until it closes its end."""
        buffer = bytearray(_LARGEST_MESSAGE)
        view = memoryview(buffer)
        while True:
            try:
                length = self._raw.recv_into(buffer)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._fileno)
                continue
            if length == 0:
                return
            self._carry_back(view[:length])

    def _carry_back(self, message: memoryview) -> None:
        header = OUT_HEADER.unpack_from(message)
        if header.unique in self._reserved:
            self._room += self._reserved.pop(header.unique)
            self._is_roomier.set()
        if header.unique == 0:
            self._notifier.send(bytes(message))  # writing it here could wait for ourselves
            return
        if header.unique not in self._edits:
            self._device.write_message(message)
            return
        opcode, request = self._edits.pop(header.unique)
        if opcode == Opcode.INIT:
            self._device.write_message(init_for_kernel(request, message, self._limits))
            self.initialized.set()
            return
        if header.error == 0:
            edited = bytearray(message)
            with_parallel_writes(edited, OUT_HEADER.size + (ENTRY_OUT_SIZE if opcode == Opcode.CREATE else 0))
            message = memoryview(edited)
        self._device.write_message(message)

    def close(self) -> None:
        """Close our end; libfuse must have been told to stop before."""
        self._socket.close()
        if self._theirs is not None:
            self._theirs.close()
