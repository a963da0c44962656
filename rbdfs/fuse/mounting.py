"""Attaching /dev/fuse to a directory, and detaching it: mount(2) as root, the setuid helper fusermount3 otherwise.

Everything here may block on the mount itself (a lookup, an unmount that waits for replies), so it runs in worker
threads only, never in the thread that answers the kernel.
"""

import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rbdfs.errors import Busy, InvalidArgument, NotSupported, PermissionDenied, RbdfsError, StoreFailure, from_result

FILESYSTEM_TYPE = "fuse.rbdfs"
_SUBTYPE = "rbdfs"

# include/uapi/linux/mount.h
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_NOATIME = 1, 2, 4, 8, 1024
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class MountRequest:
    """How the directory shall be attached."""

    source: str  # the first column of df
    is_read_only: bool = False
    allow_other: bool = False
    auto_unmount: bool = False
    noexec: bool = False
    noatime: bool = False


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A line of /proc/self/mountinfo."""

    path: Path
    device: str  # major:minor
    type: str
    source: str


@dataclass(slots=True)
class Attached:
    """A mounted device; `keepalive` ends the mount with this process, where auto_unmount was asked for."""

    fd: int
    keepalive: socket.socket | None = None


def prepare_mountpoint(mountpoint: Path) -> Path:
    """Make the directory if it is missing, clear away a dead mount, refuse a live one; gives the absolute path."""
    mountpoint = Path(os.path.abspath(mountpoint))  # resolve() would stat a dead mountpoint
    if is_dead(mountpoint):
        unmount(mountpoint, is_lazy=True)
        if is_dead(mountpoint):
            raise Busy(f"{mountpoint}: a dead mount is in the way and cannot be removed: fusermount3 -uz {mountpoint}")
    try:
        mountpoint.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InvalidArgument(f"{mountpoint}: not a directory") from None
    except OSError as err:
        raise from_result(-(err.errno or errno.EIO), f"{mountpoint}: {err.strerror}") from err
    mountpoint = mountpoint.resolve()
    existing = find_mount(mountpoint)
    if existing is not None and existing.type == FILESYSTEM_TYPE:
        raise Busy(f"{mountpoint}: {existing.source} is mounted here already")
    return mountpoint


def is_dead(mountpoint: Path) -> bool:
    """Whether the server of a FUSE mount is gone: `Transport endpoint is not connected`."""
    try:
        os.statvfs(mountpoint)  # stat would be answered from the kernel's cache for a while
    except OSError as err:
        return err.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def list_mounts() -> list[MountPoint]:
    """All mounts of this process's mount namespace, in the order in which they were made."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        tail = fields[fields.index("-") + 1 :]  # type, source, options of the filesystem; optional fields stand before
        mounts.append(MountPoint(Path(_unescape(fields[4])), fields[2], tail[0], _unescape(tail[1])))
    return mounts


def find_mount(mountpoint: Path) -> MountPoint | None:
    """The topmost mount on exactly this directory."""
    found = [mount for mount in list_mounts() if mount.path == mountpoint]
    return found[-1] if found else None


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)  # proc(5): space, tab, newline, \


def attach(mountpoint: Path, request: MountRequest) -> Attached:
    """Open /dev/fuse and mount it on the directory; the descriptor does not block and no child inherits it."""
    if os.geteuid() == 0 and not request.auto_unmount:
        return Attached(_mount_as_root(mountpoint, request))
    return _mount_by_helper(mountpoint, request)


