"""The tree as pyfuse3 asks for it: numbers and bytes in, attributes and error numbers out.

What names mean and what changes them is the tree's business (tree.py); here stand the handles of open files and
directories, and the one place where an error becomes its errno. Bytes of files go through the data lane; `read`,
`write` and their like are called only on a mount with a single lane.
"""

import errno
import functools
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from rbdfs.errors import Exists, Gone, InvalidArgument, NoData, NotFound, RbdfsError, ReadOnly
from rbdfs.fuse import attributes, extended
from rbdfs.fuse.attributes import FileAttributes
from rbdfs.fuse.file_names import NAME_MAX
from rbdfs.fuse.handles import Handle, Handles
from rbdfs.fuse.inodes import Inode, Kind
from rbdfs.fuse.open_images import ImageFile
from rbdfs.fuse.options import MountOptions
from rbdfs.fuse.tree import Tree
from rbdfs.wire import Buffer

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_AHEAD = 64  # entries of a directory whose attributes are asked for side by side
_BLOCK = 4096


def _answers(operation: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Turn errors into their numbers; anything else is our bug, and must not end the mount."""

    @functools.wraps(operation)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await operation(*args, **kwargs)
        except RbdfsError as err:
            log.debug("%s: %s", operation.__name__, err)
            raise FUSEError(err.errno) from err
        except FUSEError:
            raise
        except Exception as err:
            log.exception("%s failed unexpectedly", operation.__name__)
            raise FUSEError(errno.EIO) from err

    return answer


class _OpenDirectory:
    """A listing under way: the entries as they were at its start, less those that have gone since."""

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.entries: list[tuple[str, Inode | None]] = []  # their places stay: the kernel counts by them
        self.names_changed = 0  # as the tree had counted when the entries were right
        self.is_new = True
        self.at_once = _AHEAD  # entries whose attributes are asked for side by side: as many as a reply takes


class Namespace(pyfuse3.Operations):
    """Names and attributes of one mount."""

    def __init__(self, tree: Tree, options: MountOptions) -> None:
        super().__init__()
        self.handles = Handles()
        self._tree = tree
        self._inodes = tree.inodes
        self._defaults = options.defaults
        self._directories: dict[int, _OpenDirectory] = {}
        self._last_directory = 0
        self.on_use_changed: Callable[[], None] = lambda: None

    async def _entry(self, inode: Inode) -> EntryAttributes:
        """Attributes for a reply that makes the kernel know the inode."""
        found = await self._tree.attributes(inode)
        self._inodes.remember(inode)
        return found.to_entry()

    # Names

    @_answers
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """LOOKUP."""
        parent = self._inodes[parent_inode]
        if name == b".":
            return await self._entry(parent)
        if name == b"..":
            return await self._entry(
                self._inodes.snap_root if parent.kind is Kind.SNAP_DIRECTORY else self._inodes.root
            )
        return await self._entry(await self._tree.lookup(parent, os.fsdecode(name)))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """FORGET, BATCH_FORGET."""
        for number, count in inode_list:
            self._inodes.forget(number, count)

    @_answers
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """OPENDIR."""
        directory = _OpenDirectory(self._inodes[inode])
        await self._list(directory)
        self._last_directory += 1
        self._directories[self._last_directory] = directory
        self.on_use_changed()  # the listing may have met names that cannot be shown
        return self._last_directory

    @_answers
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        """READDIRPLUS."""
        directory = self._directories[fh]
        await self._renew(directory, is_rewound=start_id == 0 and not directory.is_new)
        directory.is_new = False
        # Of this request alone: the kernel takes them for newer than all that it knew when it asked.
        found: dict[int, FileAttributes | None] = {}
        for index in range(start_id, len(directory.entries)):
            name, inode = directory.entries[index]
            if index not in found:
                await self._read_ahead(directory, index, found)
            made = found[index]
            if inode is None or made is None:
                continue  # it has gone
            if not pyfuse3.readdir_reply(token, os.fsencode(name), made.to_entry(), index + 1):
                directory.at_once = index - start_id + 1
                return
            self._inodes.remember(inode)

    async def _list(self, directory: _OpenDirectory) -> None:
        directory.names_changed = self._tree.names_changed
        directory.entries = [*await self._tree.list_directory(directory.inode)]

    async def _renew(self, directory: _OpenDirectory, *, is_rewound: bool) -> None:
        """Have a name that goes on to the kernel mean what it means now: it believes a listing."""
        before = directory.entries
        if is_rewound or directory.names_changed != self._tree.names_changed:
            await self._list(directory)
            if not is_rewound:
                current = dict(directory.entries)
                directory.entries = [
                    (name, now if inode and (now := current.get(name)) and now.number == inode.number else None)
                    for name, inode in before
                ]

    async def _read_ahead(self, directory: _OpenDirectory, start: int, found: dict[int, FileAttributes | None]) -> None:
        async with trio.open_nursery() as nursery:
            for index in range(start, min(start + directory.at_once, len(directory.entries))):
                nursery.start_soon(self._read_attributes, directory, index, found)

    async def _read_attributes(
        self, directory: _OpenDirectory, index: int, found: dict[int, FileAttributes | None]
    ) -> None:
        name, inode = directory.entries[index]
        found[index] = None
        if inode is None:
            return
        try:
            found[index] = await self._tree.attributes(inode)
        except (NotFound, Gone):
            return
        except Exception as err:  # one damaged image does not break the listing of the others
            log.warning("%s: %s", name, err)
            file = self._tree.images.peek(inode.image_id, inode.snap_id)
            found[index] = attributes.broken(inode.number, self._defaults, file.content.size if file else 0)

    @_answers
    async def releasedir(self, fh: int) -> None:
        """RELEASEDIR."""
        del self._directories[fh]

    @_answers
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """UNLINK."""
        await self._tree.remove(self._inodes[parent_inode], os.fsdecode(name))

    @_answers
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """RENAME, RENAME2."""
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise InvalidArgument("names cannot be exchanged")
        old, new = self._inodes[parent_inode_old], self._inodes[parent_inode_new]
        await self._tree.rename(old, os.fsdecode(name_old), new, os.fsdecode(name_new))

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """MKDIR: the directories are what they are."""
        raise FUSEError(errno.EPERM)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """RMDIR."""
        raise FUSEError(errno.EPERM)

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        """MKNOD."""
        raise FUSEError(errno.EPERM)

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """SYMLINK."""
        raise FUSEError(errno.EPERM)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        """LINK."""
        raise FUSEError(errno.EPERM)

    # Attributes

    @_answers
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """GETATTR."""
        return (await self._tree.attributes(self._inodes[inode])).to_entry()

    async def statx(self, inode: int) -> Buffer:
        """STATX, which pyfuse3 does not know; asked by the data lane."""
        return (await self._tree.attributes(self._inodes[inode])).to_statx()

    @_answers
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """SETATTR."""
        changed = self._inodes[inode]
        if changed.kind is Kind.SNAPSHOT and self.handles.is_being_made(inode) and not fields.update_size:
            return (await self._tree.attributes(changed)).to_entry()  # touch sets the times of what it has just made
        if fields.update_size:
            await self._tree.resize(changed, attr.st_size)
        if fields.update_mode:
            await self._tree.set_mode(changed, attr.st_mode)
        if fields.update_uid or fields.update_gid:
            before = await self._tree.attributes(changed)
            uid = attr.st_uid if fields.update_uid else before.uid
            gid = attr.st_gid if fields.update_gid else before.gid
            await self._tree.set_owner(changed, uid, gid)
        if fields.update_mtime and not fields.update_size:  # truncate sets it to now, which it is anyway
            await self._tree.set_mtime(changed, attr.st_mtime_ns)
        return (await self._tree.attributes(changed)).to_entry()

    @_answers
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """STATFS."""
        usage = await self._tree.usage()
        found = StatvfsData()
        found.f_bsize = found.f_frsize = _BLOCK
        found.f_blocks = (usage.used + usage.available) // _BLOCK
        found.f_bfree = found.f_bavail = usage.available // _BLOCK
        found.f_namemax = NAME_MAX
        return found

    @_answers
    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        """LISTXATTR."""
        found = self._inodes[inode]
        if found.is_directory:
            return []
        async with self._tree.images.using(found) as file:
            return await extended.names(found, file)

    @_answers
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """GETXATTR."""
        found = self._inodes[inode]
        if found.is_directory:
            raise NoData("a directory has no extended attributes")
        async with self._tree.images.using(found) as file:
            return await extended.get(found, file, name)

    @_answers
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """SETXATTR."""
        found = self._of_writable_image(inode)
        async with self._tree.images.using(found) as file:
            await extended.set_value(found, file, name, value)

    @_answers
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """REMOVEXATTR."""
        found = self._of_writable_image(inode)
        async with self._tree.images.using(found) as file:
            await extended.remove(found, file, name)

    def _of_writable_image(self, inode: int) -> Inode:
        found = self._inodes[inode]
        if found.kind is not Kind.IMAGE:
            raise ReadOnly(f"{found}: has no attributes to set")
        return found

    # Files

    @_answers
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """OPEN."""
        return await self._open(self._inodes[inode], flags)

    @_answers
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """CREATE: an image of no size, or a snapshot. Its mode is the mount's, as chmod has not spoken yet."""
        parent = self._inodes[parent_inode]
        is_new = True
        try:
            inode = await self._tree.create(parent, os.fsdecode(name), ctx.uid, ctx.gid)
        except Exists:  # made by another client since the kernel looked
            if flags & os.O_EXCL:
                raise
            inode, is_new = await self._tree.lookup(parent, os.fsdecode(name)), False
        entry = await self._entry(inode)
        return await self._open(inode, flags, is_new=is_new), entry

    async def _open(self, inode: Inode, flags: int, *, is_new: bool = False) -> FileInfo:
        wants_write = flags & os.O_ACCMODE != os.O_RDONLY
        if wants_write and inode.kind is Kind.SNAPSHOT and not is_new:
            raise ReadOnly(f"{inode}: a snapshot")
        file = await self._tree.images.acquire(inode)
        try:
            if wants_write and file.content.is_read_only and not is_new:
                raise ReadOnly(f"{inode}: can only be read")
            handle = self.handles.open(file, is_writable=wants_write and not file.content.is_read_only, is_new=is_new)
            handle.is_synchronous = bool(flags & os.O_DIRECT and flags & os.O_DSYNC)
        except BaseException:
            self._tree.images.release(file)
            raise
        is_direct = bool(flags & os.O_DIRECT)
        keep_pages = file.keep_pages_at_open(writes_directly=is_direct and wants_write)
        self.on_use_changed()
        return FileInfo(fh=handle.fh, keep_cache=keep_pages, direct_io=is_direct)

    @_answers
    async def release(self, fh: int) -> None:
        """RELEASE; nothing is awaited, so that an unlink which follows finds the file closed."""
        self._tree.images.release(self._file(self.handles.release(fh)))
        self.on_use_changed()

    @staticmethod
    def _file(handle: Handle) -> ImageFile:
        assert isinstance(handle.file, ImageFile)
        return handle.file

    async def copy_range(self, source: Handle, source_offset: int, target: Handle, offset: int, length: int) -> int:
        """COPY_FILE_RANGE, which pyfuse3 does not know; asked by the data lane."""
        image = self._file(target).image
        return await image.copy_range(self._file(source).image, source_offset, offset, length)

    def drop_pages(self, inode: int) -> None:
        """Have the kernel read a file again; asked by the data lane."""
        self._tree.drop_pages(inode)

    # Bytes of files, on a mount with a single lane

    def _handle(self, fh: int) -> Handle:
        handle = self.handles.get(fh)
        if handle is None:
            raise FUSEError(errno.EBADF)
        return handle

    @_answers
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """READ."""
        return await self._file(self._handle(fh)).image.read(off, size)

    @_answers
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """WRITE."""
        handle = self._handle(fh)
        if not handle.is_writable:
            raise FUSEError(errno.EROFS)
        handle.is_dirty = True
        with handle.file.resizing():
            handle.file.wrote_to(off + len(buf))
            await self._file(handle).image.write(off, buf)
        if handle.is_synchronous:
            await self._flush(handle)
        return len(buf)

    @_answers
    async def flush(self, fh: int) -> None:
        """FLUSH."""
        handle = self._handle(fh)
        if handle.is_dirty:
            await self._flush(handle)

    @_answers
    async def fsync(self, fh: int, datasync: bool) -> None:
        """FSYNC."""
        await self._flush(self._handle(fh))

    async def _flush(self, handle: Handle) -> None:
        handle.is_dirty = False
        try:
            await self._file(handle).image.flush()
        except BaseException:
            handle.is_dirty = True
            raise

    @_answers
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """FSYNCDIR."""
        await self._tree.flush()
