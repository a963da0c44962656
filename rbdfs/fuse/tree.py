"""A pool as a tree of files: what names mean, what files are like, what changes them.

    /<image>                    the image; sizes, holes and times are its own
    /.snap/<image>/<snap>       a snapshot, read-only; made by creating the name, removed by removing it
    /.snap/<image>@<snap>       the same, unlisted, so that a spec can be pasted
    /.snap                      unlisted in /

An image is its id here, so a rename by anybody leaves open files what they were. What the kernel caches of an open
image is dropped when the image changes behind it; of an image that is not open nothing is cached for longer than the
timeouts.
"""

import fnmatch
import os
import stat
import time
from collections.abc import Callable
from functools import partial

import trio

from rbdfs.errors import (
    Gone,
    InvalidArgument,
    NameTooLong,
    NotFound,
    NotSupported,
    PermissionDenied,
    RbdfsError,
    ReadOnly,
)
from rbdfs.fuse import attributes
from rbdfs.fuse.attributes import MODE_KEY, MTIME_KEY, OWNER_KEY, FileAttributes, Kept
from rbdfs.fuse.file_names import NAME_MAX, SNAP_DIRECTORY, why_no_file_name, why_no_image_file_name
from rbdfs.fuse.inodes import Inode, Inodes, Kind
from rbdfs.fuse.notifier import Notifier
from rbdfs.fuse.open_images import ImageFile, OpenImages
from rbdfs.fuse.options import MountOptions
from rbdfs.image import directory, snapshots
from rbdfs.image.changes import ImageChange
from rbdfs.image.header import Header, SnapInfo, read_header
from rbdfs.image.layout import ImageLayout
from rbdfs.image.lookup import lookup
from rbdfs.image.metadata import list_metadata
from rbdfs.image.usage import occupied_bytes
from rbdfs.rados.api import IoCtx, PoolUsage
from rbdfs.wire import Buffer

_ONCE_MORE_SECONDS = 0.1


