"""The data lane: READ, WRITE and whatever else touches bytes, served straight from /dev/fuse.

Every request is answered exactly once. One that can finish without waiting is answered before the next is read; one
that waits for the store is answered from the store's completion, without a task; compound ones (fallocate, lseek,
copy_file_range, statx) get a task each. All other requests go to libfuse through the relay.

Reading on until nothing waits, before sleeping, is worth half of the throughput; a checkpoint after a batch lets the
other tasks run under constant load.

An error of the store is answered by its errno; any other exception is our bug, logged, and answered EIO: an
unanswered request would hang its process for ever.
"""

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol

import trio

from rbdfs.errors import NoSpace, NotSupported, RbdfsError
from rbdfs.fuse.abi import (
    COPY_FILE_RANGE_IN,
    COPY_FILE_RANGE_OUT,
    FALLOCATE_IN,
    GETXATTR_NAME_OFFSET,
    HEAD,
    IN_HEADER,
    LSEEK_IN,
    LSEEK_OUT,
    WRITE_FROM_PAGE_CACHE,
    WRITE_OUT,
    FallocateMode,
    Opcode,
)
from rbdfs.fuse.device import Device, Unmounted
from rbdfs.fuse.handles import Handle, Handles
from rbdfs.fuse.relay import Relay
from rbdfs.wire import Buffer

log = logging.getLogger(__name__)

_BATCH = 64  # requests served without letting other tasks run
_SMALL = 16 << 10  # replies to larger reads and writes are not held back, nor by them
_LARGEST_COPY = 128 << 20  # of one copy_file_range, which cannot be interrupted; callers ask again for the rest


class FileNames(Protocol):
    """What the data lane asks of the namespace."""

    async def statx(self, inode: int) -> Buffer:
        """The body of a STATX reply."""

    async def copy_range(self, source: Handle, source_offset: int, target: Handle, offset: int, length: int) -> int:
        """Copy bytes from file to file within the store; how many."""

    def drop_pages(self, inode: int) -> None:
        """Have the kernel read a file again."""


