"""A small filesystem of files in memory: what the transport serves where a test is about the transport alone."""

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

import pyfuse3

from rbdfs.errors import NoSpace, RbdfsError
from rbdfs.fuse.handles import Handle, Handles, OpenFile
from rbdfs.fuse.notifier import Notifier
from rbdfs.wire import Buffer

BLOCK = 4096


class MemoryContent:
    """Bytes, with holes in whole blocks of zeroes."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.data = bytearray()
        self.limit = limit
        self.flushes = 0
        self.is_read_only = False

    @property
    def size(self) -> int:
        return len(self.data)

    def submit_read(self, offset: int, length: int, on_complete: Callable[[list[Buffer] | RbdfsError], None]) -> None:
        on_complete([bytes(self.data[offset : offset + length])])

    def submit_write(self, offset: int, data: Buffer, on_complete: Callable[[RbdfsError | None], None]) -> None:
        end = offset + len(data)
        if end > self.limit:
            on_complete(NoSpace("the memory is full"))
            return
        if end > len(self.data):
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = data
        on_complete(None)

    def submit_flush(self, on_complete: Callable[[RbdfsError | None], None]) -> None:
        self.flushes += 1
        on_complete(None)

    async def write_zeroes(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.data))
        self.data[offset:end] = bytes(end - offset)

    async def grow(self, size: int) -> None:
        self.data.extend(bytes(max(size - len(self.data), 0)))

    async def resize(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    async def seek_data(self, offset: int) -> int | None:
        while offset < self.size:
            end = offset - offset % BLOCK + BLOCK
            if any(self.data[offset:end]):
                return offset
            offset = end
        return None

    async def seek_hole(self, offset: int) -> int:
        while offset < self.size:
            end = offset - offset % BLOCK + BLOCK
            if not any(self.data[offset:end]):
                return offset
            offset = end
        return self.size


class MemoryOperations(pyfuse3.Operations):  # type: ignore[misc]
    """One directory of such files."""

    def __init__(self) -> None:
        super().__init__()
        self.handles = Handles()
        self.dropped: list[int] = []  # inodes whose pages the kernel shall drop
        self.notifier = Notifier()
        self.files: dict[bytes, OpenFile] = {}
        self.by_inode: dict[int, OpenFile] = {}
        self.limit = 1 << 30

    def attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o644
        entry.st_nlink = 1
        entry.st_size = 0 if inode == pyfuse3.ROOT_INODE else self.by_inode[inode].content.size
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        if name not in self.files:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.attributes(self.files[name].inode)

    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self.attributes(inode)

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        if fields.update_size:
            await self.by_inode[inode].content.resize(attr.st_size)
        return self.attributes(inode)

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        handle = self.handles.open(self.by_inode[inode], is_writable=flags & os.O_ACCMODE != os.O_RDONLY)
        return pyfuse3.FileInfo(fh=handle.fh, keep_cache=True, direct_io=bool(flags & os.O_DIRECT))

    async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        file = OpenFile(len(self.by_inode) + 2, MemoryContent(self.limit))
        self.files[name] = self.by_inode[file.inode] = file
        return await self.open(file.inode, flags, ctx), self.attributes(file.inode)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return bytes(self.content_of(fh).data[offset : offset + size])

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        self.content_of(fh).submit_write(offset, data, lambda error: None)
        return len(data)

    async def flush(self, fh: int) -> None:
        pass

    async def fsync(self, fh: int, datasync: bool) -> None:
        self.content_of(fh).flushes += 1

    def content_of(self, fh: int) -> MemoryContent:
        handle = self.handles.get(fh)
        assert handle is not None
        assert isinstance(handle.content, MemoryContent)
        return handle.content

    async def release(self, fh: int) -> None:
        self.handles.release(fh)

    async def opendir(self, inode: int, ctx: Any) -> int:
        return 0

    async def releasedir(self, fh: int) -> None:
        pass

    async def readdir(self, fh: int, start: int, token: Any) -> None:
        for number, (name, file) in enumerate(list(self.files.items())[start:], start):
            if not pyfuse3.readdir_reply(token, name, self.attributes(file.inode), number + 1):
                break

    async def statx(self, inode: int) -> Buffer:
        raise NotServed("no birth times")

    async def copy_range(self, source: Handle, source_offset: int, target: Handle, offset: int, length: int) -> int:
        data = bytes(source.content.data[source_offset : source_offset + length])
        target.content.submit_write(offset, data, lambda error: None)
        return len(data)

    def drop_pages(self, inode: int) -> None:
        self.dropped.append(inode)


class NotServed(RbdfsError):
    """Makes the kernel ask no more."""

    errno = errno.ENOSYS
