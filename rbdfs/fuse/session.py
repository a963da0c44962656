"""A mount from start to end: the pool's tree, the transport under it, and the state file beside it.

check that the pool can be listed        before anybody sees a mount
mount, answer the first listing          before `on_ready`: who waited for us can use the files at once
serve                                    until unmounted, or detached by a signal and no longer used
close every image                        flushed, exclusive locks given up
remove the state file                    last: whoever waits for it knows that all is safe
"""

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import trio

from rbdfs.errors import TimedOut
from rbdfs.fuse.mounting import MountRequest, prepare_mountpoint, raise_read_ahead
from rbdfs.fuse.namespace import Namespace
from rbdfs.fuse.negotiation import Limits
from rbdfs.fuse.notifier import Notifier
from rbdfs.fuse.options import MountOptions
from rbdfs.fuse.state import MountStatus, process_start, remove_state, write_state
from rbdfs.fuse.transport import Transport
from rbdfs.fuse.tree import Tree
from rbdfs.rados.api import IoCtx

__all__ = ["MountOptions", "MountStatus", "serve"]

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FIRST_LISTING_SECONDS = 60
_MOUNTPOINT_SECONDS = 20
_STATE_SECONDS = 0.5  # the state file follows changes no faster


async def serve(
    ioctx: IoCtx, mountpoint: Path, options: MountOptions, *, on_ready: Callable[[MountStatus], None]
) -> None:
    """Mount a pool, call `on_ready` once its files can be used, and serve until unmounted or told to stop.

    The first SIGTERM, SIGINT or SIGHUP detaches the mount, and files that are open work until they are closed; a
    second one ends at once. What was written is flushed before this returns; afterwards these signals are ignored,
    since all that is left is to close the store.
    """
    # A signal that comes late must not end the process while it closes the store: trio puts back what it found here.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        await _serve(ioctx, await _prepare(mountpoint), options, on_ready, signals)


async def _serve(
    ioctx: IoCtx,
    mountpoint: Path,
    options: MountOptions,
    on_ready: Callable[[MountStatus], None],
    signals: AsyncIterator[int],
) -> None:
    notifier = Notifier()
    tree = Tree(ioctx, options, notifier)
    namespace = Namespace(tree, options)
    with trio.move_on_after(_FIRST_LISTING_SECONDS) as first_listing:
        await tree.list_images()
    if first_listing.cancelled_caught:
        raise TimedOut(f"{ioctx.pool_name}: the pool could not be listed within {_FIRST_LISTING_SECONDS} seconds")
    status = MountStatus(
        pid=os.getpid(),
        started=process_start(os.getpid()),
        store=ioctx.cluster.description,
        pool=ioctx.pool_name,
        namespace=ioctx.namespace,
        mountpoint=str(mountpoint),
        read_only=options.read_only,
    )
    recorder = _Recorder(status, tree)
    namespace.on_use_changed = recorder.wake

    async def on_mounted() -> None:
        # A thread: this is the first use of the mount, and we have to answer it.
        await trio.to_thread.run_sync(_first_use, mountpoint, options.read_ahead, abandon_on_cancel=True)
        recorder.write()
        on_ready(status)

    pool = f"{ioctx.pool_name}/{ioctx.namespace}" if ioctx.namespace else ioctx.pool_name
    request = MountRequest(
        options.fsname or pool,
        is_read_only=options.read_only,
        allow_other=options.allow_other,
        auto_unmount=options.auto_unmount,
        noexec=options.noexec,
        noatime=options.noatime,
    )
    transport = Transport(namespace, namespace, namespace.handles, notifier)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_follow_signals, signals, transport, mountpoint, nursery.cancel_scope)
            nursery.start_soon(recorder.run)
            async with tree.images.running():
                await transport.serve(
                    mountpoint,
                    request,
                    Limits(has_writeback_cache=options.writeback),
                    is_single_lane=options.single_lane,
                    on_mounted=on_mounted,
                )
            nursery.cancel_scope.cancel()
    finally:
        remove_state(mountpoint, status.pid)


async def _follow_signals(
    signals: AsyncIterator[int], transport: Transport, mountpoint: Path, scope: trio.CancelScope
) -> None:
    async with trio.open_nursery() as nursery:
        is_leaving = False
        async for number in signals:
            name = signal.Signals(number).name
            if is_leaving:
                log.warning("%s again: leaving at once; open files break, and what was not synced may be lost", name)
                scope.cancel()
                return
            log.info("%s: leaving when the last file is closed", name)
            is_leaving = True
            nursery.start_soon(transport.detach, mountpoint)


async def _prepare(mountpoint: Path) -> Path:
    with trio.move_on_after(_MOUNTPOINT_SECONDS):
        # A thread: the directory may be a mount whose server does not answer.
        return await trio.to_thread.run_sync(prepare_mountpoint, mountpoint, abandon_on_cancel=True)
    raise TimedOut(f"{mountpoint}: does not answer: another mount hangs there")


def _first_use(mountpoint: Path, read_ahead: int) -> None:
    with os.scandir(mountpoint) as entries:
        next(entries, None)
    raise_read_ahead(mountpoint, read_ahead)


class _Recorder:
    """Keeps the state file in step with the mount, without writing it at every open."""

    def __init__(self, status: MountStatus, tree: Tree) -> None:
        self._status = status
        self._tree = tree
        self.changed = trio.Event()

    def wake(self) -> None:
        """What is open has changed."""
        self.changed.set()

    def write(self) -> None:
        """Write the file now."""
        self._status.open_images = self._tree.images.names()
        self._status.hidden = self._tree.hidden
        try:
            write_state(self._status)
        except OSError as err:
            log.warning("state of the mount cannot be written: %s", err)

    async def run(self) -> None:
        """Follow changes until cancelled."""
        while True:
            await self.changed.wait()
            await trio.sleep(_STATE_SECONDS)
            self.changed = trio.Event()
            self.write()
