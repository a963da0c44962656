"""One mounted filesystem, both lanes of it, from mount to unmount.

Always true while it runs: somebody reads the device, and nothing in the trio thread touches a path on the mount. It
ends when the kernel says that the mount is gone, or when it was told to leave (`detach`) and the last file is closed.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
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

_NAME_TASKS = 99  # requests of libfuse served side by side
_LEAVING_SECONDS = 0.3  # for the kernel to say that nobody uses the mount any more


class Transport:
    """A mounted filesystem; pyfuse3 allows one at a time in a process."""

    def __init__(self, operations: pyfuse3.Operations, names: FileNames, handles: Handles, notifier: Notifier) -> None:
        self._operations = operations
        self._names = names
        self._handles = handles
        self._notifier = notifier
        self._lane: DataLane | None = None

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
            await self._serve(attached, limits, is_single_lane, on_mounted)
        finally:
            if attached.keepalive is not None:
                attached.keepalive.close()
            with trio.CancelScope(shield=True):
                # A thread: both look at the mount. It is dead if the connection was aborted or we fail.
                await trio.to_thread.run_sync(_clear_dead, mountpoint)

    async def _serve(
        self, attached: Attached, limits: Limits, is_single_lane: bool, on_mounted: Callable[[], Awaitable[None]]
    ) -> None:
        with ExitStack() as stack:  # a device left open would keep whoever looks at the mount waiting for ever
            device = Device(attached.fd, limits.max_write)
            stack.callback(device.close)
            relay = Relay(device, self._notifier, limits)
            stack.callback(relay.close)
            lane = self._lane = DataLane(device, relay, self._handles, self._names, is_single=is_single_lane)
            stack.callback(self._forget_lane)
            pyfuse3.init(self._operations, relay.detach_device(), set())
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._notifier.run, device.fd)
                    nursery.start_soon(relay.run_requests)
                    nursery.start_soon(relay.run_replies)
                    nursery.start_soon(pyfuse3.main, 1, _NAME_TASKS)
                    nursery.start_soon(_announce, relay, on_mounted)
                    await lane.run()
                    pyfuse3.terminate()
                    nursery.cancel_scope.cancel()
            finally:
                pyfuse3.close(unmount=False)

    def _forget_lane(self) -> None:
        self._lane = None

    async def detach(self, mountpoint: Path) -> None:
        """Take the mount away; `serve` returns when the last file is closed."""
        try:
            # A thread: it may wait for replies of ours.
            await trio.to_thread.run_sync(_detach, mountpoint, abandon_on_cancel=True)
        except RbdfsError as err:
            log.info("%s", err)  # unmounted by somebody else already
        await self._handles.wait_none()
        await trio.sleep(_LEAVING_SECONDS)
        # Still here: another mount namespace has a copy of the mount, or a directory of it is somebody's working
        # directory. No file is open, so nothing can be lost.
        if self._lane is not None and not len(self._handles):
            self._lane.stop()


async def _announce(relay: Relay, on_mounted: Callable[[], Awaitable[None]]) -> None:
    await relay.initialized.wait()
    await on_mounted()


def _detach(mountpoint: Path) -> None:
    unmount(mountpoint, is_lazy=True)


def _clear_dead(mountpoint: Path) -> None:
    try:
        if is_dead(mountpoint):
            unmount(mountpoint, is_lazy=True)
    except RbdfsError as err:
        log.warning("%s", err)
