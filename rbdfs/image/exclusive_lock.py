"""The exclusive lock: who may write an image, and how it changes hands (librbd: ManagedLock, ExclusiveLock).

It is the lock `rbd_lock` of class `lock` on the header object, with tag `internal` and cookie `auto <watch cookie>`:
so whoever holds it can be asked, through the watch, and whether it is still alive can be seen from the watchers.

    take it ──ok────────────────────────────────► refresh, open the object map, tell: AcquiredLock
      ▲  └─busy─► holder is watching? ──yes──► ask it: RequestLock ──► wait for ReleasedLock ─┐
      │                └──no──► blocklist it, break its lock ─┐                               │
      └───────────────────────────────────────────────────────┴───────────────────────────────┘

A holder that fell silent is blocklisted first, so that none of its late writes can land on ours. What we own is given
up when another client asks for it, after the writes in flight and the operation under way, and when the image closes.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress

import trio

from rbdfs.cls import lock
from rbdfs.cls.lock import INTERNAL_TAG, RBD_LOCK, LockInfo, LockType
from rbdfs.cls.notify import NO_CLIENT, AcquiredLock, ReleasedLock, RequestLock, owner_result
from rbdfs.cls.query import ask, change
from rbdfs.errors import Busy, Exists, NotFound, RbdfsError, TimedOut, from_result
from rbdfs.image.header_watch import HeaderWatch
from rbdfs.rados import calls
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Call

_COOKIE_PREFIX = "auto "  # librbd: managed_lock, WATCHER_LOCK_COOKIE_PREFIX
_RETRY_SECONDS = 1.0
_GRACE_SECONDS = 1.0  # for a holder whose watch ended with the owner of a local store, and is made anew at the next one
_RELEASE_SECONDS = 10.0  # how long we wait before asking again; librbd: client_notify_timeout
_REFUSED = -30  # EROFS: the owner will not give it up


class ExclusiveLock:
    """The lock of one open image."""

    def __init__(
        self,
        ioctx: IoCtx,
        name: str,
        watcher: HeaderWatch,
        *,
        on_acquired: Callable[[], Awaitable[None]],
        at_rest: Callable[[], AbstractAsyncContextManager[None]],
        before_release: Callable[[], Awaitable[None]],
        on_lost: Callable[[], None],
        on_moved: Callable[[], None],
        what: Callable[[], str],
    ) -> None:
        """`on_lost` is called where it is taken from us, `on_moved` where we have taken it or given it up."""
        self.is_owner = False
        self._is_retired = False
        self._releases = 0  # under way
        self._is_untold = False  # we gave it up, and not everybody has heard of it
        self.may_be_held = False  # in our name, though we are not its owner: giving it back has failed
        self._ioctx = ioctx
        self._name = name
        self._watcher = watcher
        self._on_acquired = on_acquired
        self._at_rest = at_rest
        self._before_release = before_release
        self._on_lost = on_lost
        self._on_moved = on_moved
        self._what = what
        self._cookie = ""
        self._client = NO_CLIENT  # the watch that the lock names
        self._transition = trio.Lock()
        self._peer_moved = trio.Event()
        self._gone: LockInfo | None = None  # a holder that was not seen watching
        self._gone_since: float | None = None

    @property
    def accepts_requests(self) -> bool:
        """Whether we own the lock for long enough to do something for another client."""
        return self.is_owner and not self._releases

    @property
    def assertion(self) -> Call:
        """A step that fails with Busy unless we hold the lock."""
        return lock.assert_locked(RBD_LOCK, LockType.EXCLUSIVE, self._cookie, INTERNAL_TAG)

    async def acquire(self, *, ask_holder: bool = True) -> bool:
        """Own the lock; without asking a living holder for it, gives False where there is one.

        Returns, too, where the image turns out to have no such lock any more.
        """
        async with self._transition:
            while not (self.is_owner or self._is_retired):
                client = await self._watcher.client_id()
                cookie = f"{_COOKIE_PREFIX}{client.handle}"
                moved = self._peer_moved
                self._cookie, self._client = cookie, client
                try:
                    await change(self._ioctx, self._name, lock.lock(RBD_LOCK, LockType.EXCLUSIVE, cookie, INTERNAL_TAG))
                except Busy:
                    if not await self._deal_with_holder(moved, ask_holder=ask_holder):
                        return False
                    continue
                except Exists:
                    pass  # by this very watch
                except BaseException:
                    await self._give_back()
                    raise
                await self._take_over()
        return True

    async def _take_over(self) -> None:
        try:
            await self._on_acquired()
            if self._is_retired:
                await self._unlock()
                return
            self.is_owner, self._is_untold, self.may_be_held = True, False, False
        except BaseException:
            await self._give_back()
            raise
        self._on_moved()
        # Without waiting: the write that this is for must go before a peer that hears of it asks for the lock.
        self._watcher.tell_soon(AcquiredLock(self._client))

    async def _deal_with_holder(self, moved: trio.Event, *, ask_holder: bool) -> bool:
        """See to it that the lock can be taken soon; False where that would mean to ask for it."""
        info = await ask(self._ioctx, self._name, lock.get_info(RBD_LOCK))
        if not info.lockers:
            return True
        handle = self._handle_of(info)
        watchers = await calls.list_watchers(self._ioctx, self._name)
        entity = str(next(iter(info.lockers)).entity)
        if not any(watcher.cookie == handle and watcher.entity == entity for watcher in watchers):
            if self._gone_since is None or info != self._gone:
                self._gone, self._gone_since = info, trio.current_time()
            if trio.current_time() - self._gone_since < _GRACE_SECONDS:  # its watch may be being made anew
                await trio.sleep(_RETRY_SECONDS / 10)
                return True
            await self._break(info)
            return True
        self._gone_since = None
        if not ask_holder:
            return False
        try:
            reply = await self._watcher.notify(RequestLock(await self._watcher.client_id()))
        except TimedOut:
            return True
        result = owner_result(reply.acks.values())
        if result == _REFUSED:
            raise from_result(result, f"{self._what()}: {entity} keeps the exclusive lock")
        with trio.move_on_after(_RELEASE_SECONDS if result == 0 else _RETRY_SECONDS):
            await moved.wait()
        return True

    def _handle_of(self, info: LockInfo) -> int:
        """The watch of the holder; Busy where it is none that can be asked."""
        locker = next(iter(info.lockers))
        number = locker.cookie.removeprefix(_COOKIE_PREFIX)
        if (
            info.tag != INTERNAL_TAG
            or info.type != LockType.EXCLUSIVE
            or not locker.cookie.startswith(_COOKIE_PREFIX)
            or not number.isdecimal()
        ):
            raise Busy(f"{self._what()}: locked by {locker.entity} with `rbd lock add` (cookie {locker.cookie!r})")
        return int(number)

    async def _break(self, info: LockInfo) -> None:
        """Fence a holder that no longer watches, and take its lock away (librbd: managed_lock::BreakRequest)."""
        ((locker, details),) = list(info.lockers.items())[:1]
        if await ask(self._ioctx, self._name, lock.get_info(RBD_LOCK)) != info:
            return  # it moved: look again
        # A client that had to take a new number has its old address still: its own locks are no other's to fence.
        cluster = self._ioctx.cluster
        if locker.entity.number != cluster.instance_id and str(details.address) != cluster.address:
            await self._ioctx.cluster.blocklist(str(details.address))
        with suppress(NotFound):
            await change(self._ioctx, self._name, lock.break_lock(RBD_LOCK, locker.entity, locker.cookie))

    async def release(self) -> None:
        """Give the lock up, if we own it, and tell; what is written is in the store then."""
        await self.unlock()
        await self.tell_released()

    async def unlock(self) -> int:
        """The same, but leave it to `tell_released` to tell; gives the header object's version then, 0 if unknown."""
        self._releases += 1
        try:
            async with self._at_rest(), self._transition:
                if not self.is_owner:
                    return await self._unlock() if self.may_be_held else 0
                version = 0
                try:
                    await self._before_release()
                finally:
                    self.is_owner, self._is_untold = False, True
                    self._on_moved()
                    version = await self._unlock()
                return version
        finally:
            self._releases -= 1

    async def tell_released(self) -> None:
        """Tell who may wait for the lock that we have given it up, where that has not been told."""
        if self._is_untold:
            with suppress(RbdfsError):  # whoever waits looks again by itself, if later
                await self._watcher.notify(ReleasedLock(self._client))
            self._is_untold = False

    async def _unlock(self) -> int:
        version = 0
        try:
            with suppress(NotFound):  # broken, or gone with the image
                version = await change(self._ioctx, self._name, lock.unlock(RBD_LOCK, self._cookie))
        except BaseException:
            self.may_be_held = True
            raise
        self.may_be_held = False
        return version

    async def _give_back(self) -> None:
        """Unlock what could not be taken over, for as long as that is of use; else `unlock` does."""
        with trio.CancelScope(shield=True), trio.move_on_after(_RELEASE_SECONDS), suppress(RbdfsError):
            await self._unlock()

    def peer_moved(self) -> None:
        """Another client took the lock or gave it up."""
        self._peer_moved.set()
        self._peer_moved = trio.Event()

    def retire(self) -> None:
        """The image has no such lock any more, or cannot be written: what we own is lost, and nobody waits for it."""
        self._is_retired = True
        self.lost()
        self.peer_moved()

    async def leave(self) -> None:
        """Give back what is left of a retired lock."""
        async with self._transition:
            if self._cookie and self._is_retired:
                with suppress(RbdfsError):
                    await self._unlock()

    def revive(self) -> None:
        """The image has the lock again, and can be written."""
        self._is_retired = False

    async def rewatched(self) -> None:
        """A new watch stands: put its cookie into the lock, or see that the lock is lost."""
        async with self._transition:
            if not self.is_owner:
                return
            try:
                client = await self._watcher.client_id()
                cookie = f"{_COOKIE_PREFIX}{client.handle}"
                step = lock.set_cookie(RBD_LOCK, LockType.EXCLUSIVE, self._cookie, cookie, INTERNAL_TAG)
                await change(self._ioctx, self._name, step)
                self._cookie, self._client = cookie, client
            except RbdfsError:
                self.lost()

    async def verify(self) -> None:
        """Another client says that it has the lock: see whether ours was broken (`rbd lock rm`) and nobody told us."""
        async with self._transition:
            if self.is_owner:
                with suppress(RbdfsError):
                    info = await ask(self._ioctx, self._name, lock.get_info(RBD_LOCK))
                    ours = (self._ioctx.cluster.instance_id, self._cookie)
                    if ours not in [(locker.entity.number, locker.cookie) for locker in info.lockers]:
                        self.lost()

    def lost(self) -> None:
        """The lock is not ours any more, and nobody asked: what relied on it fails."""
        if self.is_owner:
            self.is_owner = False
            self._on_lost()
