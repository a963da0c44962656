"""What a user sees of images and snapshots as files."""

import ctypes
import errno
import mmap
import os
import re
import stat
import time
from pathlib import Path

import pytest
import trio
from mount.daemon import Daemon, allocated, mounted, run, soon
from mount.stores import LocalStore, Store, in_pool

from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import OmapSet, WriteOp

pytestmark = pytest.mark.mount

MIB = 1 << 20


def fails_with(number: int) -> "pytest.RaisesExc[OSError]":
    return pytest.raises(OSError, check=lambda err: err.errno == number)


def test_image_is_a_sparse_file(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.touch()
    os.truncate(path, 10 * MIB + 1)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"x" * 70_000, 5 * MIB + 13)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) <= 5 * MIB + 13
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) >= 5 * MIB
        assert os.lseek(file.fileno(), 6 * MIB, os.SEEK_HOLE) == 6 * MIB
        with fails_with(errno.ENXIO):
            os.lseek(file.fileno(), 6 * MIB, os.SEEK_DATA)
    assert path.stat().st_size == 10 * MIB + 1
    assert 70_000 <= allocated(path) <= max(3 * 65536, daemon.store.unit)
    assert daemon.cli("info", daemon.spec("disk")).stdout.startswith("rbd image 'disk'")


def test_grown_truncated_and_reopened_to_the_byte(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.write_bytes(b"0123456789" * 1000)
    os.truncate(path, 9_999)
    os.truncate(path, 10_001)
    with path.open("ab") as file:
        file.write(b"end")
    expected = (b"0123456789" * 1000)[:9_999] + bytes(2) + b"end"
    assert path.read_bytes() == expected
    daemon.stop()
    daemon.start()
    assert path.read_bytes() == expected


def test_snapshots_are_files_under_dot_snap(daemon: Daemon) -> None:
    disk, snaps = daemon.path / "disk", daemon.path / ".snap/disk"
    disk.write_bytes(b"before")
    run("touch", snaps / "one")
    disk.write_bytes(b"after")
    assert os.listdir(daemon.path) == ["disk"]
    assert os.listdir(daemon.path / ".snap") == ["disk"]
    assert os.listdir(snaps) == ["one"]
    assert (snaps / "one").read_bytes() == b"before"
    assert (daemon.path / ".snap/disk@one").read_bytes() == b"before"
    assert disk.read_bytes() == b"after"
    assert stat.S_IMODE((snaps / "one").stat().st_mode) & 0o222 == 0
    with fails_with(errno.EROFS):
        (snaps / "one").open("r+b")
    with fails_with(errno.EROFS):
        os.truncate(snaps / "one", 0)
    run("mv", snaps / "one", snaps / "two")
    assert os.listdir(snaps) == ["two"]
    assert daemon.cli("snap", "ls", daemon.spec("disk")).stdout.split()[6] == "two"
    with fails_with(errno.ENOTEMPTY):
        disk.unlink()
    (snaps / "two").unlink()
    disk.unlink()
    assert os.listdir(daemon.path) == []


def test_protected_snapshot_stays(daemon: Daemon) -> None:
    (daemon.path / "disk").write_bytes(b"x")
    (daemon.path / ".snap/disk/s").touch()
    daemon.cli("snap", "protect", daemon.spec("disk@s"))
    with fails_with(errno.EBUSY):
        (daemon.path / ".snap/disk/s").unlink()
    daemon.cli("snap", "unprotect", daemon.spec("disk@s"))
    (daemon.path / ".snap/disk/s").unlink()


def test_names_obey_rbd(daemon: Daemon) -> None:
    root = daemon.path
    (root / "a").write_bytes(b"a")
    (root / "b").write_bytes(b"b")
    with fails_with(errno.EEXIST):
        (root / "a").rename(root / "b")
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (1, 2):  # RENAME_NOREPLACE, RENAME_EXCHANGE
        assert libc.renameat2(-100, os.fsencode(root / "a"), -100, os.fsencode(root / "b"), flags) == -1
        assert ctypes.get_errno() in (errno.EEXIST, errno.EINVAL)
    assert (root / "b").read_bytes() == b"b"
    with (root / "a").open("rb") as file:
        (root / "a").rename(root / "c d")
        assert os.fstat(file.fileno()).st_ino == (root / "c d").stat().st_ino
        assert file.read() == b"a"
    with fails_with(errno.EINVAL):
        (root / "x@y").touch()
    with fails_with(errno.EPERM):
        (root / "directory").mkdir()
    with fails_with(errno.EPERM):
        os.link(root / "b", root / "c")
    with fails_with(errno.ENOENT):
        (root / "a").read_bytes()
    with fails_with(errno.EEXIST):
        (root / "b").open("xb")


def test_image_in_use_is_not_removed(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.write_bytes(b"precious")
    with path.open("rb") as file:
        with fails_with(errno.EBUSY):
            path.unlink()
        assert file.read() == b"precious"
        assert daemon.cli("rm", daemon.spec("disk"), check=False).returncode == errno.EBUSY
    path.unlink()


def test_mode_owner_and_time_outlive_the_mount(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.write_bytes(b"x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o4640)
    os.chown(path, 1234, -1)
    os.chown(path, -1, 4321)
    os.utime(path, ns=(5, 1_500_000_000_123_456_789))
    for _ in range(2):
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1234, 4321)
        assert found.st_mtime_ns == 1_500_000_000_123_456_789
        daemon.stop()
        daemon.start()
    with path.open("r+b") as file:
        file.write(b"y")
    assert abs(path.stat().st_mtime - time.time()) < 10


@pytest.mark.parametrize("seconds", [1_000_000_000, 0])
def test_a_time_that_is_set_before_the_close_stays(daemon: Daemon, seconds: int) -> None:
    """As `cp -p` does."""
    path = daemon.path / "disk"
    with path.open("wb", buffering=0) as file:
        file.write(b"x")
        file.write(b"y")
        os.utime(file.fileno(), (seconds, seconds))
    for _ in range(2):
        assert path.stat().st_mtime == seconds
        daemon.stop()
        daemon.start()


def test_birth_time_is_the_image_s(daemon: Daemon) -> None:
    (daemon.path / "disk").touch()
    assert abs(float(run("stat", "-c", "%W", daemon.path / "disk")) - time.time()) < 10


def test_extended_attributes_are_image_metadata(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.touch()
    os.setxattr(path, "user.purpose", b"testing")
    assert os.getxattr(path, "user.purpose") == b"testing"
    assert "purpose" in daemon.cli("image-meta", "ls", daemon.spec("disk")).stdout
    daemon.cli("image-meta", "set", daemon.spec("disk"), "other", "value")
    assert os.getxattr(path, "user.other") == b"value"
    assert {"user.purpose", "user.other", "user.rbdfs.id"} <= set(os.listxattr(path))
    os.removexattr(path, "user.purpose")
    with fails_with(errno.ENODATA):
        os.getxattr(path, "user.purpose")
    with fails_with(errno.ENODATA):
        os.removexattr(path, "user.purpose")
    with fails_with(errno.EPERM):
        os.setxattr(path, "user.rbdfs.id", b"forged")
    with fails_with(errno.EOPNOTSUPP):
        os.setxattr(path, "trusted.x", b"")
    assert os.getxattr(path, "user.rbdfs.order") == b"22"
    assert b"exclusive-lock" in os.getxattr(path, "user.rbdfs.features")


def test_df_is_the_pool_s(daemon: Daemon) -> None:
    before = used(daemon.path)
    (daemon.path / "disk").write_bytes(os.urandom(4 * MIB))
    soon(lambda: 4 * MIB <= used(daemon.path) - before <= 5 * MIB)  # monitors count every few seconds
    assert os.statvfs(daemon.path).f_namemax == 255
    (daemon.path / ("x" * 255)).touch()
    with pytest.raises(OSError, check=lambda err: err.errno == errno.ENAMETOOLONG):
        (daemon.path / ("x" * 256)).touch()
    with pytest.raises(OSError, check=lambda err: err.errno == errno.ENAMETOOLONG):
        (daemon.path / ("x" * 255)).rename(daemon.path / ("é" * 128))
    (daemon.path / ("x" * 255)).unlink()


def test_names_that_cannot_be_files_are_told(daemon: Daemon) -> None:
    daemon.cli("create", "--size", "1M", daemon.spec("n" * 300))
    daemon.cli("create", "--size", "1M", daemon.spec(".snap"))
    daemon.cli("create", "--size", "1M", daemon.spec("fine name"))
    assert os.listdir(daemon.path) == ["fine name"]
    (daemon.path / "fine name").read_bytes()
    time.sleep(1)
    assert set(daemon.status()["hidden"]) == {"n" * 300, ".snap"}
    assert "300 bytes" in daemon.cli("status").stdout


def test_read_only_mount_and_no_shrink(tmp_path: Path, store: Store) -> None:
    with mounted(tmp_path, store, "no_shrink") as daemon:
        path = daemon.path / "disk"
        path.write_bytes(b"x" * 100)
        with fails_with(errno.EPERM):
            path.open("wb")
        assert path.read_bytes() == b"x" * 100
        os.truncate(path, 200)
        daemon.stop()
        daemon.start("ro")
        assert path.read_bytes() == b"x" * 100 + bytes(100)
        with fails_with(errno.EROFS):
            path.open("r+b")
        with fails_with(errno.EROFS):
            path.unlink()


def test_single_lane_serves_the_same_bytes(tmp_path: Path, store: Store) -> None:
    data = os.urandom(3 * MIB + 5)
    with mounted(tmp_path, store, "single_lane") as daemon:
        (daemon.path / "disk").write_bytes(data)
        (daemon.path / ".snap/disk/s").touch()
        with (daemon.path / "disk").open("r+b") as file:
            os.pwrite(file.fileno(), b"new", 100)
            os.fsync(file.fileno())
        assert (daemon.path / "disk").read_bytes() == data[:100] + b"new" + data[103:]
        assert (daemon.path / ".snap/disk/s").read_bytes() == data


def test_stripes_of_a_sector_are_read(daemon: Daemon) -> None:
    """In one request of the kernel there are 2,048 of them."""
    size = ("--size", "4M", "--stripe-unit", "512", "--stripe-count", "4")
    daemon.cli("create", *size, daemon.spec("disk"))
    data = os.urandom(4 * MIB)
    path = daemon.path / "disk"
    with path.open("r+b") as file:
        file.write(data)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, MIB) as page:
        try:
            assert os.preadv(descriptor, [page], MIB) == MIB
            assert page[:] == data[MIB : 2 * MIB]
        finally:
            os.close(descriptor)


def test_write_back_cache_keeps_every_byte(tmp_path: Path, store: Store) -> None:
    with mounted(tmp_path, store, "writeback") as daemon:
        path = daemon.path / "disk"
        with path.open("wb", buffering=0) as file:
            for number in range(3000):
                file.write(number.to_bytes(7, "little"))
            os.fsync(file.fileno())
            file.write(b"tail")
        expected = b"".join(number.to_bytes(7, "little") for number in range(3000)) + b"tail"
        assert path.read_bytes() == expected
        daemon.stop()
        daemon.start()
        assert path.read_bytes() == expected


def test_mapped_memory_is_the_file(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    path.write_bytes(bytes(MIB))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[12345:12350] = b"hello"
        mapped.flush()
        assert os.pread(file.fileno(), 5, 12345) == b"hello"
        os.pwrite(file.fileno(), b"bye", 12345)
        assert mapped[12345:12350] == b"byelo"
    daemon.stop()
    daemon.start()
    assert path.read_bytes()[12345:12350] == b"byelo"


def copy(source: Path, target: Path) -> None:
    """What `cp` does where it can."""
    left = source.stat().st_size
    with source.open("rb") as read, target.open("wb") as written:
        while left:
            left -= os.copy_file_range(read.fileno(), written.fileno(), left)


def test_copy_stays_when_the_original_changes(daemon: Daemon) -> None:
    data = os.urandom(9 * MIB)
    (daemon.path / "a").write_bytes(data)
    copy(daemon.path / "a", daemon.path / "b")
    with (daemon.path / "a").open("r+b") as file:
        os.pwrite(file.fileno(), b"changed", 4 * MIB)
    assert (daemon.path / "b").read_bytes() == data


def test_copy_shares_blocks_with_the_original(tmp_path: Path, local_store: LocalStore) -> None:
    with mounted(tmp_path, local_store) as daemon:
        (daemon.path / "a").write_bytes(os.urandom(9 * MIB))
        before = occupied(local_store.path)
        copy(daemon.path / "a", daemon.path / "b")
        assert occupied(local_store.path) - before < MIB


def occupied(store: Path) -> int:
    """What the files of a store occupy."""
    return sum(allocated(path) for path in store.iterdir() if path.is_file())


def used(path: Path) -> int:
    """What df counts as used."""
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_other_options_show(tmp_path: Path, store: Store) -> None:
    with mounted(tmp_path, store, "uid=1234,gid=2345,umask=027,fsname=pool of disks,image=vm-*") as daemon:
        (daemon.path / "vm-1").touch()
        found = (daemon.path / "vm-1").stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o640)  # root made it
        daemon.cli("create", "--size", "1M", daemon.spec("vm-2"))
        daemon.cli("create", "--size", "1M", daemon.spec("other"))
        found = (daemon.path / "vm-2").stat()
        assert (found.st_uid, found.st_gid) == (1234, 2345)
        assert sorted(os.listdir(daemon.path)) == ["vm-1", "vm-2"]
        with fails_with(errno.ENOENT):
            (daemon.path / "other").stat()
        assert re.search(r"^pool\\040of\\040disks .* fuse.rbdfs", Path("/proc/mounts").read_text(), re.MULTILINE)


def test_one_damaged_image_breaks_itself_only(daemon: Daemon) -> None:
    for name in ("good", "bad", "worse"):
        (daemon.path / name).write_bytes(b"x")
    image_id = os.getxattr(daemon.path / "bad", "user.rbdfs.id").decode()
    daemon.stop()
    daemon.expected += ["bad", "size"]

    async def set_size(ioctx: IoCtx, value: bytes) -> None:
        await ioctx.operate(f"rbd_header.{image_id}", WriteOp([OmapSet({"size": value})]))

    trio.run(in_pool, daemon.store, set_size, b"?")
    daemon.start()
    assert sorted(os.listdir(daemon.path)) == ["bad", "good", "worse"]
    assert (daemon.path / "good").read_bytes() == b"x"
    for use in (Path.stat, Path.read_bytes):
        with fails_with(errno.EIO):
            use(daemon.path / "bad")
    listing = run("ls", "-l", daemon.path, check=False)
    assert "worse" in listing
    assert "bad': Input/output error" in listing
    trio.run(in_pool, daemon.store, set_size, (1).to_bytes(8, "little"))
