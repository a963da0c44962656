"""One mounted filesystem, both lanes of it, from mount to unmount.

Always true while it runs: somebody reads the device, and nothing in the trio thread touches a path on the mount. It
ends when the kernel says that the mount is gone: after an umount from outside, or after the first signal, which
detaches the mount and leaves open files usable until they are closed. A second signal ends it at once.
"""

import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pyfuse3
import trio

from rbdfs.errors import RbdfsError
from rbdfs.fuse.device import Device
from rbdfs.fuse.handles import Handles
from rbdfs.fuse.lane import DataLane, FileNames
from rbdfs.fuse.mounting import Attached, MountRequest, attach, is_dead, unmount
from rbdfs.fuse.negotiation import SINGLE_LANE_MAX_WRITE, Limits
from rbdfs.fuse.notifier import Notifier
from rbdfs.fuse.relay import Relay

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_NAME_TASKS = 99  # requests of libfuse served side by side


class Transport:
    """A mounted filesystem; pyfuse3 allows one at a time in a process."""

    def __init__(self, operations: pyfuse3.Operations, names: FileNames, handles: Handles, notifier: Notifier) -> None:
        self._operations = operations
        self._names = names
        self._handles = handles
        self._notifier = notifier

    async def serve(
        self,
        mountpoint: Path,
        request: MountRequest,
        limits: Limits,
        *,
        is_single_lane: bool = False,
        on_mounted: Callable[[], Awaitable[None]],
    ) -> None:
        """Mount, call `on_mounted` once the kernel and libfuse have agreed, and serve until unmounted."""
        if is_single_lane:
            limits = replace(limits, max_write=SINGLE_LANE_MAX_WRITE)
        # A thread: mount(2) looks the directory up, and the helper is a process.
        attached = await trio.to_thread.run_sync(attach, mountpoint, request)
        try:
            await self._serve(attached, mountpoint, limits, is_single_lane, on_mounted)
        finally:
            if attached.keepalive is not None:
                attached.keepalive.close()
            with trio.CancelScope(shield=True):
                # A thread: both look at the mount. It is dead if the connection was aborted or we fail.
                await trio.to_thread.run_sync(_clear_dead, mountpoint)

    async def _serve(
        self,
        attached: Attached,
        mountpoint: Path,
        limits: Limits,
        is_single_lane: bool,
        on_mounted: Callable[[], Awaitable[None]],
    ) -> None:
        device = Device(attached.fd, limits.max_write)
        relay = Relay(device, self._notifier, limits)
        lane = DataLane(device, relay, self._handles, self._names, is_single=is_single_lane)
        try:
            pyfuse3.init(self._operations, relay.detach_device(), set())
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._notifier.run, device.fd)
                    nursery.start_soon(relay.run_requests)
                    nursery.start_soon(relay.run_replies)
                    nursery.start_soon(pyfuse3.main, 1, _NAME_TASKS)
                    nursery.start_soon(_detach_on_signal, mountpoint, nursery.cancel_scope)
                    nursery.start_soon(_announce, relay, on_mounted)
                    await lane.run()
                    pyfuse3.terminate()
                    nursery.cancel_scope.cancel()
            finally:
                pyfuse3.close(unmount=False)
        finally:
            relay.close()
            device.close()


async def _announce(relay: Relay, on_mounted: Callable[[], Awaitable[None]]) -> None:
    await relay.initialized.wait()
    await on_mounted()


async def _detach_on_signal(mountpoint: Path, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        is_detached = False
        async for number in signals:
            if is_detached:
                log.warning("%s again: leaving at once, open files break", signal.Signals(number).name)
                scope.cancel()
                return
            log.info("%s: leaving when the last file is closed", signal.Signals(number).name)
            is_detached = True
            try:
                # A thread: it may wait for replies of ours.
                await trio.to_thread.run_sync(_detach, mountpoint, abandon_on_cancel=True)
            except RbdfsError as err:
                log.warning("%s", err)


def _detach(mountpoint: Path) -> None:
    unmount(mountpoint, is_lazy=True)


def _clear_dead(mountpoint: Path) -> None:
    try:
        if is_dead(mountpoint):
            unmount(mountpoint, is_lazy=True)
    except RbdfsError as err:
        log.warning("%s", err)
