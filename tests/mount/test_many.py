"""Many images, a huge one, many handles."""

import os
import time
from pathlib import Path

import pytest
import trio
from mount.daemon import Daemon, allocated, run
from mount.stores import in_pool

from rbdfs.image import directory, snapshots
from rbdfs.image.image import open_image
from rbdfs.image.tasks import for_each
from rbdfs.rados.api import IoCtx

pytestmark = pytest.mark.mount


async def make_images(ioctx: IoCtx, count: int) -> None:
    """Make so many images."""

    async def make(number: int) -> None:
        await directory.create(ioctx, f"image-{number:04}", 10 << 30)

    await for_each(range(count), make)


async def make_snapshots(ioctx: IoCtx, count: int) -> None:
    """Make an image with so many snapshots."""
    await directory.create(ioctx, "disk", 1 << 30)
    async with open_image(ioctx, "disk") as image:
        for number in range(count):
            await snapshots.create(image, f"snap-{number:03}")


def resident(pid: int) -> int:
    """Bytes of memory that a process uses."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def test_two_thousand_images_are_listed_in_about_a_second(daemon: Daemon) -> None:
    daemon.stop()
    trio.run(in_pool, daemon.store, make_images, 2000)
    daemon.start()
    before = resident(daemon.pid)
    began = time.monotonic()
    lines = run("ls", "-l", daemon.path).splitlines()
    elapsed = time.monotonic() - began
    assert len(lines) == 2001
    assert elapsed < 15  # about one on a machine that does nothing else; one by one it would be minutes
    for number in range(0, 2000, 10):
        (daemon.path / f"image-{number:04}").open("rb").close()
    assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < 100
    assert resident(daemon.pid) - before < 100 << 20


def test_a_hundred_snapshots_are_listed_at_once(daemon: Daemon) -> None:
    daemon.stop()
    trio.run(in_pool, daemon.store, make_snapshots, 100)
    daemon.start()
    began = time.monotonic()
    lines = run("ls", "-l", daemon.path / ".snap/disk").splitlines()
    assert len(lines) == 101
    assert time.monotonic() - began < 5  # a third of a second, on a machine that does nothing else


def test_sixteen_tebibytes_of_nothing(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    size = 16 << 40
    began = time.monotonic()
    path.touch()
    os.truncate(path, size)
    assert path.stat().st_size == size
    assert allocated(path) == 0
    with path.open("r+b") as file:
        with pytest.raises(OSError, match="No such device or address"):
            os.lseek(file.fileno(), 0, os.SEEK_DATA)
        assert os.lseek(file.fileno(), 1, os.SEEK_HOLE) == 1
        os.pwrite(file.fileno(), b"x", 9 << 40)
        os.fsync(file.fileno())
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) <= 9 << 40
        assert os.lseek(file.fileno(), (9 << 40) + (1 << 22), os.SEEK_HOLE) == (9 << 40) + (1 << 22)
        run("fallocate", "-p", "-o", 0, "-l", size, path)
        assert os.pread(file.fileno(), 1, 9 << 40) == b"\0"
    assert allocated(path) == 0
    path.unlink()
    assert time.monotonic() - began < 20


def test_many_handles_share_one_open_image(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.write_bytes(b"0" * 100_000)
    fds = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    handles = [os.open(path, os.O_RDWR | (os.O_DIRECT if number % 3 == 0 else 0)) for number in range(300)]
    try:
        os.pwrite(handles[1], b"1" * 4096, 4096)
        assert all(os.pread(fd, 1, 4096) == b"1" for fd in handles[1:300:3])
        assert len(os.listdir(f"/proc/{daemon.pid}/fd")) <= fds + 3
    finally:
        for fd in handles:
            os.close(fd)
    path.unlink()
