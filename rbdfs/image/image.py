"""An open image: read, write, discard, flush, resize."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from rbdfs.cls import notify
from rbdfs.errors import InvalidArgument, NoSpace, NotFound, NotSupported, PermissionDenied, RbdfsError
from rbdfs.image import allocation, copying, metadata, resizing, zeroing
from rbdfs.image.changes import ImageChange
from rbdfs.image.core import ImageCore
from rbdfs.image.features import check_readable
from rbdfs.image.header import Header, Locker, SnapInfo, read_header
from rbdfs.image.header_watch import Answer
from rbdfs.image.joins import OnRead, OnWrite
from rbdfs.image.lookup import lookup, where
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.image.requests import Requests
from rbdfs.image.tasks import Completion, open_tasks
from rbdfs.image.timestamps import Timestamps
from rbdfs.rados import calls
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Buffer, PoolId, SnapId, Watcher

__all__ = ["Image", "ImageChange", "ImageStatus", "OnRead", "OnWrite", "open_image"]

_CLOSE_SECONDS = 30.0


@dataclass(slots=True)
class ImageStatus:
    """Who uses an image."""

    watchers: list[Watcher]
    lockers: list[Locker]
    is_lock_owner: bool


class Image(ImageCore):
    """An image, or one of its snapshots, open."""

    def __init__(
        self,
        ioctx: IoCtx,
        data: IoCtx,
        name: str,
        header: Header,
        snap: SnapInfo | None,
        nursery: trio.Nursery,
        *,
        read_only: bool,
    ) -> None:
        super().__init__(ioctx, data, name, header, snap, nursery, read_only=read_only)
        self._grown_to = 0  # the size when last a write past the end, or its failure, has changed it
        self.left_at = 0  # the header object's version when all that we did was done; set by `close`, 0 if unknown
        self.requests = Requests(self)
        self.timestamps = Timestamps(self)

    # Data: the hot path.

    def submit_read(self, offset: int, length: int, on_complete: OnRead) -> None:
        """Read; the callback gets buffers of together min(length, size - offset) bytes, or an error.

        It may be called before this returns; it must neither raise nor block.
        """
        if self.timestamps.access_is_due:
            self.timestamps.note_access()
        self.path.submit_read(offset, length, on_complete)

    def submit_write(self, offset: int, data: Buffer, on_complete: OnWrite) -> None:
        """Write; `data` stays unchanged until the callback, and this return. Past the end, the image grows first."""
        self.timestamps.has_new_writes = True
        if self.timestamps.modify_is_due:
            self.timestamps.note_modify()
        self.path.submit_write(offset, data, on_complete)

    def submit_flush(self, on_complete: OnWrite) -> None:
        """Make durable what was written before."""
        self.path.submit_flush(on_complete)

    async def read(self, offset: int, length: int) -> bytes:
        """Read, awaited."""
        if offset < 0 or length < 0:
            raise InvalidArgument(f"{self.what}: {length} bytes at {offset}")
        completion: Completion[list[Buffer] | RbdfsError] = Completion()
        self.submit_read(offset, length, completion)
        result = await completion.wait()
        if isinstance(result, RbdfsError):
            raise result
        return b"".join(result)

    async def write(self, offset: int, data: Buffer) -> None:
        """Write, awaited."""
        if offset < 0:
            raise InvalidArgument(f"{self.what}: write at {offset}")
        completion: Completion[RbdfsError | None] = Completion()
        self.submit_write(offset, data, completion)
        error = await completion.wait()
        if error is not None:
            raise error

    async def flush(self) -> None:
        """Make durable what was written before."""
        await self.path.flush()

    # Data: compound.

    async def write_zeroes(self, offset: int, length: int) -> None:
        """Zero exactly these bytes, and free what can be freed; clipped at the size."""
        self.timestamps.note_modify()
        await zeroing.write_zeroes(self, offset, length)

    async def discard(self, offset: int, length: int) -> None:
        """Free what can be freed in whole units; what is not freed keeps its bytes."""
        self.timestamps.note_modify()
        await zeroing.discard(self, offset, length)

    async def resize(self, size: int, *, allow_shrink: bool = True, on_progress: OnProgress = quiet) -> None:
        """Change the size, to the byte."""
        if size == self.size and not self.is_read_only:
            self.path.keep(size)
            return
        self.timestamps.note_modify()
        await self.requests.carry_out(
            lambda request: notify.Resize(size, request, allow_shrink),
            lambda progress: resizing.resize(self, size, allow_shrink=allow_shrink, on_progress=progress),
            on_progress,
        )

    async def grow(self, size: int) -> None:
        """Make it at least that large, whatever becomes of writes past its end; what it is already is not cut off."""
        if size > self.size:
            self.timestamps.note_modify()
            await self._reach(size)
            await self.announce_rest()
        self.path.keep(size)

    async def copy_range(self, source: "Image", source_offset: int, offset: int, length: int) -> int:
        """Copy bytes of an image, sharing them where the store can; gives how many: fewer where the source ends."""
        length = min(length, source.size - source_offset)
        if length <= 0:
            return 0
        copying.check_overlap(self, source, source_offset, offset, length)
        self.timestamps.note_modify()
        before = self.size
        await self._reach(offset + length)
        try:
            await copying.copy(self, source, source_offset, offset, length)
        except NoSpace:
            with suppress(RbdfsError):
                await self._take_back(before, offset, length)
            raise
        self.path.keep(offset + length)
        return length

    async def _reach(self, size: int) -> None:
        """Make the image at least that large, as the owner of its lock."""
        async with self.path.writing():
            pass
        if size > self.size:
            await self._grow(size)

    async def _grow(self, size: int) -> None:
        async with self.maintenance:
            await self.prepare_writes()
            if size > self.size:
                await resizing.grow(self, size)
                self._grown_to = size
                self.announce_soon()

    async def _take_back(self, size: int, offset: int, length: int) -> None:
        if self.lock is not None and not self.lock.is_owner:
            return  # handed over meanwhile: another client may have written there
        async with self.maintenance:
            await self.prepare_writes()
            async with self.path.paused():
                size = max(size, self.path.kept)
                if size < self.size == self._grown_to:  # else somebody has resized it since
                    before = await allocation.data_extents(self, size, max(offset - size, 0))
                    behind = await allocation.data_extents(self, offset + length, self.size)
                    await resizing.shrink(self, max([size, *map(sum, (*before, *behind))]))
                    self._grown_to = self.size
                    self.announce_soon()

    # Where the data is.

    async def seek_data(self, offset: int) -> int | None:
        """Where data begins, at or after an offset; None where there is none."""
        return await allocation.seek_data(self, offset)

    async def seek_hole(self, offset: int) -> int:
        """Where a hole begins, at or after an offset; the end counts as one."""
        return await allocation.seek_hole(self, offset)

    async def data_extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Where data is, in order, neighbours joined; as exact as the store tells."""
        return await allocation.data_extents(self, offset, length)

    async def allocated_bytes(self) -> int:
        """Bytes that the image, or the snapshot, occupies."""
        return await allocation.allocated_bytes(self)

    # Metadata and state.

    async def metadata_list(self) -> dict[str, str]:
        """All key-value pairs that users attached."""
        return await metadata.list_pairs(self)

    async def metadata_get(self, key: str) -> str:
        """One value; NotFound."""
        return await metadata.get(self, key)

    async def metadata_set(self, key: str, value: str) -> None:
        """Attach a pair."""
        await self.requests.carry_out(
            lambda request: notify.MetadataUpdate(key, value, request), lambda _: metadata.update(self, key, value)
        )

    async def metadata_remove(self, key: str) -> None:
        """Remove a pair; NotFound."""
        await self.metadata_get(key)
        await self.requests.carry_out(
            lambda request: notify.MetadataUpdate(key, None, request), lambda _: metadata.update(self, key, None)
        )

    async def status(self) -> ImageStatus:
        """Who watches, and who holds the lock."""
        watchers = await calls.list_watchers(self.ioctx, self.header_name)
        header = await read_header(self.ioctx, self.image_id)
        return ImageStatus(watchers, header.lockers, self.lock is not None and self.lock.is_owner)

    # From open to close.

    def on_async_news(self, message: notify.AsyncProgress | notify.AsyncComplete) -> None:
        """News of a request that we made to the lock owner, or another client did."""
        self.requests.on_news(message)

    def on_request(self, message: notify.Message, answer: Answer) -> None:
        """Another client asks us, who own the lock, for something."""
        self.requests.on_request(message, answer)

    async def open(self) -> None:
        """Begin to watch, where we are allowed to; from here on the header is kept current."""
        try:
            await self.watcher.open()
        except PermissionDenied:
            if not self.is_read_only:
                raise
            return  # may not even watch: what is read stays as it was when opened
        try:
            await self.refresh()  # what changed before the watch stood
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(_CLOSE_SECONDS):
                await self.watcher.close()
            raise

    async def close(self) -> None:
        """Wait for what is under way, make it durable, give up the lock and the watch."""
        try:
            await self.path.close()
            await self.timestamps.close()
            await self.announce_rest()
            if not self.is_read_only and not self.is_removed:
                await self.path.flush()
        finally:
            try:
                if self.lock is not None:
                    self.left_at = await self.lock.unlock() or self.header.version
            finally:
                await self.watcher.close()
                if self.lock is not None:  # now: whoever waits for the lock may want an image that nobody watches
                    await self.lock.tell_released()


