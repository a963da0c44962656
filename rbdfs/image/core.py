"""What an open image is, before anything is done with it: its header kept current, its lock, its way to the data.

Three locks, always taken in this order: `maintenance` (one compound operation on the image at a time, and no hand-over
of the exclusive lock meanwhile), the exclusive lock's own transitions, `header_lock` (whoever changes the header, or
reads it to believe it, so that an old picture never overwrites a newer one).
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from rbdfs.cls import rbd
from rbdfs.cls.notify import (
    AcquiredLock,
    AsyncComplete,
    AsyncProgress,
    HeaderUpdate,
    Message,
    Quiesce,
    ReleasedLock,
    RequestLock,
    Response,
    Unknown,
    Unquiesce,
)
from rbdfs.cls.query import change
from rbdfs.errors import Blocklisted, Gone, NotFound, NotSupported, RbdfsError, ReadOnly
from rbdfs.image.changes import ImageChange, OnChange
from rbdfs.image.data_path import DataPath
from rbdfs.image.exclusive_lock import ExclusiveLock
from rbdfs.image.features import Feature, ImageFlag, forbids_writing
from rbdfs.image.header import Header, SnapInfo, read_header
from rbdfs.image.header_watch import Answer, HeaderWatch
from rbdfs.image.lookup import name_of, where
from rbdfs.image.names import header_object
from rbdfs.image.object_map import ObjectMap, Run
from rbdfs.rados.api import IoCtx, NotifyEvent
from rbdfs.rados.ops import HEAD, Call, SnapId, WriteStep

_NOT_SUPPORTED = -NotSupported.errno


class ImageCore(ABC):
    """An image, or one of its snapshots, open; `Image` adds what is done with it."""

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
        # fixed for life
        self.ioctx = ioctx
        self.image_id = header.image_id
        self.header_name = header_object(header.image_id)
        self.nursery = nursery
        self.maintenance = trio.Lock()
        self.header_lock = trio.Lock()
        self.watcher = HeaderWatch(ioctx, self.header_name, nursery, self._on_message, self._on_deaf, self._on_rewatch)
        self._is_opened_read_only = read_only
        self._own_lock = ExclusiveLock(
            ioctx,
            self.header_name,
            self.watcher,
            on_acquired=self._on_acquired,
            at_rest=self._at_rest,
            before_release=self._before_release,
            on_lost=self._on_lost,
            on_moved=partial(self.changed, ImageChange.LOCK),
            what=lambda: self.what,
        )
        self.path = DataPath(
            data,
            header.object_prefix,
            header.striping,
            nursery,
            snap_id=snap.id if snap else HEAD,
            prepare=self.prepare_writes,
            grow=self._grow,
            take_back=self._take_back,
        )
        # refreshed
        self.name = name
        self.header = header
        self.snap = snap
        self.is_read_only = read_only  # opened so, or as long as the header forbids more
        self.is_removed = False
        self.snap_states: bytearray | None = None  # the object map of the snapshot that is open, once it was needed
        self.snap_runs: list[Run] | None = None  # without a map, its objects as far as listing the pool shows
        self.lock: ExclusiveLock | None = None  # as long as the image has one that we may take
        # Counts: the header is as we were last told where as many were applied as heard.
        self._updates_heard = 0  # how often we were told that the header has changed
        self._updates_applied = 0  # of them, before the header was read that we have
        self._updates_handled = 0  # of them, before we last looked for all that may have changed
        self._is_refreshing = False
        self._own_updates = 0  # header updates that we announced and have not heard yet
        self._is_unannounced = False  # a change that `announce_soon` has still to tell
        self._subscribers: list[OnChange] = []
        self._failure: RbdfsError | None = None
        self._apply(header)

    @property
    def what(self) -> str:
        """The image, for messages."""
        return where(self.ioctx, self.name or self.image_id)

    @property
    def size(self) -> int:
        """Bytes; of the snapshot where one is open."""
        return self.path.size

    @property
    def object_size(self) -> int:
        """Bytes of a data object."""
        return self.header.object_size

    @property
    def object_map(self) -> ObjectMap | None:
        """The object map, while we own the exclusive lock of an image that has one."""
        return self.path.object_map

    def subscribe(self, callback: OnChange) -> Callable[[], None]:
        """Hear of changes, by this client or any other, by a callback that does not raise; call the result to stop."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def changed(self, change: ImageChange) -> None:
        """Tell the subscribers."""
        for callback in list(self._subscribers):
            callback(change)

    # The header.

    async def refresh(self) -> None:
        """Read the header again, and believe it."""
        async with self.header_lock:
            await self.refresh_locked()

    async def refresh_locked(self) -> None:
        """The same for who holds `header_lock`."""
        news = self._updates_heard
        try:
            header = await read_header(self.ioctx, self.image_id)
        except NotFound:
            self._gone()
            raise
        self._updates_applied = news
        self._apply(header)

    def _apply(self, header: Header) -> ImageChange:
        old, self.header = self.header, header
        change = ImageChange(0)
        if self.snap is None:
            size = header.size
        else:
            found = header.snap_by_id(self.snap.id)
            if found is None:
                self._failure = Gone(f"{self.what}@{self.snap.name}: the snapshot has been removed")
                self.path.break_off(self._failure)
            self.snap = found or self.snap
            size = self.snap.size
        if size != self.path.size:
            self.path.set_size(size)
            change |= ImageChange.SIZE
        self.path.snapc = header.snapc
        if header.all_snaps != old.all_snaps:
            change |= ImageChange.SNAPSHOTS
        is_forbidden = bool(forbids_writing(header.features, header.op_features)) or header.parent is not None
        self.is_read_only = self._is_opened_read_only or is_forbidden
        if is_forbidden:
            self.path.shut()
        self._apply_lock_feature(header)
        if header.flags & ImageFlag.OBJECT_MAP_INVALID and self.path.object_map is not None:
            self.path.object_map.states = None
        if change:
            self.changed(change)
        return change

    def _apply_lock_feature(self, header: Header) -> None:
        """Features may be turned on and off while an image is open."""
        has_lock = bool(header.features & Feature.EXCLUSIVE_LOCK) and not self.is_read_only
        if has_lock and self.lock is None:
            self.path.shut()
            self._own_lock.revive()
            self.lock = self._own_lock
        elif not has_lock and self.lock is not None:
            self.lock = None
            self._own_lock.retire()
            self.nursery.start_soon(self._own_lock.leave)

    def _gone(self) -> None:
        if not self.is_removed:
            self.is_removed = True
            self._failure = Gone(f"{self.what}: the image has been removed")
            self.path.break_off(self._failure)
            self.changed(ImageChange.REMOVED)

    async def change_header(self, *steps: WriteStep) -> None:
        """Change the header object, as the owner of the exclusive lock where the image has one.

        After an error, or where the caller is cancelled, nobody knows whether it was changed: it is read again.
        """
        guard = [self.lock.assertion] if self.lock is not None else []
        try:
            await change(self.ioctx, self.header_name, *guard, *steps)
        except BaseException:
            self.doubt_header()
            self._refresh_soon()
            raise

    def doubt_header(self) -> None:
        """The header may not be what we have: nothing is written before it has been read again."""
        self._updates_heard += 1
        self.path.shut()

    async def announce(self) -> None:
        """Tell everybody that the header has changed, and wait until they know."""
        self._own_updates += 1
        try:
            await self.watcher.notify(HeaderUpdate())
        except RbdfsError:  # the change itself stands; who missed it will see it when it looks
            self._own_updates = max(self._own_updates - 1, 0)  # of which we may have heard

    def announce_soon(self) -> None:
        """Tell everybody that the header has changed; several changes in a row are told once."""
        if not self._is_unannounced:
            self._is_unannounced = True
            self.nursery.start_soon(self.announce_rest)

    async def announce_rest(self) -> None:
        """Tell what has not been told yet."""
        if self._is_unannounced:
            self._is_unannounced = False
            await self.announce()

    async def invalidate_object_map(self) -> None:
        """Say in the header that the object map cannot be used."""
        flags = ImageFlag.OBJECT_MAP_INVALID
        if self.header.features & Feature.FAST_DIFF:
            flags |= ImageFlag.FAST_DIFF_INVALID
        await self.set_flags(flags, HEAD)
        self.header.flags |= flags

    async def set_flags(self, flags: int, snap_id: SnapId) -> None:
        """Set flags of the image or of a snapshot."""
        step: Call = rbd.set_flags(flags, flags, snap_id)
        await self.change_header(step)

    # Readiness to write.

    async def prepare_writes(self) -> None:
        """Own the lock and have a current header, or raise why not."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self.is_read_only:
                raise ReadOnly(f"{self.what}: {self.why_read_only()}")
            if self.lock is None:
                await self.watcher.cookie()  # deaf, we would not hear of a new snapshot
            if self._updates_applied != self._updates_heard:
                async with self.header_lock:
                    if self._updates_applied != self._updates_heard:
                        await self.refresh_locked()
            elif self.lock is not None and not self.lock.is_owner:
                await self.lock.acquire()
            else:
                return

    def why_read_only(self) -> str:
        """The reason, for messages."""
        refused = forbids_writing(self.header.features, self.header.op_features)
        if self.snap is not None:
            return "a snapshot cannot be written"
        if refused:
            return f"feature {', '.join(refused)} is not supported for writing"
        if self.header.parent is not None:
            return "writing to clones is not supported"
        return "opened for reading only"

    @abstractmethod
    async def _grow(self, size: int) -> None:
        """Make the image at least that large, for a write past its end."""

    @abstractmethod
    async def _take_back(self, size: int, offset: int, length: int) -> None:
        """Such a write found no room: make the image that small again, or as small as what was written since allows."""

    async def _on_acquired(self) -> None:
        """The lock is ours: see what the last owner left."""
        async with self.header_lock:
            await self.refresh_locked()
            if self.lock is None:  # the feature was turned off meanwhile
                return
            if self.header.features & Feature.OBJECT_MAP and not self.header.flags & ImageFlag.OBJECT_MAP_INVALID:
                # Writes from before the lock was lost may still mark objects, of which a map read now would not know.
                await self.path.wait_for_rest()
                object_map = ObjectMap(self.ioctx, self.image_id, self.nursery, self.invalidate_object_map)
                await object_map.open(self.header.striping.object_count(self.header.size))
                self.path.object_map = object_map

    @asynccontextmanager
    async def _at_rest(self) -> AsyncIterator[None]:
        """No operation is under way inside, and no write in flight."""
        async with self.maintenance, self.path.paused():
            yield

    async def _before_release(self) -> None:
        """What was written is made durable, and the object map given back."""
        object_map, self.path.object_map = self.path.object_map, None
        try:
            await self.path.flush_at_rest()
        finally:
            if object_map is not None:
                await object_map.close()

    def _on_lost(self) -> None:
        self.path.shut()
        self.path.object_map = None
        self.changed(ImageChange.LOCK | ImageChange.CONTENT)

    # What others say.

    def _on_message(self, message: Message | Unknown, event: NotifyEvent, answer: Answer) -> None:
        is_owner = self.lock is not None and self.lock.is_owner
        match message:
            case HeaderUpdate():
                answer()
                self._on_header_update(event)
            case AcquiredLock() | ReleasedLock():
                answer()
                if self.lock is not None and not self.watcher.is_self(message.client):
                    self.lock.peer_moved()
                    if is_owner:
                        self.nursery.start_soon(self.lock.verify)
                    self.changed(ImageChange.LOCK | ImageChange.CONTENT)
                if isinstance(message, ReleasedLock) and not self.watcher.is_self(message.client):
                    self._refresh_soon()  # librbd renames an image under the lock and says nothing else
            case RequestLock():
                if self.watcher.is_self(message.client):
                    answer()
                    return
                if is_owner:
                    answer(Response(0).to_bytes())
                    self.nursery.start_soon(self._release_for_peer)
                else:
                    answer()
                    if self.lock is not None and self.lock.may_be_held:
                        self.nursery.start_soon(self._release_for_peer)
                self.changed(ImageChange.WANTED)
            case AsyncProgress() | AsyncComplete():
                answer()
                self.on_async_news(message)
            case Quiesce() | Unquiesce():
                answer()  # nothing above us to bring to rest
            case Unknown():
                answer(Response(_NOT_SUPPORTED).to_bytes() if is_owner else b"")
            case _:
                if is_owner:
                    self.on_request(message, answer)
                else:
                    answer()

    @abstractmethod
    def on_async_news(self, message: AsyncProgress | AsyncComplete) -> None:
        """News of a request that we, or another client, made to the lock owner."""

    @abstractmethod
    def on_request(self, message: Message, answer: Answer) -> None:
        """Another client asks us, who own the lock, for something."""

    def _on_header_update(self, event: NotifyEvent) -> None:
        if event.notifier == self.ioctx.cluster.instance_id and self._own_updates:
            self._own_updates -= 1
            return
        if self.lock is None:
            self.path.shut()  # whoever may write may also have made a snapshot
        self._refresh_soon()

    def _refresh_soon(self) -> None:
        self._updates_heard += 1
        if not self._is_refreshing:
            self._is_refreshing = True
            self.nursery.start_soon(self._refresh_after_news)

    async def _refresh_after_news(self) -> None:
        try:
            while self._updates_handled != self._updates_heard:
                await self._look_again()
        except NotFound:
            pass  # subscribers have been told
        except RbdfsError:
            pass  # still wanted: the next write tries again, and fails with the reason
        finally:
            self._is_refreshing = False

    async def _look_again(self) -> None:
        async with self.header_lock:
            news = self._updates_handled = self._updates_heard
            try:
                header = await read_header(self.ioctx, self.image_id)
                name = await name_of(self.ioctx, self.image_id)
            except NotFound:  # in the trash, or being removed, an image has no name; else it is gone
                await self.refresh_locked()
                return
            self._updates_applied = news
            change = self._apply(header)
            if self.name and name != self.name:
                self.name = name
                self.changed(ImageChange.NAME)
            elif not change:
                self.changed(ImageChange.CONTENT | ImageChange.METADATA)  # perhaps rolled back

    async def _release_for_peer(self) -> None:
        with suppress(RbdfsError):  # the store does not answer: the peer will break the lock, when it may
            lock = self.lock
            if lock is not None and (lock.accepts_requests or lock.may_be_held):  # else it is being released already
                await lock.release()

    def _on_deaf(self) -> None:
        """Our watch is lost: snapshots may be made of which we do not hear, unless the lock keeps others from that."""
        self._updates_heard += 1
        if self.lock is None:
            self.path.shut()

    async def _on_rewatch(self, error: RbdfsError) -> None:
        if isinstance(error, Blocklisted):
            self._failure = error
            if self.lock is not None:
                self.lock.lost()
            self.path.shut()
            return
        if isinstance(error, NotFound):
            self._gone()
            return
        self._updates_heard += 1
        self._own_updates = 0
        self.path.shut()
        if self.lock is not None:
            self.lock.peer_moved()
            await self.lock.rewatched()
        await self._refresh_after_news()