class DataLane:
    """Serves one device until it is unmounted."""

    def __init__(self, device: Device, relay: Relay, handles: Handles, names: FileNames, *, is_single: bool) -> None:
        self._device = device
        self._relay = relay
        self._handles = handles
        self._names = names
        self._nursery: trio.Nursery | None = None
        self._reading = trio.CancelScope()
        self._is_crowded = False  # several requests were there at once
        self._answered = 0  # unique of the last WRITE answered, to see whether it was before its submit returned
        self._handlers: dict[int, Callable[[int, int, int, int, int, int, int], None]] = {
            Opcode.INTERRUPT: self._interrupt,
        }
        if not is_single:
            self._handlers |= {
                Opcode.READ: self._read,
                Opcode.WRITE: self._write,
                Opcode.FSYNC: self._fsync,
                Opcode.FLUSH: self._flush,
                Opcode.FALLOCATE: self._fallocate,
                Opcode.LSEEK: self._lseek,
                Opcode.COPY_FILE_RANGE: self._copy_file_range,
                Opcode.COPY_FILE_RANGE_64: self._copy_file_range,
                Opcode.STATX: self._statx,
                Opcode.GETXATTR: self._getxattr,
            }

    async def run(self) -> None:
        """Serve requests until the mount is gone, or `stop`; those under way are finished."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            with self._reading, suppress(Unmounted):
                while True:
                    if self._serve_batch():
                        await trio.lowlevel.checkpoint()
                    else:
                        await self._device.wait_readable()

    def stop(self) -> None:
        """Take no more requests."""
        self._reading.cancel()

    def _serve_batch(self) -> bool:
        """Serve what waits, up to a batch; whether more may wait."""
        device, handlers, unpack = self._device, self._handlers, HEAD.unpack_from
        head = device.head
        served = 0
        if self._is_crowded:
            device.begin_batch()  # a requester that waits for each single reply is not kept waiting
        try:
            while served < _BATCH:
                length = device.read()
                if length == 0:
                    break
                served += 1
                _, opcode, unique, node_id, _, _, _, _, _, fh, offset, size, flags, _, open_flags, _ = unpack(head)
                handler = handlers.get(opcode)
                try:
                    if handler is None:
                        self._forward(opcode, unique, length)
                    else:
                        handler(unique, opcode, node_id, fh, offset, size, open_flags << 32 | flags)
                except Exception as err:
                    self._fail(unique, err)
        finally:
            device.end_batch()
        self._is_crowded = served > 1
        return served == _BATCH

    def _forward(self, opcode: int, unique: int, length: int) -> None:
        head_length = min(length, HEAD.size)
        device = self._device
        self._relay.forward(opcode, unique, device.head_view[:head_length], device.payload[: length - head_length])

    def _fail(self, unique: int, err: BaseException) -> None:
        if isinstance(err, RbdfsError):
            log.debug("request %d: %s", unique, err)
            # A quota of the pool is the size of the disk to who writes there; QEMU pauses a guest on ENOSPC only.
            self._device.fail(unique, errno.ENOSPC if isinstance(err, NoSpace) else err.errno)
        else:
            log.error("request %d failed unexpectedly", unique, exc_info=err)
            self._device.fail(unique, errno.EIO)

    def _start(self, unique: int, body: Awaitable[Buffer | None]) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._answer, unique, body)

    async def _answer(self, unique: int, body: Awaitable[Buffer | None]) -> None:
        try:
            reply = await body
        except Exception as err:
            self._fail(unique, err)
        except BaseException:  # cancelled: the daemon leaves
            self._device.fail(unique, errno.EIO)
            raise
        else:
            if reply is None:
                self._device.acknowledge(unique)
            else:
                self._device.reply(unique, reply)

    # Data

    def _read(self, unique: int, _opcode: int, _node_id: int, fh: int, offset: int, size: int, _flags: int) -> None:
        handle = self._handles.get(fh)
        if handle is None:
            self._device.fail(unique, errno.EBADF)
            return
        if size > _SMALL:
            self._device.send_held()
        handle.content.submit_read(offset, size, partial(self._have_read, unique))

    def _have_read(self, unique: int, outcome: list[Buffer] | RbdfsError) -> None:
        if isinstance(outcome, list):
            size = 0
            for buffer in outcome:
                size += len(buffer)
            self._device.reply_soon(unique, tuple(outcome), size)
            if size > _SMALL:
                self._device.send_held()
        else:
            self._fail(unique, outcome)

    def _write(self, unique: int, _opcode: int, _node_id: int, fh: int, offset: int, size: int, flags: int) -> None:
        handle = self._handles.get(fh)
        if handle is None or not handle.is_writable:
            self._device.fail(unique, errno.EROFS if handle is not None else errno.EBADF)
            return
        handle.is_dirty = True
        handle.file.wrote_to(offset + size)
        payload = self._device.payload
        if size > _SMALL:
            self._device.send_held()
        if (flags >> 32) & os.O_DSYNC and not flags & WRITE_FROM_PAGE_CACHE:
            on_complete: Callable[[RbdfsError | None], None]
            on_complete = partial(self._have_written_durably, unique, handle, size, payload)
        else:
            on_complete = partial(self._have_written, unique, size, payload)
        is_growing = offset + size > handle.content.size
        if is_growing:
            handle.file.begin_resize()
            on_complete = partial(self._have_grown, handle, on_complete)
        try:
            handle.content.submit_write(offset, payload[:size], on_complete)
        except BaseException:
            if is_growing:
                handle.file.end_resize()
            raise
        finally:
            if self._answered != unique:
                self._device.keep_payload()

    def _have_written(self, unique: int, size: int, payload: memoryview, error: RbdfsError | None) -> None:
        device = self._device
        if payload is not device.payload:
            device.release_payload(payload)
        self._answered = unique
        if error is None:
            device.reply_soon(unique, (WRITE_OUT.pack(size, 0),), WRITE_OUT.size)
            if size > _SMALL:
                device.send_held()
        else:
            self._fail(unique, error)

    def _have_grown(
        self, handle: Handle, on_complete: Callable[[RbdfsError | None], None], error: RbdfsError | None
    ) -> None:
        handle.file.end_resize()
        on_complete(error)

    def _have_written_durably(
        self, unique: int, handle: Handle, size: int, payload: memoryview, error: RbdfsError | None
    ) -> None:
        # O_SYNC, O_DSYNC, RWF_DSYNC: on a file open for direct I/O the kernel leaves the sync to us.
        if error is None:
            handle.content.submit_flush(partial(self._have_written, unique, size, payload))
        else:
            self._have_written(unique, size, payload, error)

    # Durability

    def _fsync(self, unique: int, _opcode: int, _node_id: int, fh: int, _o: int, _s: int, _flags: int) -> None:
        handle = self._handles.get(fh)
        if handle is None:
            self._device.fail(unique, errno.EBADF)
            return
        handle.is_dirty = False
        handle.content.submit_flush(partial(self._have_flushed, unique, handle))

    def _flush(self, unique: int, _opcode: int, _node_id: int, fh: int, _o: int, _s: int, _flags: int) -> None:
        # close(): what was written is safe before an umount that follows it; the kernel waits for nothing else there.
        handle = self._handles.get(fh)
        if handle is None or not handle.is_dirty:
            self._device.acknowledge(unique)
            return
        handle.is_dirty = False
        handle.content.submit_flush(partial(self._have_flushed, unique, handle))

    def _have_flushed(self, unique: int, handle: Handle, error: RbdfsError | None) -> None:
        if error is None:
            self._device.acknowledge(unique)
        else:
            handle.is_dirty = True
            self._fail(unique, error)

    # Space

    def _fallocate(self, unique: int, _opcode: int, _n: int, fh: int, _o: int, _s: int, _flags: int) -> None:
        request = FALLOCATE_IN.unpack_from(self._device.head, IN_HEADER.size)
        handle = self._handles.get(fh)
        if handle is None or not handle.is_writable:
            self._device.fail(unique, errno.EROFS if handle is not None else errno.EBADF)
            return
        self._start(unique, self._allocate(handle, request.offset, request.length, request.mode))

    async def _allocate(self, handle: Handle, offset: int, length: int, mode: int) -> None:
        keeps_size = mode & FallocateMode.KEEP_SIZE
        what = mode & ~FallocateMode.KEEP_SIZE
        if what not in (0, FallocateMode.PUNCH_HOLE, FallocateMode.ZERO_RANGE):
            raise NotSupported(f"fallocate mode {mode:#x}")
        if what == FallocateMode.PUNCH_HOLE and not keeps_size:
            raise NotSupported("punching a hole without KEEP_SIZE")
        end = offset + length
        content = handle.content
        if what:
            handle.is_dirty = True
            zeroed = min(end, content.size) - offset
            if zeroed > 0:
                handle.file.wrote_to(offset + zeroed)
                with self._changing(handle):
                    await content.write_zeroes(offset, zeroed)
        if not keeps_size:  # nothing is reserved: images are thin
            with handle.file.resizing():
                handle.file.wrote_to(end)
                await content.grow(end)

    @contextmanager
    def _changing(self, handle: Handle) -> Iterator[None]:
        """Where this fails, some of it may have been done, and the kernel keeps the pages from before."""
        try:
            yield
        except BaseException:
            self._names.drop_pages(handle.file.inode)
            raise

    def _lseek(self, unique: int, _opcode: int, _node_id: int, fh: int, _o: int, _s: int, _flags: int) -> None:
        request = LSEEK_IN.unpack_from(self._device.head, IN_HEADER.size)
        handle = self._handles.get(fh)
        if handle is None:
            self._device.fail(unique, errno.EBADF)
        elif request.whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            self._device.fail(unique, errno.EINVAL)
        elif request.offset >= handle.content.size:
            self._device.fail(unique, errno.ENXIO)
        else:
            self._start(unique, self._seek(unique, handle, request.offset, request.whence))

    async def _seek(self, unique: int, handle: Handle, offset: int, whence: int) -> Buffer:
        if whence == os.SEEK_HOLE:
            return LSEEK_OUT.pack(await handle.content.seek_hole(offset))
        found = await handle.content.seek_data(offset)
        if found is None:
            raise _NoMoreData("only a hole follows")
        return LSEEK_OUT.pack(found)

    def _copy_file_range(self, unique: int, opcode: int, _n: int, fh: int, _o: int, _s: int, _flags: int) -> None:
        # 96 bytes with the header: the tail of the body lies in the payload.
        body = bytes(self._device.head_view[IN_HEADER.size :]) + bytes(self._device.payload[:16])
        request = COPY_FILE_RANGE_IN.unpack_from(body)
        source, target = self._handles.get(fh), self._handles.get(request.fh_out)
        if source is None or target is None:
            self._device.fail(unique, errno.EBADF)
        elif not target.is_writable:
            self._device.fail(unique, errno.EROFS)
        else:
            self._start(
                unique, self._copy(source, target, request.offset_in, request.offset_out, request.length, opcode)
            )

    async def _copy(
        self, source: Handle, target: Handle, source_offset: int, offset: int, length: int, opcode: int
    ) -> Buffer:
        length = min(length, _LARGEST_COPY, max(source.content.size - source_offset, 0))
        target.is_dirty = True
        with target.file.resizing():
            target.file.wrote_to(offset + length)
            with self._changing(target):
                copied = await self._names.copy_range(source, source_offset, target, offset, length) if length else 0
        return WRITE_OUT.pack(copied, 0) if opcode == Opcode.COPY_FILE_RANGE else COPY_FILE_RANGE_OUT.pack(copied)

    # Attributes

    def _statx(self, unique: int, _opcode: int, node_id: int, _fh: int, _o: int, _s: int, _flags: int) -> None:
        self._start(unique, self._names.statx(node_id))

    def _getxattr(self, unique: int, opcode: int, node_id: int, _fh: int, _o: int, _s: int, _flags: int) -> None:
        # ls and the kernel itself ask every file for security.* and system.*, which no image has.
        name = bytes(self._device.head_view[GETXATTR_NAME_OFFSET:])
        if name.startswith((b"security.", b"system.", b"trusted.")):
            self._device.fail(unique, errno.ENODATA if name.startswith(b"security.") else errno.EOPNOTSUPP)
        else:
            length = int.from_bytes(self._device.head[:4], "little")
            self._forward(opcode, unique, length)

    def _interrupt(self, unique: int, _opcode: int, _n: int, _fh: int, _o: int, _s: int, _flags: int) -> None:
        # ENOSYS ends them for good: a disk does not return EINTR, and no handler here could act on one.
        self._device.fail(unique, errno.ENOSYS)


class _NoMoreData(RbdfsError):
    """SEEK_DATA in the last hole."""

    errno = errno.ENXIO