@asynccontextmanager
async def open_image(
    ioctx: IoCtx,
    name: str = "",
    *,
    image_id: str = "",
    snap_name: str = "",
    snap_id: SnapId | None = None,
    read_only: bool = False,
) -> AsyncIterator[Image]:
    """Open an image, by name or id, or a snapshot of it, by name or id.

    Leaving the block waits for what is under way, flushes, and gives up the lock and the watch; errors of that are
    raised. NotFound, Corrupt, or NotSupported naming the feature that we cannot read.
    """
    if not image_id:
        image_id = await lookup(ioctx, name)
    header = await read_header(ioctx, image_id)
    what = where(ioctx, name or image_id)
    check_readable(header.features, header.incompatible, what)
    snap = _find_snap(header, snap_name, snap_id, what)
    if (snap.parent if snap is not None else header.parent) is not None:
        raise NotSupported(f"{what}: reading clones (feature layering) is not supported")
    data = ioctx
    if header.data_pool_id is not None:
        data = await ioctx.cluster.open_pool(PoolId(header.data_pool_id), ioctx.namespace)
    async with open_tasks() as nursery:
        image = Image(ioctx, data, name, header, snap, nursery, read_only=read_only or snap is not None)
        await image.open()
        try:
            yield image
        finally:
            with trio.CancelScope(shield=True, deadline=_close_deadline()):
                await image.close()
            nursery.cancel_scope.cancel()


def _close_deadline() -> float:
    """However slow the store is, a cancelled program ends: what was not flushed by then was never promised."""
    return trio.current_time() + _CLOSE_SECONDS if trio.current_effective_deadline() == -math.inf else math.inf


def _find_snap(header: Header, snap_name: str, snap_id: SnapId | None, what: str) -> SnapInfo | None:
    if snap_id is not None:
        snap = header.snap_by_id(snap_id)
    elif snap_name:
        snap = header.snap_by_name(snap_name)
    else:
        return None
    if snap is None:
        raise NotFound(f"{what}@{snap_name or snap_id}: no such snapshot")
    return snap
