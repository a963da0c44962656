"""Open images, shared by all their handles: opened when first needed, closed when idle for a while.

Each image or snapshot in use is held open by a task of its own, from `open_image` to the end of its block, which
flushes, gives the exclusive lock up and ends the watch.

    users > 0          held
    users == 0         idle: closed after IDLE_SECONDS, or sooner: when more than IDLE_IMAGES idle, when another
                       client wants the image (`ImageChange.WANTED`), or by `evicted`

While an image is open, its watch tells us of every change, so the kernel may keep its pages from one open of the file
to the next. It does not tell what another client writes while that one owns the exclusive lock: then the pages are
dropped every second. Once the image was closed, the version of its header tells: nobody writes without the lock, and
nobody takes that without changing the header.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import trio

from rbdfs.errors import Busy, Gone, NotFound, PermissionDenied, RbdfsError, StoreFailure
from rbdfs.fuse.attributes import Kept
from rbdfs.fuse.handles import OpenFile
from rbdfs.fuse.inodes import Inode
from rbdfs.image.changes import ImageChange
from rbdfs.image.image import Image, open_image
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import HEAD, SnapId

log = logging.getLogger(__name__)

# Programs look at a file and open it again at once (qemu-img, mkfs, losetup). But `rbd rm` and `rbd snap rollback` ask
# nobody to close an image or to give its lock up, and are to work when they follow the last close in a script.
IDLE_SECONDS = 0.02
IDLE_IMAGES = 64
STALE_SECONDS = 1.0  # how long the kernel keeps pages of an open file that another client may write
_BUSY_GRACE_SECONDS = 0.5  # a RELEASE may arrive after the unlink that followed its close

Key = tuple[str, SnapId]


class ImageFile(OpenFile):
    """An open image or snapshot, as a file."""

    __slots__ = (
        "_has_direct_writers",
        "_has_other_writers",
        "allocation",
        "holder",
        "image",
        "kept",
        "may_keep_pages",
        "metadata_changes",
    )

    def __init__(self, holder: "_Holder", image: Image) -> None:
        super().__init__(holder.inode.number, image)
        self.holder = holder
        self.image = image
        # What the kernel holds is from before we watched the image.
        self.may_keep_pages = bool(holder.inode.pages_from) and holder.inode.pages_from == image.header.version
        self._has_direct_writers = False  # ever, since the image was opened
        ours = f"client.{image.ioctx.cluster.instance_id}"
        self._has_other_writers = image.lock is None or any(locker.entity != ours for locker in image.header.lockers)
        self.kept: Kept | None = None  # read when needed, void after a change of metadata
        self.metadata_changes = 0
        self.allocation = _Allocation()

    def keep_pages_at_open(self, *, writes_directly: bool = False) -> bool:
        """Whether the pages that the kernel holds are still good for one more open.

        Kernels before 6.6 do not notice that a direct write to a file makes its pages stale.
        """
        if self.image.snap is not None:
            return True
        self._has_direct_writers |= writes_directly
        keep, self.may_keep_pages = self.may_keep_pages, not self._has_direct_writers
        return keep and not self._has_other_writers

    @property
    def may_get_stale(self) -> bool:
        """Whether another client may write at any time, without a word."""
        return self.image.snap is None and self._has_other_writers

    def forget_kept(self) -> None:
        """The metadata has changed."""
        self.kept = None
        self.metadata_changes += 1

    def lock_moved(self) -> None:
        """The exclusive lock was taken or given up, by us or by another client."""
        lock = self.image.lock
        self._has_other_writers = lock is None or not lock.is_owner

    async def allocated_bytes(self) -> int:
        """Bytes that it occupies; where that is dear to find out, as it was a moment ago."""
        return await self.allocation.read(self.image)


class _Allocation:
    """A count that is asked again no more often than a small share of the time that asking takes."""

    _PATIENCE = 20

    def __init__(self) -> None:
        self._value = 0
        self._good_until = float("-inf")

    async def read(self, image: Image) -> int:
        began = trio.current_time()
        if began >= self._good_until:
            self._value = await image.allocated_bytes()
            ended = trio.current_time()
            self._good_until = ended + self._PATIENCE * (ended - began)
        return self._value


class _Holder:
    """The life of one open image."""

    __slots__ = ("changed", "closed", "error", "file", "inode", "is_closing", "is_wanted", "opened", "users")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.users = 0
        self.is_wanted = False  # by another client
        self.is_closing = False
        self.file: ImageFile | None = None
        self.error: RbdfsError | None = None
        self.opened = trio.Event()
        self.closed = trio.Event()
        self.changed = trio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class OpenImages:
    """All images that this mount holds open."""

    def __init__(self, ioctx: IoCtx, on_change: Callable[[ImageFile, ImageChange], None], *, read_only: bool) -> None:
        self._ioctx = ioctx
        self._on_change = on_change
        self._read_only = read_only
        self._holders: dict[Key, _Holder] = {}
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._holders)

    def names(self) -> list[str]:
        """What is in use, as image specs."""
        return sorted(str(holder.inode) for holder in self._holders.values() if holder.users)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Images can be opened inside the block; leaving it closes them all."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield
            finally:
                for holder in self._holders.values():
                    holder.is_closing = True
                    holder.wake()
                self._nursery = None

    def peek(self, image_id: str, snap_id: SnapId = HEAD) -> ImageFile | None:
        """The open image, if it is open."""
        holder = self._holders.get((image_id, snap_id))
        return holder.file if holder is not None else None

    async def acquire(self, inode: Inode) -> ImageFile:
        """Open the image, or share it; each call is matched by one `release`. Gone where it has been removed."""
        key = (inode.image_id, inode.snap_id)
        while True:
            holder = self._holders.get(key)
            if holder is not None and holder.is_closing:
                await holder.closed.wait()
                continue
            if holder is None:
                if self._nursery is None:
                    raise StoreFailure(f"{inode}: the mount is going away")
                holder = self._holders[key] = _Holder(inode)
                self._nursery.start_soon(self._hold, key, holder)
            holder.users += 1
            holder.wake()
            try:
                await holder.opened.wait()
            except BaseException:
                self._leave(holder)
                raise
            if holder.error is not None:
                raise holder.error
            assert holder.file is not None
            return holder.file

    def release(self, file: ImageFile) -> None:
        """End a use of the image."""
        self._leave(file.holder)
        if file.holder.users == 0:
            self._limit_idle()

    @asynccontextmanager
    async def using(self, inode: Inode) -> AsyncIterator[ImageFile]:
        """The image, open for the length of the block."""
        file = await self.acquire(inode)
        try:
            yield file
        finally:
            self.release(file)

    @asynccontextmanager
    async def evicted(self, inode: Inode) -> AsyncIterator[None]:
        """Keep the image closed for the length of the block; Busy while it is in use."""
        key = (inode.image_id, inode.snap_id)
        with trio.move_on_after(_BUSY_GRACE_SECONDS) as grace:
            while (holder := self._holders.get(key)) is not None:
                if holder.users:
                    await holder.changed.wait()
                else:
                    grace.deadline = float("inf")
                    holder.is_closing = True
                    holder.wake()
                    await holder.closed.wait()
                    grace.deadline = trio.current_time() + _BUSY_GRACE_SECONDS
        if holder is not None:
            raise Busy(f"{inode}: in use on this mount")
        barrier = self._holders[key] = _Holder(inode)
        barrier.is_closing = True
        try:
            yield
        finally:
            del self._holders[key]
            barrier.closed.set()

    def _leave(self, holder: _Holder) -> None:
        holder.users -= 1
        holder.wake()

    def _limit_idle(self) -> None:
        idle = [holder for holder in self._holders.values() if not holder.users and not holder.is_closing]
        for holder in idle[: max(0, len(idle) - IDLE_IMAGES)]:  # oldest first
            holder.is_closing = True
            holder.wake()

    async def _open(self, stack: AsyncExitStack, inode: Inode) -> Image:
        """Open an image until the end of the stack; for reading only, where we may not do more."""
        opened = partial(
            open_image, self._ioctx, image_id=inode.image_id, snap_id=inode.snap_id if inode.snap_id != HEAD else None
        )
        read_only = self._read_only or inode.snap_id != HEAD
        try:
            return await stack.enter_async_context(opened(read_only=read_only))
        except PermissionDenied as err:
            if read_only:
                raise
            log.info("%s: opened for reading only: %s", inode, err)
            return await stack.enter_async_context(opened(read_only=True))

    async def _hold(self, key: Key, holder: _Holder) -> None:
        inode = holder.inode
        try:
            async with AsyncExitStack() as stack:
                image = await self._open(stack, inode)
                holder.file = ImageFile(holder, image)
                inode.pages_from = 0
                unsubscribe = image.subscribe(partial(self._changed, holder))
                holder.opened.set()
                try:
                    await self._until_idle(holder)
                finally:
                    holder.is_closing = True
                    unsubscribe()
            inode.pages_from = image.left_at if holder.file.may_keep_pages else 0
        except RbdfsError as err:
            if holder.opened.is_set():
                log.error("%s: closing: %s", inode, err)  # each close() was told already: it flushes
            holder.error = Gone(f"{inode}: has been removed") if isinstance(err, NotFound) else err
        except Exception as err:
            log.exception("%s: open image failed", inode)
            holder.error = StoreFailure(f"{inode}: {err}")
        finally:
            holder.is_closing = True
            if self._holders.get(key) is holder:
                del self._holders[key]
            holder.opened.set()
            holder.closed.set()

    def _changed(self, holder: _Holder, change: ImageChange) -> None:
        file = holder.file
        assert file is not None
        if change & ImageChange.WANTED:
            holder.is_wanted = True
            holder.wake()
        if change & ImageChange.LOCK:
            file.lock_moved()
            holder.wake()
        if change & ImageChange.CONTENT:
            file.may_keep_pages = False
        self._on_change(file, change)

    async def _until_idle(self, holder: _Holder) -> None:
        file = holder.file
        assert file is not None
        while not holder.is_closing and (holder.users or not holder.is_wanted):
            patience = IDLE_SECONDS if not holder.users else STALE_SECONDS if file.may_get_stale else float("inf")
            with trio.move_on_after(patience) as wait:
                await holder.changed.wait()
            if wait.cancelled_caught:
                if not holder.users:
                    return
                self._on_change(file, ImageChange.CONTENT)