class Tree:
    """The files of one pool and namespace."""

    def __init__(self, ioctx: IoCtx, options: MountOptions, notifier: Notifier) -> None:
        self.inodes = Inodes()
        self.images = OpenImages(ioctx, self._image_changed, read_only=options.read_only)
        self.names_changed = 0  # how often a name has gone, as far as we hear of it: listings under way look again
        self.hidden: dict[str, str] = {}  # names that cannot be files, and why; as of the last listing
        self._ioctx = ioctx
        self._options = options
        self._defaults = options.defaults
        self._notifier = notifier
        self._mounted_at = time.time_ns()

    # What names mean

    async def lookup(self, parent: Inode, name: str) -> Inode:
        """What a name in a directory is; NotFound."""
        if parent.kind is Kind.ROOT:
            if name == SNAP_DIRECTORY:
                return self.inodes.snap_root
            return self.inodes.image(await self._image_id(name), name)
        if parent.kind is Kind.SNAP_ROOT:
            image_name, at, snap_name = name.partition("@")
            image_id = await self._image_id(image_name)
            if not at:
                return self.inodes.snap_directory(image_id, image_name)
            return await self._snapshot(image_id, image_name, snap_name)
        if parent.kind is Kind.SNAP_DIRECTORY:
            return await self._snapshot(parent.image_id, parent.image_name, name)
        raise NotFound(f"{parent}: not a directory")

    async def _image_id(self, name: str) -> str:
        if why_no_image_file_name(name) or not fnmatch.fnmatchcase(name, self._options.image):
            raise NotFound(f"{name}: no such image")
        return await lookup(self._ioctx, name)

    async def _snapshot(self, image_id: str, image_name: str, snap_name: str) -> Inode:
        async with self.images.using(self.inodes.image(image_id, image_name)) as file:
            snap = file.image.header.snap_by_name(snap_name)
        if snap is None:
            raise NotFound(f"{image_name}@{snap_name}: no such snapshot")
        return self.inodes.snapshot(image_id, image_name, snap.id, snap_name)

    async def list_directory(self, inode: Inode) -> list[tuple[str, Inode]]:
        """The entries of a directory, by name."""
        if inode.kind is Kind.SNAP_DIRECTORY:
            async with self.images.using(self._image_of(inode)) as file:
                snaps = file.image.header.snaps
            return [
                (snap.name, self.inodes.snapshot(inode.image_id, inode.image_name, snap.id, snap.name))
                for snap in sorted(snaps, key=lambda snap: snap.name)
                if why_no_file_name(snap.name) is None
            ]
        make = self.inodes.image if inode.kind is Kind.ROOT else self.inodes.snap_directory
        return [(name, make(image_id, name)) for name, image_id in (await self.list_images()).items()]

    async def list_images(self) -> dict[str, str]:
        """The images that are shown, name -> id; notes which cannot be."""
        shown, hidden = {}, {}
        for name, image_id in (await directory.list_images(self._ioctx)).items():
            reason = why_no_image_file_name(name)
            if reason is not None:
                hidden[name] = reason
            elif fnmatch.fnmatchcase(name, self._options.image):
                shown[name] = image_id
        self.hidden = hidden
        return shown

    # What files are like

    async def attributes(self, inode: Inode) -> FileAttributes:
        """What stat(2) says of an inode; raises what makes it impossible to know.

        Gone (ESTALE) where somebody has removed it: the kernel then looks the name up again, which it may have cached,
        and so finds that it is missing, or another file's.
        """
        if inode.is_directory:
            return attributes.directory(inode.number, self._defaults, self._mounted_at)
        if inode.kind is Kind.SNAPSHOT:
            return await self._attributes_of_snapshot(inode)
        if self.images.peek(inode.image_id) is not None:
            async with self.images.using(inode) as file:
                return await self._attributes_of_open(inode, file)
        # An image that is not open is not opened for this: a listing has thousands of them.
        try:
            header = await read_header(self._ioctx, inode.image_id)
        except NotFound as err:
            raise Gone(f"{inode}: has been removed") from err
        kept = Kept.from_metadata(await list_metadata(self._ioctx, inode.image_id))
        allocated = await occupied_bytes(self._ioctx, header)
        if allocated is None:
            try:
                async with self.images.using(inode) as file:
                    allocated = await file.allocated_bytes()
            except NotSupported:  # it can be listed, if not opened; a tar that saw 0 would take it for one hole
                allocated = header.size
        return self._make_attributes(inode, header, None, kept, header.size, allocated)

    async def _attributes_of_open(self, inode: Inode, file: ImageFile) -> FileAttributes:
        image = file.image
        kept = await self._kept(file)
        allocated = await file.allocated_bytes()
        if file.written_at > kept.mtime_set_at:
            kept = Kept(kept.mode, kept.owner)
        made = self._make_attributes(inode, image.header, None, kept, image.size, allocated)
        if kept.mtime is None:
            made.mtime = max(made.mtime, file.written_at)
        made.ctime = max(made.ctime, file.written_at)
        return made

    async def _attributes_of_snapshot(self, inode: Inode) -> FileAttributes:
        # Its header has every snapshot, and is costly with many: opened once, it is there for all of a listing.
        async with self.images.using(self._image_of(inode)) as file:
            header = file.image.header
            snap = header.snap_by_id(inode.snap_id)
            if snap is None:
                raise Gone(f"{inode}: has been removed")
            kept = await self._kept(file)
            allocated = await occupied_bytes(self._ioctx, header, snap)
            if allocated is None:
                async with self.images.using(inode) as opened:
                    allocated = await opened.allocated_bytes()
            return self._make_attributes(inode, header, snap, kept, snap.size, allocated)

    async def _kept(self, file: ImageFile) -> Kept:
        if file.kept is not None:
            return file.kept
        changes = file.metadata_changes
        kept = Kept.from_metadata(await list_metadata(self._ioctx, file.image.image_id))
        if file.metadata_changes == changes:
            file.kept = kept
        return kept

    def _make_attributes(
        self, inode: Inode, header: Header, snap: SnapInfo | None, kept: Kept, size: int, allocated: int
    ) -> FileAttributes:
        mode = kept.mode if kept.mode is not None else self._defaults.file_mode
        uid, gid = kept.owner or (self._defaults.uid, self._defaults.gid)
        made = FileAttributes(inode.number, stat.S_IFREG | mode, uid, gid, size, allocated)
        made.entry_timeout, made.attr_timeout = self._defaults.entry_timeout, self._defaults.attr_timeout
        if snap is not None:
            made.mode &= ~0o222
            made.atime = made.mtime = made.ctime = made.btime = snap.timestamp
            return made
        made.btime = header.create_timestamp
        made.atime = header.access_timestamp or header.create_timestamp
        made.mtime = header.modify_timestamp or header.create_timestamp
        made.ctime = max(made.mtime, kept.mtime_set_at)
        if kept.mtime is not None and made.mtime <= kept.mtime_set_at:
            made.mtime = kept.mtime
        return made

    async def usage(self) -> PoolUsage:
        """What df shows."""
        return await self._ioctx.usage()

    # What changes them

    async def create(self, parent: Inode, name: str, uid: int, gid: int) -> Inode:
        """Make an image of no size, or a snapshot; Exists."""
        if parent.kind is Kind.ROOT:
            return await self._create_image(name, uid, gid)
        if parent.kind is Kind.SNAP_DIRECTORY:
            self._check_name(name, why_no_file_name)
            async with self.images.using(self._image_of(parent)) as file:
                snap_id = await snapshots.create(file.image, name)
            await self.flush()
            return self.inodes.snapshot(parent.image_id, parent.image_name, snap_id, name)
        raise PermissionDenied(f"{name}: a snapshot is made in the directory of its image, .snap/<image>/")

    async def _create_image(self, name: str, uid: int, gid: int) -> Inode:
        self._check_image_name(name)
        layout: ImageLayout = {} if self._options.order is None else {"order": self._options.order}
        image_id = await directory.create(self._ioctx, name, 0, **layout)
        inode = self.inodes.image(image_id, name)
        if (uid, gid) != (self._defaults.uid, self._defaults.gid):
            await self._keep(inode, {OWNER_KEY: f"{uid}:{gid}"})
        return inode

    def _check_image_name(self, name: str) -> None:
        self._check_name(name, why_no_image_file_name)
        if not fnmatch.fnmatchcase(name, self._options.image):
            raise PermissionDenied(f"{name}: this mount shows only {self._options.image}")

    def _check_name(self, name: str, why_not: Callable[[str], str | None]) -> None:
        reason = why_not(name)
        if reason is not None:
            raise NameTooLong(reason) if len(os.fsencode(name)) > NAME_MAX else InvalidArgument(reason)

    def _image_of(self, inode: Inode) -> Inode:
        return self.inodes.image(inode.image_id, inode.image_name)

    async def remove(self, parent: Inode, name: str) -> None:
        """Remove an image without snapshots, or a snapshot; Busy while it is in use here or elsewhere."""
        self.names_changed += 1
        inode = await self.lookup(parent, name)
        if inode.kind is Kind.IMAGE:
            async with self.images.evicted(inode):
                await directory.remove(self._ioctx, name)
            self._name_is_free(name)
        elif inode.kind is Kind.SNAPSHOT:
            async with self.images.evicted(inode), self.images.using(self._image_of(inode)) as file:
                await snapshots.remove(file.image, inode.snap_name)
        else:
            raise PermissionDenied(f"{name}: a directory of snapshots goes with its image")
        await self.flush()

    async def rename(self, parent: Inode, name: str, new_parent: Inode, new_name: str) -> None:
        """Rename an image, or a snapshot within its image; Exists where the new name is taken."""
        if parent.number != new_parent.number:
            raise PermissionDenied(f"{name}: images and snapshots stay in their directories")
        self.names_changed += 1
        inode = await self.lookup(parent, name)
        if inode.kind is Kind.IMAGE:
            self._check_image_name(new_name)
            await directory.rename(self._ioctx, name, new_name)
            inode.image_name = new_name
            self._name_is_free(name)
        elif inode.kind is Kind.SNAPSHOT and parent.kind is Kind.SNAP_DIRECTORY:
            self._check_name(new_name, why_no_file_name)
            async with self.images.using(self._image_of(inode)) as file:
                await snapshots.rename(file.image, name, new_name)
            inode.snap_name = new_name
        else:
            raise PermissionDenied(f"{name}: cannot be renamed")
        await self.flush()

    async def flush(self) -> None:
        """Make durable which images and snapshots there are.

        What removes or renames one does so itself: else a crash could bring an image back whose data is gone. Where
        whatever is done is durable, nothing is waited for: least of all what others write to OSDs that are away.
        """
        if not self._ioctx.cluster.properties.durable_on_completion:
            await self._ioctx.flush()

    async def resize(self, inode: Inode, size: int) -> None:
        """Set the size of an image, to the byte."""
        if inode.kind is not Kind.IMAGE:
            raise ReadOnly(f"{inode}: a snapshot")
        async with self.images.using(inode) as file:
            if size == file.content.size:
                await file.image.grow(size)  # nothing to do but to keep it
                return
            if size < file.content.size and self._options.no_shrink:
                raise PermissionDenied(f"{inode}: mounted with no_shrink")
            with file.resizing():
                file.wrote_to(size)
                await file.image.resize(size)

    async def set_mode(self, inode: Inode, mode: int) -> None:
        """Chmod."""
        await self._keep(inode, {MODE_KEY: f"{mode & 0o777:04o}"})

    async def set_owner(self, inode: Inode, uid: int, gid: int) -> None:
        """Chown."""
        await self._keep(inode, {OWNER_KEY: f"{uid}:{gid}"})

    async def set_mtime(self, inode: Inode, mtime: int) -> None:
        """utimes; the access time stays the image's own. Writes from before are told first, or they seem to follow."""
        if inode.kind is Kind.IMAGE:
            async with self.images.using(inode) as file:
                await file.image.timestamps.settle()
        await self._keep(inode, {MTIME_KEY: f"{mtime} {time.time_ns()}"})

    async def _keep(self, inode: Inode, values: dict[str, str]) -> None:
        if inode.kind is not Kind.IMAGE:
            raise ReadOnly(f"{inode}: cannot be changed")
        async with self.images.using(inode) as file:
            for key, value in values.items():
                await file.image.metadata_set(key, value)
            file.forget_kept()

    # What the kernel must hear

    def drop_pages(self, inode: int) -> None:
        """The kernel may hold other bytes of a file than there are."""
        self._notifier.invalidate_content(inode)

    def _name_is_free(self, name: str) -> None:
        """The kernel has forgotten a name in /, and must do so in /.snap: it may mean another image now."""
        self._notifier.invalidate_entry(self.inodes.snap_root.number, name)
        self.names_changed += 1

    # What others change

    def _image_changed(self, file: ImageFile, change: ImageChange) -> None:
        image = file.image
        if image.snap is not None:
            return  # a snapshot does not change; that it goes is heard by its image
        if change & ImageChange.CONTENT:
            self._notifier.invalidate_content(file.inode)
        if change & ImageChange.SIZE and not file.is_resizing and image.size != file.known_size:
            has_grown, file.known_size = image.size > file.known_size, image.size
            self._notifier.invalidate_content(file.inode)
            if has_grown:
                image.submit_read(image.size - 1, 1, partial(self._have_read_last, file, image.size))
            else:
                image.nursery.start_soon(self._tell_smaller, file)
        if change & ImageChange.METADATA:
            file.forget_kept()
            self._notifier.invalidate_attributes(file.inode)
        if change & (ImageChange.NAME | ImageChange.REMOVED):
            for inode in self.inodes.known(Kind.IMAGE, image.image_id):
                self._notifier.invalidate_entry(self.inodes.root.number, inode.image_name)
            for inode in self.inodes.known(Kind.SNAP_DIRECTORY, image.image_id):
                self._notifier.invalidate_entry(self.inodes.snap_root.number, inode.image_name)
            self.names_changed += 1
        if change & (ImageChange.SNAPSHOTS | ImageChange.REMOVED):
            self._snapshots_changed(image.image_id, image.header)

    async def _tell_smaller(self, file: ImageFile) -> None:
        """A GETATTR under way at an invalidation may bring the old size back: once more, a moment later."""
        await trio.sleep(_ONCE_MORE_SECONDS)
        self._notifier.invalidate_content(file.inode)

    def _have_read_last(self, file: ImageFile, size: int, outcome: list[Buffer] | RbdfsError) -> None:
        if isinstance(outcome, list) and outcome and file.known_size == size == file.image.size:
            self._notifier.file_has_grown(file.inode, size, outcome[0])

    def _snapshots_changed(self, image_id: str, header: Header) -> None:
        for parent in self.inodes.known(Kind.SNAP_DIRECTORY, image_id):
            self._notifier.invalidate_content(parent.number)
            for inode in self.inodes.known(Kind.SNAPSHOT, image_id):
                snap = header.snap_by_id(inode.snap_id)
                if snap is None or snap.name != inode.snap_name:
                    self._notifier.invalidate_entry(parent.number, inode.snap_name)
