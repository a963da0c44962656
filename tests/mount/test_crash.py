"""The daemon dies: what was synced is there again, and the mountpoint can be used again."""

import contextlib
import errno
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest
from mount.daemon import Daemon, mounted, needs_root, run
from mount.stores import LocalStore, Store

from rbdfs.fuse.mounting import find_mount

pytestmark = pytest.mark.mount

MIB = 1 << 20

BLOCK = 4096


@pytest.mark.parametrize("seed", range(4))
def test_synced_blocks_survive_kill(daemon: Daemon, seed: int) -> None:
    generator = random.Random(seed)
    path = daemon.path / "disk"
    path.touch()
    os.truncate(path, 64 << 20)
    synced: dict[int, set[bytes]] = {}  # what each block may hold: its last synced content, or any written since
    begun, failed = threading.Event(), threading.Event()

    def write() -> None:
        try:
            fd = os.open(path, os.O_RDWR)
            try:
                for step in range(100_000):
                    batch = {}
                    for _ in range(generator.randrange(1, 20)):
                        number = generator.randrange(2000)
                        content = step.to_bytes(8, "little") * (BLOCK // 8)
                        batch[number] = content
                        synced.setdefault(number, {bytes(BLOCK)}).add(content)
                        os.pwrite(fd, content, number * BLOCK)
                    if step % 7 == 3:
                        (daemon.path / f".snap/disk/s{step}").touch()
                    os.fsync(fd)
                    for number, content in batch.items():
                        synced[number] = {content}
                    begun.set()
            finally:
                os.close(fd)
        except OSError:
            failed.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert begun.wait(30)
    time.sleep(generator.random() * 0.6)
    daemon.kill()
    writer.join()
    assert failed.is_set()
    with pytest.raises(OSError, check=lambda err: err.errno == errno.ENOTCONN):
        path.stat()
    daemon.start()  # clears the dead mount away
    with path.open("rb") as file:
        for number, allowed in synced.items():
            assert os.pread(file.fileno(), BLOCK, number * BLOCK) in allowed, number


def test_names_survive_kill(daemon: Daemon) -> None:
    """A removal that returned must not come undone, without the data; nor must renames and snapshots be lost."""
    root = daemon.path
    for name in ("removed", "renamed", "kept"):
        (root / name).write_bytes(name.encode() * 1000)
        with (root / name).open("rb") as file:
            os.fsync(file.fileno())
    (root / ".snap/kept/before").touch()
    (root / "renamed").rename(root / "new")
    (root / "removed").unlink()
    daemon.kill()
    daemon.start()
    assert sorted(os.listdir(root)) == ["kept", "new"]
    assert (root / "new").read_bytes() == b"renamed" * 1000
    assert (root / ".snap/kept/before").read_bytes() == b"kept" * 1000
    (root / ".snap/kept/before").unlink()
    daemon.kill()
    daemon.start()
    assert os.listdir(root / ".snap/kept") == []


def test_a_synced_directory_keeps_what_was_made_in_it(daemon: Daemon) -> None:
    (daemon.path / "made").touch()
    directory = os.open(daemon.path, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    daemon.kill()
    daemon.start()
    assert os.listdir(daemon.path) == ["made"]


def test_umount_clears_a_dead_mount(daemon: Daemon) -> None:
    (daemon.path / "disk").write_bytes(b"x")
    daemon.kill()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(daemon.path)
    daemon.cli("umount", daemon.path)
    assert os.listdir(daemon.path) == []


def test_mount_goes_with_the_daemon_where_asked_for(tmp_path: Path, store: Store) -> None:
    with mounted(tmp_path, store, "auto_unmount") as daemon:
        (daemon.path / "disk").write_bytes(b"x")
        daemon.kill()
        deadline = time.monotonic() + 60
        while find_mount(daemon.path) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert os.listdir(daemon.path) == []


def test_second_mount_says_what_is_wrong(daemon: Daemon) -> None:
    done = daemon.cli("mount", "-f", daemon.store.pool, daemon.path, check=False)
    assert done.returncode == errno.EBUSY
    assert "mounted here already" in done.stderr


@contextlib.contextmanager
def small_store(tmp_path: Path, mebibytes: int) -> Iterator[Daemon]:
    """A mount of a store that has a filesystem of so many MiB to itself."""
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", small)
    try:
        with mounted(small, LocalStore(small / "store")) as daemon:
            daemon.expected.append("space|full|ENOSPC")
            yield daemon
    finally:
        run("umount", "-l", small)


def write_if_room(file: FileIO, data: bytes) -> int:
    """Write; gives how many bytes, 0 where there is no room."""
    try:
        return file.write(data)
    except OSError as err:
        if err.errno == errno.ENOSPC:
            return 0
        raise


def write_until_full(file: FileIO, data: bytes) -> None:
    while write_if_room(file, data):
        pass


@needs_root
def test_full_store_is_enospc_and_recovers(tmp_path: Path) -> None:
    with small_store(tmp_path, 64) as daemon:
        path = daemon.path / "disk"
        path.write_bytes(os.urandom(8 << 20))
        kept = path.read_bytes()
        with pytest.raises(OSError, check=lambda err: err.errno == errno.ENOSPC):
            (daemon.path / "big").write_bytes(os.urandom(80 << 20))
        assert path.read_bytes() == kept
        with (daemon.path / "big").open("ab", buffering=0) as big:
            write_until_full(big, os.urandom(MIB))
            assert os.fstat(big.fileno()).st_size == big.tell()
        (daemon.path / "big").unlink()
        path.write_bytes(kept[::-1])
        daemon.stop()
        daemon.start()
        assert path.read_bytes() == kept[::-1]


@needs_root
def test_a_full_store_can_be_emptied_at_once(tmp_path: Path) -> None:
    """What frees room finds some, for the object map and the commit, in the very moment that nothing is left."""
    with small_store(tmp_path, 120) as daemon:
        path = daemon.path / "big"
        (daemon.path / "other").write_bytes(b"o" * MIB)
        for _ in range(3):
            with path.open("wb", buffering=0) as file:
                write_until_full(file, b"x" * (64 << 10))
                size = file.tell()
                for smaller in (size - (64 << 10), size - 5 * MIB, size - 9 * MIB - 77):
                    os.ftruncate(file.fileno(), smaller)
                    assert path.stat().st_size == smaller
                run("fallocate", "-p", "-o", 12345, "-l", 9 * MIB, path)
                write_until_full(file, b"y" * MIB)
            path.unlink()
            assert (daemon.path / "other").read_bytes() == b"o" * MIB
        path.write_bytes(b"z" * (60 * MIB))


@needs_root
def test_a_write_across_objects_that_finds_room_for_half_of_it(tmp_path: Path) -> None:
    with small_store(tmp_path, 120) as daemon:
        start = 4 * MIB - 200704
        refused = 0
        for room in range(0, 1536, 128):
            paths = [daemon.path / name for name in ("fill", "half")]
            with paths[0].open("wb", buffering=0) as fill, paths[1].open("wb", buffering=0) as half:
                half.write(b"A" * start)
                os.fsync(half.fileno())
                write_until_full(fill, b"f" * (64 << 10))
                os.ftruncate(fill.fileno(), fill.tell() - (room << 10))
                os.fsync(fill.fileno())
                written = write_if_room(half, b"B" * MIB)
                refused += not written
                assert os.fstat(half.fileno()).st_size == start + written
            assert paths[1].read_bytes() == b"A" * start + b"B" * written
            for path in paths:
                path.unlink()
        assert refused > 0


@needs_root
def test_umount_returns_though_another_namespace_has_a_copy(daemon: Daemon) -> None:
    with subprocess.Popen(["unshare", "-m", "sleep", "60"]) as other:
        time.sleep(0.2)
        (daemon.path / "disk").write_bytes(b"x")
        began = time.monotonic()
        daemon.stop()
        assert time.monotonic() - began < 20
        other.kill()


def test_daemon_told_to_leave_does_not_wait_for_a_working_directory(daemon: Daemon) -> None:
    (daemon.path / "disk").write_bytes(b"x")
    with subprocess.Popen(["sleep", "60"], cwd=daemon.path) as other:
        assert daemon.process is not None
        daemon.process.terminate()
        assert daemon.process.wait(20) == 0
        daemon.process = None
        other.kill()
