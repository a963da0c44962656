"""Loop devices on images: filesystems, trimming, partitions, snapshots under load."""

import contextlib
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.daemon import Daemon, allocated, needs_root, run

pytestmark = [pytest.mark.mount, needs_root]

MIB = 1 << 20
# On a disk as small as ours, ext4 has blocks of 1 KiB and so something in every 8 MiB, which no trimming frees.
EXT4_OF_LARGER_DISKS = ["-b", "4096", "-E", "nodiscard"]


@contextlib.contextmanager
def loop(path: Path, *options: str) -> Iterator[Path]:
    """A loop device over a file."""
    done = subprocess.run(["losetup", "-f", "--show", *options, path], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no loop devices: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        run("losetup", "-d", device)


@contextlib.contextmanager
def filesystem(device: Path, directory: Path, *options: str) -> Iterator[Path]:
    """A mounted filesystem."""
    directory.mkdir(exist_ok=True)
    run("mount", *options, device, directory)
    try:
        yield directory
    finally:
        run("umount", directory)


def image(daemon: Daemon, mebibytes: int) -> Path:
    """An image of that size."""
    path = daemon.path / "disk"
    path.touch()
    os.truncate(path, mebibytes * MIB)
    return path


def fill(directory: Path, count: int) -> dict[str, str]:
    """Make a tree of files; their digests."""
    digests = {}
    for number in range(count):
        path = directory / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        data = os.urandom(1000 + number * 1777 % 300_000)
        path.write_bytes(data)
        digests[str(path.relative_to(directory))] = hashlib.sha256(data).hexdigest()
    return digests


def digests(directory: Path) -> dict[str, str]:
    """The digests of a tree."""
    files = (path for path in directory.rglob("f*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("direct", ["on", "off"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_filesystem_lives_on_an_image_and_gives_space_back(
    daemon: Daemon, tmp_path: Path, kind: str, direct: str
) -> None:
    path = image(daemon, 400)
    options = [f"--direct-io={direct}"]
    with loop(path, *options) as device:
        run(f"mkfs.{kind}", "-q", *(EXT4_OF_LARGER_DISKS if kind == "ext4" else []), device)
        with filesystem(device, tmp_path / "fs", "-o", "discard") as directory:
            expected = fill(directory, 60)
            (directory / "bulk").write_bytes(os.urandom(40 * MIB))
            os.sync()
            full = allocated(path)
            run("cp", "-r", directory / "d1", directory / "copy")
            run("rm", "-r", directory / "copy")
            run("fstrim", directory)
        with filesystem(device, tmp_path / "fs") as directory:
            run("umount", directory)
            run("mount", device, directory)
            assert digests(directory) == expected
            (directory / "bulk").unlink()
        with filesystem(device, tmp_path / "fs") as directory:  # anew: XFS frees what was unlinked in its own time
            run("fstrim", directory)
        run("sync", device)
    assert allocated(path) < full - 30 * MIB
    if kind == "ext4":
        run("e2fsck", "-fn", path)
    else:
        with loop(path) as device:
            run("xfs_repair", "-n", device)


@pytest.mark.parametrize("table", ["gpt", "msdos"])
def test_partitions_of_an_image_are_block_devices(daemon: Daemon, tmp_path: Path, table: str) -> None:
    path = image(daemon, 64)
    parts = ("mkpart", "primary", "1MiB", "21MiB", "mkpart", "primary", "21MiB", "61MiB")
    run("parted", "-s", "-a", "none", path, "mklabel", table, *parts)
    with loop(path, "--partscan") as device:
        if not partitions(device):  # a kernel without CONFIG_*_PARTITION is told what partx reads
            run("partx", "--add", device)
        assert partitions(device) == {"p1": 40960, "p2": 81920}
        second = device.with_name(f"{device.name}p2")
        run("mkfs.ext4", "-q", second)
        with filesystem(second, tmp_path / "fs", "-o", "discard") as directory:
            expected = fill(directory, 10)
        with filesystem(second, tmp_path / "fs") as directory:
            assert digests(directory) == expected
        run("partx", "--delete", device)
    run("e2fsck", "-fn", f"{path}?offset={21 * MIB}")
    listed = run("parted", "-s", "-m", path, "unit", "B", "print").splitlines()
    assert [line.split(":")[:3] for line in listed[2:]] == [
        ["1", f"{MIB}B", f"{21 * MIB - 1}B"],
        ["2", f"{21 * MIB}B", f"{61 * MIB - 1}B"],
    ]


def partitions(device: Path) -> dict[str, int]:
    """The partitions that the kernel sees on a device, with their sectors."""
    found = Path("/sys/block", device.name).glob(f"{device.name}p*")
    return {path.name.removeprefix(device.name): int((path / "size").read_text()) for path in found}


def test_snapshot_under_load_stays_as_it_was(daemon: Daemon, tmp_path: Path) -> None:
    path = image(daemon, 200)
    snap = daemon.path / ".snap/disk/s"
    with loop(path, "--direct-io=on") as device:
        run("mkfs.ext4", "-q", device)
        with filesystem(device, tmp_path / "fs") as directory:
            before = fill(directory, 40)
            os.sync()
            stop = threading.Event()
            writer = threading.Thread(target=_write_until, args=(directory / "busy", stop))
            writer.start()
            try:
                run("fsfreeze", "-f", directory)
                try:
                    snap.touch()
                finally:
                    run("fsfreeze", "-u", directory)
                first = hashlib.sha256(snap.read_bytes()).hexdigest()
            finally:
                stop.set()
                writer.join()
            for name in before:
                (directory / name).unlink()
            run("fstrim", directory)
    assert hashlib.sha256(snap.read_bytes()).hexdigest() == first
    with loop(snap, "-r") as device, filesystem(device, tmp_path / "old", "-o", "ro,noload") as directory:
        found = digests(directory)
        assert {name: found.get(name) for name in before} == before


def _write_until(path: Path, stop: threading.Event) -> None:
    while not stop.is_set():
        with path.open("wb") as file:
            file.write(os.urandom(MIB))
            os.fsync(file.fileno())


def test_detached_mount_serves_a_loop_device_until_it_is_gone(daemon: Daemon, tmp_path: Path) -> None:
    path = image(daemon, 100)
    assert daemon.process is not None
    with loop(path, "--direct-io=on") as device:
        run("mkfs.ext4", "-q", device)
        with filesystem(device, tmp_path / "fs") as directory:
            expected = fill(directory, 10)
            daemon.process.terminate()
            expected |= {}
            os.sync()
            assert digests(directory) == expected
            assert daemon.process.poll() is None
    assert daemon.process.wait(20) == 0
    daemon.process = None
    daemon.start()
    run("e2fsck", "-fn", path)
