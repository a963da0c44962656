"""Another client changes an image that is mounted here: names, sizes and cached pages follow."""

import os
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest
from mount.daemon import Daemon, run, soon

pytestmark = pytest.mark.mount

MIB = 1 << 20


def test_rollback_shows_the_old_bytes_at_once(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.write_bytes(b"old" * MIB)
    daemon.cli("snap", "create", daemon.spec("disk@s"))
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"new" * MIB, 0)
        os.ftruncate(file.fileno(), 4 * MIB)
        assert os.pread(file.fileno(), 3, MIB * 3 - 3) == b"new"
    with path.open("rb") as file:
        assert os.pread(file.fileno(), 3, 0) == b"new"
        daemon.cli("snap", "rollback", "--no-progress", daemon.spec("disk@s"))
        assert os.pread(file.fileno(), 3, 0) == b"old"
        assert os.fstat(file.fileno()).st_size == 3 * MIB
    assert path.read_bytes() == b"old" * MIB


def test_resize_by_another_client_is_seen(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.write_bytes(b"x" * MIB)
    with path.open("rb") as file:
        assert file.read() == b"x" * MIB
        daemon.cli("resize", "--no-progress", "--size", "3M", daemon.spec("disk"))
        assert os.fstat(file.fileno()).st_size == 3 * MIB
        daemon.cli("resize", "--no-progress", "--size", "1K", "--allow-shrink", daemon.spec("disk"))
        daemon.cli("resize", "--no-progress", "--size", "2K", daemon.spec("disk"))
        assert os.fstat(file.fileno()).st_size == 2048
        assert os.pread(file.fileno(), MIB, 0) == b"x" * 1024 + bytes(1024)


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_what_is_appended_follows_what_another_client_has_added(daemon: Daemon, flags: int) -> None:
    path = daemon.path / "disk"
    path.write_bytes(b"begin")
    file = os.open(path, os.O_RDWR | os.O_APPEND | flags)
    try:
        os.write(file, b"-ours")
        for size in (2 * MIB, 2 * MIB + 8192, 3 * MIB + 4097):
            daemon.cli("resize", "--no-progress", "--size", f"{size}B", daemon.spec("disk"))
            time.sleep(0.3)  # the kernel is told; a stat, which would tell it too, is what this does without
            os.write(file, b"more")
            assert os.lseek(file, 0, os.SEEK_CUR) == size + 4
    finally:
        os.close(file)
    content = path.read_bytes()
    assert content.replace(b"\0", b"") == b"begin-ours" + 3 * b"more"
    assert content[2 * MIB : 2 * MIB + 4] == b"more"


def test_names_of_another_client_are_seen(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.write_bytes(b"x")
    daemon.cli("snap", "create", daemon.spec("disk@s"))
    assert os.listdir(daemon.path / ".snap/disk") == ["s"]
    assert (daemon.path / ".snap/disk/s").read_bytes() == b"x"
    daemon.cli("snap", "rename", daemon.spec("disk@s"), daemon.spec("disk@t"))
    soon(lambda: os.listdir(daemon.path / ".snap/disk") == ["t"])
    soon(lambda: not (daemon.path / ".snap/disk/s").exists())
    daemon.cli("mv", daemon.spec("disk"), daemon.spec("moved"))
    soon(lambda: os.listdir(daemon.path) == ["moved"])
    soon(lambda: not path.exists())
    assert (daemon.path / "moved").read_bytes() == b"x"
    daemon.cli("snap", "purge", "--no-progress", daemon.spec("moved"))
    soon(lambda: os.listdir(daemon.path / ".snap/moved") == [])


def test_two_mounts_of_one_store_see_each_other(daemon: Daemon, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with Daemon(other, daemon.store) as second:
        second.start()
        ours, theirs = daemon.path / "disk", second.path / "disk"
        ours.write_bytes(b"1" * MIB)
        assert theirs.read_bytes() == b"1" * MIB
        with theirs.open("r+b") as file:
            file.write(b"2" * 4096)
            os.fsync(file.fileno())
        assert ours.read_bytes() == b"2" * 4096 + b"1" * (MIB - 4096)
        with ours.open("r+b") as file:
            file.write(b"3" * 10)
        assert theirs.read_bytes()[:11] == b"3" * 10 + b"2"
        with theirs.open("rb", buffering=0) as reader, ours.open("r+b", buffering=0) as writer:
            for letter in (b"4", b"5"):  # the writer has, and keeps, the lock: nobody tells the reader
                writer.write(letter * 10)
                writer.seek(0)
                deadline = time.monotonic() + 8  # a second where nothing else runs; of itself it takes 15 and more
                while os.pread(reader.fileno(), 10, 0) != letter * 10:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        second.stop()


def test_snapshot_by_another_client_while_we_write_is_a_prefix(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.write_bytes(bytes(MIB))
    stop = threading.Event()

    def write() -> None:
        fd = os.open(path, os.O_RDWR)
        try:
            number = 0
            while not stop.is_set():
                number += 1
                os.pwrite(fd, number.to_bytes(8, "little"), number % 100 * 4096)
        finally:
            os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for name in ("a", "b", "c"):
            daemon.cli("snap", "create", daemon.spec(f"disk@{name}"))
    finally:
        stop.set()
        writer.join()
    for name in ("a", "b", "c"):
        data = (daemon.path / f".snap/disk/{name}").read_bytes()
        numbers = {int.from_bytes(data[at : at + 8], "little") for at in range(0, 100 * 4096, 4096)} - {0}
        last = max(numbers)
        assert numbers == set(range(max(1, last - 99), last + 1)), "a write is there without one before it"


def test_pool_that_goes_does_not_look_empty(daemon: Daemon, tmp_path: Path) -> None:
    name = f"gone-{uuid4().hex[:8]}"
    other = tmp_path / "other"
    other.mkdir()
    daemon.cli("pool", "create", name)
    with Daemon(other, daemon.store.with_pool(name)) as second:
        second.start()
        assert os.listdir(second.path) == []
        (second.path / "disk").write_bytes(b"x")
        daemon.cli("pool", "rm", name, "--force")
        with pytest.raises(FileNotFoundError):
            os.listdir(second.path)
        second.stop()


def test_a_hole_punched_behind_the_end_is_not_taken_for_a_larger_size(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.write_bytes(b"a" * MIB)
    with path.open("ab", buffering=0) as file:
        run("fallocate", "-p", "-o", 2 * MIB, "-l", 4096, path)
        daemon.cli("resize", "--no-progress", "--size", "2M", daemon.spec("disk"))
        time.sleep(0.3)  # the kernel is told
        file.write(b"end")
    assert path.read_bytes() == b"a" * MIB + bytes(MIB) + b"end"


def test_a_name_that_moved_on_is_another_images_in_dot_snap_too(daemon: Daemon) -> None:
    disk, snaps = daemon.path / "disk", daemon.path / ".snap/disk"
    disk.write_bytes(b"old")
    (snaps / "s").touch()
    (daemon.path / "new").write_bytes(b"new")
    disk.rename(daemon.path / "disk.old")
    (daemon.path / "new").rename(disk)
    time.sleep(0.2)  # the kernel is told; it would believe what it knows for a second
    (snaps / "t").touch()
    assert (snaps / "t").read_bytes() == b"new"
    assert os.listdir(daemon.path / ".snap/disk.old") == ["s"]