def _mount_as_root(mountpoint: Path, request: MountRequest) -> int:
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as err:
        raise NotSupported(f"/dev/fuse: {err.strerror} (is the fuse module loaded?)") from err
    try:
        rootmode = stat.S_IFMT(mountpoint.stat().st_mode)
        options = [
            f"fd={fd}",
            f"rootmode={rootmode:o}",
            f"user_id={os.geteuid()}",
            f"group_id={os.getegid()}",
            "default_permissions",
        ]
        if request.allow_other:
            options.append("allow_other")
        flags = _MS_NOSUID | _MS_NODEV
        flags |= _MS_RDONLY if request.is_read_only else 0
        flags |= _MS_NOEXEC if request.noexec else 0
        flags |= _MS_NOATIME if request.noatime else 0
        _mount(request.source, mountpoint, flags, ",".join(options))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mount(source: str, mountpoint: Path, flags: int, options: str) -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(mountpoint),
        FILESYSTEM_TYPE.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    if result != 0:
        number = ctypes.get_errno()
        raise from_result(-number, f"{mountpoint}: mount: {os.strerror(number)}")


def _mount_by_helper(mountpoint: Path, request: MountRequest) -> Attached:
    options = [
        f"fsname={request.source.replace(',', '_')}",
        f"subtype={_SUBTYPE}",
        "nosuid",
        "nodev",
        "default_permissions",
    ]
    for is_wanted, option in (
        (request.is_read_only, "ro"),
        (request.allow_other, "allow_other"),
        (request.auto_unmount, "auto_unmount"),
        (request.noexec, "noexec"),
        (request.noatime, "noatime"),
    ):
        if is_wanted:
            options.append(option)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        helper = subprocess.Popen(
            [_helper(), "-o", ",".join(options), "--", os.fspath(mountpoint)],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    fds: Sequence[int] = ()
    try:
        fds = socket.recv_fds(ours, 1, 1)[1]
    finally:
        if not fds:
            ours.close()
    if not fds:
        _, complaint = helper.communicate()
        raise PermissionDenied(f"{mountpoint}: {_first_line(complaint) or 'fusermount3 failed'}")
    assert helper.stderr is not None
    helper.stderr.close()
    os.set_inheritable(fds[0], False)
    os.set_blocking(fds[0], False)
    if request.auto_unmount:
        helper.returncode = 0  # it lives as long as we do, and nobody waits for it
        return Attached(fds[0], ours)
    helper.wait()
    ours.close()
    return Attached(fds[0])


def unmount(mountpoint: Path, *, is_lazy: bool = False) -> None:
    """Detach the mount: Busy while files are open, unless `is_lazy`, which lets them be used until they are closed."""
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(mountpoint), _MNT_DETACH if is_lazy else 0) != 0:
            raise _unmount_error(mountpoint, ctypes.get_errno())
        return
    command = [_helper(), "-u", *(["-z"] if is_lazy else []), "--", os.fspath(mountpoint)]
    result = subprocess.run(command, check=False, capture_output=True)
    if result.returncode != 0:
        complaint = _first_line(result.stderr)
        error: type[RbdfsError] = Busy if "busy" in complaint.lower() else StoreFailure
        raise error(f"{mountpoint}: {complaint or 'fusermount3 failed'}")


def _unmount_error(mountpoint: Path, number: int) -> RbdfsError:
    if number == errno.EBUSY:
        return Busy(f"{mountpoint}: files on it are in use")
    if number == errno.EINVAL:
        return InvalidArgument(f"{mountpoint}: not mounted")
    return from_result(-number, f"{mountpoint}: unmount: {os.strerror(number)}")


def _helper() -> str:
    path = shutil.which("fusermount3") or shutil.which("fusermount3", path="/usr/bin:/bin:/usr/local/bin")
    if path is None:
        raise NotSupported("fusermount3 is not installed (package fuse3); only root mounts without it")
    return path


def _first_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else ""


def raise_read_ahead(mountpoint: Path, kibibytes: int) -> None:
    """Let the kernel read further ahead on this mount, where we may say so: buffered sequential reads gain much."""
    device = mountpoint.stat().st_dev
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        path.write_text(str(kibibytes))
    except OSError:
        return  # not root, or no sysfs: the default of 128 KiB works as well, only slower
