"""/dev/fuse, opened and mounted: one read is one request, one write is one reply.

The device is read without blocking into a head of 80 bytes and a payload buffer, so that the data of a WRITE lies
page-aligned at the start of the payload. A payload buffer that a store still needs is kept by its request and comes
back later; the next request is read into another one.

Replies may come in any order, from anywhere in the trio thread. Each one wakes whoever waits for it, and to wake a
process costs more than to serve a small request: so inside `batch` small replies are held back and sent together,
which finds the requester awake after the first (at queue depth 16: 89,000 reads per second instead of 63,000).

A notification may block in the kernel until requests have been served, so those are written from a worker thread
(notifier.py).
"""

import errno
import logging
import mmap
import os
from contextlib import suppress
from typing import Final

import trio

from rbdfs.fuse.abi import HEAD, OUT_HEADER, error_reply, pack_out_header
from rbdfs.wire import Buffer

log = logging.getLogger(__name__)

_GONE = (errno.ENODEV, errno.ECONNABORTED)  # unmounted, or the connection was aborted
_RETRY = (errno.EINTR, errno.ENOENT)  # ENOENT: the request was taken back while it was copied
_IOV_MAX = 1024  # of one writev, with the header
_BATCHED_REPLIES = 16
_KEPT_PAYLOADS = 32  # free payload buffers that stay allocated
_HUGE_PAGE = 2 << 20  # buffers of one: the kernel finds the pages that it copies to faster, an eighth of a large write


class Unmounted(Exception):
    """The kernel has ended the connection."""


class Device:
    """A mounted /dev/fuse descriptor; owns it."""

    def __init__(self, fd: int, payload_size: int) -> None:
        self.fd: Final = fd
        self.head = bytearray(HEAD.size)
        self.head_view = memoryview(self.head)
        self._payload_size = payload_size + mmap.PAGESIZE
        self._mapped_size = -(-self._payload_size // _HUGE_PAGE) * _HUGE_PAGE
        self._free: list[memoryview] = []
        self.payload = self._new_payload()
        self._is_closed = False
        self._is_batching = False
        self._held: list[tuple[Buffer, ...]] = []
        self._parts: list[bytearray | memoryview] = [self.head, self.payload]

    def read(self) -> int:
        """Read the next request into `head` and `payload`; its length, or 0 where none waits. Raises Unmounted."""
        while True:
            try:
                return os.readv(self.fd, self._parts)
            except BlockingIOError:
                return 0
            except OSError as err:
                if err.errno in _GONE:
                    raise Unmounted from None
                if err.errno not in _RETRY:
                    raise

    async def wait_readable(self) -> None:
        """Wait for a request, or for the end of the connection."""
        await trio.lowlevel.wait_readable(self.fd)

    def keep_payload(self) -> None:
        """Leave the current payload to its request, which gives it back by `release_payload`."""
        self.payload = self._free.pop() if self._free else self._new_payload()
        self._parts[1] = self.payload

    def release_payload(self, payload: memoryview) -> None:
        """Take back a payload that was kept."""
        if len(self._free) < _KEPT_PAYLOADS:
            self._free.append(payload)

    def _new_payload(self) -> memoryview:
        mapped = mmap.mmap(-1, self._mapped_size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without huge pages
            mapped.madvise(mmap.MADV_HUGEPAGE)
        return memoryview(mapped)[: self._payload_size]

    def reply(self, unique: int, body: Buffer) -> None:
        """Answer a request."""
        self._write((pack_out_header(OUT_HEADER.size + len(body), 0, unique), body))

    def reply_soon(self, unique: int, buffers: tuple[Buffer, ...], size: int) -> None:
        """Answer a request with buffers of together `size` bytes, perhaps together with others of the same batch."""
        if len(buffers) >= _IOV_MAX:  # the parts of narrow stripes
            buffers = (b"".join(buffers),)
        parts = (pack_out_header(OUT_HEADER.size + size, 0, unique), *buffers)
        if self._is_batching:
            self._held.append(parts)
            if len(self._held) >= _BATCHED_REPLIES:
                self.send_held()
        else:
            self._write(parts)

    def begin_batch(self) -> None:
        """Hold replies back from here on, up to `end_batch`."""
        self._is_batching = True

    def end_batch(self) -> None:
        """Send what was held back."""
        self._is_batching = False
        self.send_held()

    def send_held(self) -> None:
        """Send what was held back so far: something slow follows."""
        if self._held:
            held, self._held = self._held, []
            for parts in held:
                self._write(parts)

    def acknowledge(self, unique: int) -> None:
        """Answer a request whose reply has no body."""
        self._write((error_reply(unique, 0),))

    def fail(self, unique: int, number: int) -> None:
        """Answer a request with an errno."""
        self._write((error_reply(unique, number),))

    def write_message(self, message: Buffer) -> None:
        """Send a whole message, made elsewhere: a relayed reply."""
        self._write((message,))

    def _write(self, parts: tuple[Buffer, ...]) -> None:
        if self._is_closed:  # the descriptor may be another file's by now
            return
        try:
            os.writev(self.fd, parts)
        except OSError as err:
            if err.errno in (errno.ENOENT, *_GONE):
                return  # the requester, or the mount, is gone
            length, error, unique = OUT_HEADER.unpack_from(parts[0])
            log.error("reply to request %d (%d bytes, error %d) failed: %s", unique, length, error, err)
            if len(parts) > 1 or length > OUT_HEADER.size:
                self._write((error_reply(unique, errno.EIO),))  # nobody may wait for ever

    def close(self) -> None:
        """End the connection; whoever still uses the mount gets ENOTCONN."""
        self._is_closed = True
        trio.lowlevel.notify_closing(self.fd)
        os.close(self.fd)
