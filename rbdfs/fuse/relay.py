"""libfuse behind a socket: requests that the data lane does not serve go there unchanged, and its replies come back.

libfuse takes one end of a SOCK_SEQPACKET pair for its device, since all it does with it is to read one request and to
write one reply at a time. Three replies are edited on their way: INIT (negotiation.py), OPEN and CREATE.

A slow handler of names must not stall data, so a request that does not fit the socket now waits in a queue; the order
is kept, because a FORGET counts on the LOOKUP before it.
"""

import logging
import socket
import struct
from collections import deque

import trio

from rbdfs.fuse.abi import ENTRY_OUT_SIZE, OUT_HEADER, READDIR_SIZE_OFFSET, Opcode
from rbdfs.fuse.device import Device
from rbdfs.fuse.negotiation import Limits, init_for_kernel, init_for_libfuse, with_parallel_writes
from rbdfs.fuse.notifier import Notifier

log = logging.getLogger(__name__)

_LARGEST_MESSAGE = 160 << 10  # libfuse's buffer of 136 KiB, with room to spare
_LARGEST_LISTING = 64 << 10  # a reply must fit the socket, whose buffer an unprivileged daemon cannot raise
_EDITED = frozenset((Opcode.INIT, Opcode.OPEN, Opcode.CREATE))


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
        self._socket = trio.socket.from_stdlib_socket(ours)
        self._fileno = ours.fileno()
        self._raw = ours
        self._theirs: socket.socket | None = theirs
        self._edits: dict[int, tuple[int, bytes]] = {}  # unique -> opcode and, for INIT, the request
        self._queue: deque[bytes] = deque()
        self._queued = trio.Event()
        self.initialized = trio.Event()

    def detach_device(self) -> str:
        """The `mountpoint` for `pyfuse3.init`; libfuse owns the descriptor from here on."""
        assert self._theirs is not None
        fd = self._theirs.detach()
        self._theirs = None
        return f"/dev/fd/{fd}"

    def forward(self, opcode: int, unique: int, head: memoryview, payload: memoryview) -> None:
        """Send a request to libfuse; its two parts may be reused when this returns."""
        if opcode in _EDITED:
            request = b""
            if opcode == Opcode.INIT:
                request = bytes(head) + bytes(payload)
                head, payload = memoryview(init_for_libfuse(request)), payload[:0]
            self._edits[unique] = (opcode, request)
        elif opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
            (size,) = struct.unpack_from("<I", head, READDIR_SIZE_OFFSET)
            struct.pack_into("<I", head, READDIR_SIZE_OFFSET, min(size, _LARGEST_LISTING))
        if not self._queue:
            try:
                self._raw.sendmsg((head, payload))
            except BlockingIOError:
                pass
            else:
                return
        self._queue.append(bytes(head) + bytes(payload))
        self._queued.set()

    async def run_requests(self) -> None:
        """Send what had to wait, until cancelled."""
        while True:
            await self._queued.wait()
            while self._queue:
                await self._socket.send(self._queue[0])
                self._queue.popleft()
            self._queued = trio.Event()

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
