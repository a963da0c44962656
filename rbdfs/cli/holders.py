"""Who keeps a mount busy, by files, directories or loop devices; and which process serves it."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_AT_MOST = 5


def describe_holders(mountpoint: Path) -> str:
    """The first few users of a mount, for a person; the empty string where none can be seen."""
    found = [*_loop_devices(mountpoint), *_processes(mountpoint)]
    if not found:
        return ""
    more = f" and {len(found) - _AT_MOST} more" if len(found) > _AT_MOST else ""
    return ", ".join(found[:_AT_MOST]) + more


def describe_namespace_with(device: str) -> str:
    """A process of another mount namespace that has its own copy of this mount (`major:minor`); "" where none is."""
    own = Path("/proc/self/ns/mnt").readlink()
    seen = {own}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            namespace = (process / "ns/mnt").readlink()
            if namespace in seen:
                continue
            seen.add(namespace)
            mounts = (process / "mountinfo").read_text(errors="replace").splitlines()
            if any(line.split(" ", 3)[2] == device for line in mounts):
                return _describe(process)
        except OSError:  # another user's, or gone
            continue
    return ""


def find_server(device: str) -> int | None:
    """The process that serves a mount of FUSE (`major:minor`), where the kernel tells (Linux 6.6) and we may look."""
    wanted = f"fuse_connection:\t{device.partition(':')[2]}"
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) != "/dev/fuse":
                continue
            process = descriptor.parents[1]
            if wanted in (process / "fdinfo" / descriptor.name).read_text().splitlines():
                return int(process.name)
        except OSError:  # another user's, or gone
            continue
    return None


def _describe(process: Path) -> str:
    return f"{(process / 'comm').read_text().strip()} (pid {process.name})"


def _is_inside(path: str, mountpoint: Path) -> bool:
    return path == str(mountpoint) or path.startswith(f"{mountpoint}/")


def _loop_devices(mountpoint: Path) -> Iterator[str]:
    for backing_file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            path = backing_file.read_text().rstrip("\n")
        except OSError:  # detached meanwhile
            continue
        if _is_inside(path, mountpoint):
            yield f"/dev/{backing_file.parts[3]} (on {Path(path).name})"


def _processes(mountpoint: Path) -> Iterator[str]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and any(_is_inside(link, mountpoint) for link in _links(process)):
            with suppress(OSError):  # gone meanwhile
                yield _describe(process)


def _links(process: Path) -> Iterator[str]:
    """What a process has open, as far as we may look."""
    for link in (process / "cwd", process / "root", process / "exe"):
        try:
            yield os.readlink(link)
        except OSError:  # another user's, or gone
            continue
    for directory in (process / "fd", process / "map_files"):
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        for entry in entries:
            try:
                yield os.readlink(entry.path)
            except OSError:
                continue
