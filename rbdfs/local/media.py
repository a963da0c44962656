"""The data file: one sparse file of blocks, and the only place that reads, writes, punches and syncs it.

Everything that can be lost or torn by a crash passes through here, so a test can stop the engine at any of these
calls (tests/crash has a `Media` that does). The calls are blocking; `read_cached` is the one for the event loop: it
answers from the page cache or not at all.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rbdfs.errors import NoSpace, RbdfsError, StoreFailure
from rbdfs.rados.ops import Buffer

if TYPE_CHECKING:
    from rbdfs.local.batch import Batch
    from rbdfs.local.database import Database

_KEEP_SIZE = 0x1  # linux/falloc.h: FALLOC_FL_KEEP_SIZE
_PUNCH_HOLE_KEEP_SIZE = 0x3  # | FALLOC_FL_PUNCH_HOLE
_WRITE_BACK = 0x2  # linux/fs.h: SYNC_FILE_RANGE_WRITE
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_ZEROES = bytes(1 << 20)
# What one call writes may become one folio of the page cache. Large ones make streams faster (a tenth from 64 to 128
# KiB, no more beyond 256), but ext4 walks over all blocks of a folio for every small write into it later: for 4 KiB
# this costs half a microsecond at 128 KiB, 1.5 at 256, 13 at a MiB (Linux 6.18). So what is not in the page cache yet
# is written in steps.
_WRITE_STEP = 128 << 10
_CACHESTAT = 451  # the system call's number on every architecture but Alpha; Linux 6.5
_FIEMAP = 0xC020660B  # linux/fs.h: FS_IOC_FIEMAP
_FIEMAP_HEAD = struct.Struct("=QQIIII")  # linux/fiemap.h: start, length, flags, extents found, extents asked for
_FIEMAP_EXTENT = struct.Struct("=QQQQQI12x")  # logical, physical, length, two reserved, flags
_SHARED = 0x2000  # FIEMAP_EXTENT_SHARED
_EXTENTS = 8  # as many as one question has room for; a range of more is a rare one
_PLENTY = 256  # times what is set aside
_PLENTY_OF_ROOM = 2 << 30  # bytes
_ROOM_SECONDS = 0.1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
_libc.syscall.restype = ctypes.c_long
_CacheStatRange = ctypes.c_uint64 * 2  # linux/mman.h: struct cachestat_range, offset and length
_CacheStat = ctypes.c_uint64 * 5  # struct cachestat, of which the first is the number of pages in memory


# linux/magic.h: ext2, ext3 and ext4, XFS. Others may need room for what is written over, and not know how much.
_IN_PLACE = {0xEF53, 0x58465342}


def _filesystem(descriptor: int) -> int:
    """The kind of filesystem that a file is in (fstatfs(2): f_type, the first number); 0 where it cannot be told."""
    found = (ctypes.c_long * 32)()
    return found[0] if _libc.fstatfs(descriptor, found) == 0 else 0


class Media:
    """An open data file. Writes raise NoSpace where there is no room, everything else StoreFailure."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
        self._can_punch = True
        self._can_nowait = True
        self._can_tell_cached = True
        self._overwrites_in_place = _filesystem(self._fd) in _IN_PLACE
        self._has_plenty = False
        self._room_asked = float("-inf")
        self.syncs = 0

    def close(self) -> None:
        """Give the file back; whoever comes too late gets an error, and not another file of that number."""
        descriptor, self._fd = self._fd, -1
        os.close(descriptor)

    @property
    def size(self) -> int:
        """The file's length in bytes, holes included."""
        return os.fstat(self._fd).st_size

    def read_cached(self, offset: int, view: Buffer) -> bool:
        """Fill the view from the page cache; False where that would have to wait for the disk."""
        if not self._can_nowait:
            self.read(offset, view)
            return True
        try:
            return os.preadv(self._fd, (view,), offset, os.RWF_NOWAIT) == len(view)
        except BlockingIOError:
            return False
        except OSError as err:
            if err.errno not in _CANNOT:
                raise self._failure("read", err) from err
            self._can_nowait = False  # this filesystem cannot tell; memory or not, it is read here
            self.read(offset, view)
            return True

    def read(self, offset: int, view: Buffer) -> None:
        """Fill the view, waiting for the disk."""
        try:
            done = os.preadv(self._fd, (view,), offset)
            while done < len(view):
                step = os.preadv(self._fd, (memoryview(view)[done:],), offset + done)
                if step == 0:
                    raise StoreFailure(f"{self._path}: ends before byte {offset + len(view)}")
                done += step
        except OSError as err:
            raise self._failure("read", err) from err

    def write(self, offset: int, data: Buffer) -> None:
        """Put bytes into the page cache."""
        try:
            done = 0
            if len(data) <= _WRITE_STEP or self._is_cached(offset, len(data)):
                done = os.pwrite(self._fd, data, offset)
                if done == len(data):
                    return
            view = memoryview(data)
            while done < len(view):
                done += os.pwrite(self._fd, view[done : done + _WRITE_STEP], offset + done)
        except OSError as err:
            raise self._failure("write", err) from err

    def _is_cached(self, offset: int, length: int) -> bool:
        """Whether all pages of a range are in the page cache; False, too, where the kernel cannot tell."""
        if not self._can_tell_cached:
            return False
        found = _CacheStat()
        if _libc.syscall(_CACHESTAT, self._fd, _CacheStatRange(offset, length), found, 0) != 0:
            self._can_tell_cached = False
            return False
        pages = (offset + length - 1) // mmap.PAGESIZE - offset // mmap.PAGESIZE + 1
        return found[0] >= pages

    def write_back(self, offset: int, length: int) -> None:
        """Have the kernel begin to write a range from the page cache to the disk; it makes nothing durable."""
        _libc.sync_file_range(self._fd, offset, length, _WRITE_BACK)  # an error shows in the next sync

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeroes and give its room back, where the filesystem can; else write zeroes."""
        if self._can_punch:
            if _libc.fallocate(self._fd, _PUNCH_HOLE_KEEP_SIZE, offset, length) == 0:
                return
            number = ctypes.get_errno()
            if number not in _CANNOT:
                raise self._failure("punch", OSError(number, os.strerror(number)))
            self._can_punch = False
        end = min(offset + length, self.size)
        while offset < end:
            step = min(end - offset, len(_ZEROES))
            self.write(offset, memoryview(_ZEROES)[:step])
            offset += step

    def set_aside(self, offset: int, length: int) -> None:
        """Have the filesystem keep room for a range, whose holes still read as zeroes, if it can and has plenty."""
        room = os.fstatvfs(self._fd)
        if self._can_punch and room.f_bavail * room.f_frsize >= _PLENTY * length:
            _libc.fallocate(self._fd, _KEEP_SIZE, offset, length)  # a failure costs time, nothing else

    def has_room_to_overwrite(self, offset: int, length: int) -> bool:
        """Whether a range can be written over without running out of room, whatever others take."""
        return self._has_plenty_of_room() and self._is_allocated(offset, length)

    def _has_plenty_of_room(self) -> bool:
        """Whether there is enough for what an overwrite may change beside its data; asked anew ten times a second."""
        if not self._overwrites_in_place:
            return False
        now = time.monotonic()
        if now >= self._room_asked + _ROOM_SECONDS:
            room = os.fstatvfs(self._fd)
            self._room_asked, self._has_plenty = now, room.f_bavail * room.f_frsize >= _PLENTY_OF_ROOM
        return self._has_plenty

    def _is_allocated(self, offset: int, length: int) -> bool:
        """Whether a range has no hole, and is shared with no other file; False, too, where that cannot be told.

        It takes 3 us; SEEK_HOLE would walk to the next hole, 30 us for each GiB without one (Linux 6.18, ext4).
        """
        found = bytearray(_FIEMAP_HEAD.size + _EXTENTS * _FIEMAP_EXTENT.size)
        _FIEMAP_HEAD.pack_into(found, 0, offset, length, 0, 0, _EXTENTS, 0)
        try:
            fcntl.ioctl(self._fd, _FIEMAP, found)
        except OSError:
            return False
        count = _FIEMAP_HEAD.unpack_from(found)[3]
        end = offset
        for number in range(count):
            extent = _FIEMAP_EXTENT.unpack_from(found, _FIEMAP_HEAD.size + number * _FIEMAP_EXTENT.size)
            start, _, size, *_, flags = extent
            if start > end or flags & _SHARED:
                return False
            end = start + size
        return end >= offset + length

    def give_back(self, offset: int, length: int) -> None:
        """Make a range, of which nothing is in use, a hole."""
        if self._can_punch:
            self.zero(offset, length)
        else:
            for start, size in self.data_ranges(offset, offset + length):
                self.zero(start, size)

    def resize(self, size: int) -> None:
        """Make the file that long; what is added is a hole."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as err:
            raise self._failure("resize", err) from err

    def sync(self) -> None:
        """Everything written, punched or resized before this call is durable when it returns."""
        try:
            os.fdatasync(self._fd)
            self.syncs += 1
        except OSError as err:
            # After a failed sync the kernel may have dropped what it could not write: never NoSpace, never again.
            raise StoreFailure(f"{self._path}: sync: {err.strerror}") from err

    def commit(self, database: "Database", batch: "Batch") -> None:
        """Make a batch of metadata durable: all of it or, with an error, nothing."""
        database.commit(batch)

    def data_ranges(self, offset: int, end: int) -> list[tuple[int, int]]:
        """The parts of a range that are no holes, as (offset, length), as far as the filesystem tells."""
        ranges = []
        while offset < end:
            try:
                start = os.lseek(self._fd, offset, os.SEEK_DATA)
                stop = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError as err:
                if err.errno == errno.ENXIO:
                    break
                raise self._failure("seek", err) from err
            if start >= end:
                break
            ranges.append((start, min(stop, end) - start))
            offset = stop
        return ranges

    def _failure(self, act: str, err: OSError) -> RbdfsError:
        kind = NoSpace if err.errno in _NO_ROOM else StoreFailure
        return kind(f"{self._path}: {act}: {err.strerror}")
