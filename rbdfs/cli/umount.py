"""`rbdfs umount`: detaches a mount, and waits until its daemon has flushed everything and is gone."""

import os
import select
import signal
import sys
from pathlib import Path

from rbdfs.cli.access import say
from rbdfs.cli.holders import describe_holders, describe_namespace_with
from rbdfs.cli.options import Arguments, Declare, Parser
from rbdfs.errors import Busy, InvalidArgument, RbdfsError, StoreFailure
from rbdfs.fuse import mounting, state

_USUAL_SECONDS = 2.0  # until a daemon has left; after that, it is worth a look why it has not


def _umount(parser: Parser) -> None:
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("-l", "--lazy", action="store_true", help="detach now; wait until the last file is closed")
    parser.set_defaults(run=umount)


COMMANDS: dict[str, Declare] = {"umount": _umount}


def umount(arguments: Arguments) -> None:
    """`rbdfs umount`: returns when all is flushed and the daemon is gone."""
    mountpoint = _mountpoint(arguments.mountpoint)
    status = state.read_state(mountpoint)
    mounted = mounting.find_mount(mountpoint)
    if mounted is not None:
        if mounted.type != mounting.FILESYSTEM_TYPE:
            raise InvalidArgument(f"{mountpoint}: not a mount of rbdfs but of type {mounted.type}")
        try:
            mounting.unmount(mountpoint, is_lazy=arguments.lazy)
        except Busy as err:
            holders = describe_holders(mountpoint)
            raise Busy(f"{mountpoint}: in use" + (f" by {holders}" if holders else "")) from err
    elif status is None or not status.is_alive:
        raise InvalidArgument(f"{mountpoint}: not mounted")
    if status is not None and status.is_alive:
        _wait_for_end(status.pid, mountpoint, mounted.device if mounted else None)
        error = _take_last_words(mountpoint, status.pid)
        if error:
            raise StoreFailure(f"{mountpoint}: the daemon ended with an error: {error}")


def _mountpoint(given: str) -> Path:
    """The directory that is meant, as the kernel and the daemon call it."""
    path = Path(os.path.abspath(given))
    path = path.parent.resolve() / path.name  # the mount itself is not asked, it may hang
    return path if mounting.find_mount(path) is not None else path.resolve()


def last_words_file(mountpoint: Path) -> Path:
    """Where a daemon that ends with an error says so."""
    return state.path_for(mountpoint).with_suffix(".failed")


def leave_word(mountpoint: Path, error: RbdfsError) -> None:
    """Tell a waiting `umount` that the daemon did not end well: not all that was written may be safe."""
    path = last_words_file(mountpoint)
    if path.parent.is_dir():
        path.write_text(f"{os.getpid()} {error}\n")


def _take_last_words(mountpoint: Path, pid: int) -> str:
    path = last_words_file(mountpoint)
    try:
        who, _, words = path.read_text().strip().partition(" ")
        path.unlink()
    except FileNotFoundError:
        return ""
    return words if who == str(pid) else ""


def _wait_for_end(pid: int, mountpoint: Path, device: str | None) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if poll.poll(_USUAL_SECONDS * 1000):
            return
        keeper = device and describe_namespace_with(device)
        if keeper:
            # The mount lives on in that namespace, so the daemon cannot know that it is wanted no more.
            say(f"{mountpoint}: still mounted in the mount namespace of {keeper}; detaching it there, too")
            signal.pidfd_send_signal(process, signal.SIGTERM)
        elif sys.stderr.isatty():
            say(f"{mountpoint}: waiting until the daemon (pid {pid}) has flushed everything")
        poll.poll()
    finally:
        os.close(process)
