"""`rbdfs umount`: detaches a mount, and waits until its daemon has flushed everything and is gone.

The mount of this namespace goes at once, as with umount(8), or is Busy. The daemon stays while a file is open: after
`--lazy`, or in the copy of the mount that another mount namespace (a container's) has. Who has it is named, and waited
for: without end, as its bytes are not safe before; with `--timeout`, so long; with `--force`, not at all.
"""

import math
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

from rbdfs.cli.access import say
from rbdfs.cli.holders import describe_holders, describe_namespace_with, find_server
from rbdfs.cli.options import Arguments, Declare, Parser
from rbdfs.errors import Busy, InvalidArgument, StoreFailure, TimedOut
from rbdfs.fuse import mounting, state

_USUAL_SECONDS = 2.0  # until a daemon has left; after that, it is worth a look why it has not
_AFTER_SIGNAL_SECONDS = 1.0  # until it has left where no file is open
_FLUSH_SECONDS = 40.0  # a little longer than it takes its time to close images (image/image.py)


def _umount(parser: Parser) -> None:
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("-l", "--lazy", action="store_true", help="detach now; wait until the last file is closed")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=math.inf,
        metavar="SECONDS",
        help="how long to wait for the daemon's end; with --force, it is killed then",
    )
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="do not wait for files that are open: they break, unsynced data is lost",
    )
    parser.set_defaults(run=umount)


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise ValueError(text)
    return value


COMMANDS: dict[str, Declare] = {"umount": _umount}


def umount(arguments: Arguments) -> None:
    """`rbdfs umount`: returns when all is flushed and the daemon is gone."""
    mountpoint = _mountpoint(arguments.mountpoint)
    status = state.read_state(mountpoint)
    pid = status.pid if status is not None and status.is_alive else None
    mounted = mounting.find_mount(mountpoint)
    if mounted is not None:
        if mounted.type != mounting.FILESYSTEM_TYPE:
            raise InvalidArgument(f"{mountpoint}: not a mount of rbdfs but of type {mounted.type}")
        pid = pid or find_server(mounted.device)  # another user's, or with another run directory
        try:
            mounting.unmount(mountpoint, is_lazy=arguments.lazy or arguments.force)
        except Busy as err:
            holders = describe_holders(mountpoint)
            raise Busy(f"{mountpoint}: in use" + (f" by {holders}" if holders else "")) from err
    elif status is None or not status.is_alive:
        raise InvalidArgument(f"{mountpoint}: not mounted")
    if pid is not None:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            daemon = _Daemon(process, pid, mountpoint)
            if arguments.force:
                daemon.end(arguments.timeout)
            else:
                daemon.wait(mounted.device if mounted else None, arguments.timeout)
        finally:
            os.close(process)
        error = state.take_failure(mountpoint, pid)
        if error:
            raise StoreFailure(f"{mountpoint}: the daemon ended with an error: {error}")
    elif status is None:
        say(f"{mountpoint}: detached; its daemon cannot be seen, and may not have flushed everything yet")


def _mountpoint(given: str) -> Path:
    """The directory that is meant, as the kernel and the daemon call it."""
    path = Path(os.path.abspath(given))
    path = path.parent.resolve() / path.name  # the mount itself is not asked, it may hang
    return path if mounting.find_mount(path) is not None else path.resolve()


class _Daemon:
    """The process that serves the mount, until it has ended."""

    def __init__(self, process: int, pid: int, mountpoint: Path) -> None:
        self._process = process  # a pidfd
        self._pid = pid
        self._mountpoint = mountpoint
        self._poll = select.poll()
        self._poll.register(process, select.POLLIN)

    def _ends_within(self, seconds: float) -> bool:
        return bool(self._poll.poll(None if seconds == math.inf else seconds * 1000))

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            signal.pidfd_send_signal(self._process, number)

    def wait(self, device: str | None, seconds: float) -> None:
        """Wait until all is flushed; where that takes longer than usual, say why."""
        usual = min(_USUAL_SECONDS, seconds)
        if self._ends_within(usual):
            return
        keeper = device and describe_namespace_with(device)
        if keeper:
            say(f"{self._mountpoint}: still mounted in the mount namespace of {keeper}; detaching it there, too")
        elif sys.stderr.isatty():
            say(f"{self._mountpoint}: waiting until the daemon (pid {self._pid}) has flushed everything")
        left = max(seconds - usual, 0)
        if device is not None and (keeper or os.geteuid() != 0):
            # In a namespace that has a copy, and which only root can surely see, the mount lives on: the daemon must be
            # told that it is wanted no more. It leaves when no file is open. The mount was detached just now: a second
            # signal would not let the daemon flush.
            self._send(signal.SIGTERM)
            left = max(left, _AFTER_SIGNAL_SECONDS)
        if not self._ends_within(left):
            where = f" in the mount namespace of {keeper}" if keeper else ""
            status = state.read_state(self._mountpoint)
            opened = ", ".join(status.open_images) if status is not None else ""
            doing = f"still serves files that are open{where}: {opened}" if opened else "has not flushed everything yet"
            raise TimedOut(f"{self._mountpoint}: detached, but its daemon (pid {self._pid}) {doing}")

    def end(self, seconds: float) -> None:
        """Make it flush what it has, and leave, whatever is open; kill it where that takes longer."""
        # The first one asks, any other ends it at once (fuse/session.py).
        for number in (signal.SIGTERM, signal.SIGINT):
            self._send(number)
            if self._ends_within(_AFTER_SIGNAL_SECONDS):
                return
        if not self._ends_within(min(_FLUSH_SECONDS, seconds)):
            self._send(signal.SIGKILL)
            raise StoreFailure(f"{self._mountpoint}: the store does not answer; what was not synced is lost")
