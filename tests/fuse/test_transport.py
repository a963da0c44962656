"""Both lanes under a real kernel mount, over files in memory."""

import ctypes
import errno
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuse.memory import MemoryOperations
from fuse.mounted import mounted_memory, needs_fuse, outside

from rbdfs.errors import Busy, InvalidArgument, NoSpace
from rbdfs.fuse.mounting import MountRequest, find_mount, is_dead, prepare_mountpoint, unmount

pytestmark = [pytest.mark.mount, needs_fuse]

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE = 1, 2, 8, 16
libc = ctypes.CDLL(None, use_errno=True)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


@pytest.mark.parametrize("is_single_lane", [False, True])
async def test_bytes_come_back(tmp_path: Path, is_single_lane: bool) -> None:
    data = os.urandom(3 << 20)

    def use() -> None:
        (tmp_path / "a").write_bytes(data)
        assert (tmp_path / "a").read_bytes() == data
        assert os.listdir(tmp_path) == ["a"]

    async with mounted_memory(tmp_path, is_single_lane=is_single_lane) as operations:
        await outside(use)
        assert operations.files[b"a"].content.data == data  # type: ignore[attr-defined]


async def test_space_is_managed_in_the_data_lane(tmp_path: Path) -> None:
    def use() -> None:
        fd = os.open(tmp_path / "a", os.O_CREAT | os.O_RDWR)
        try:
            os.write(fd, b"x" * 20000)
            fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 4096, 8192)
            assert os.lseek(fd, 0, os.SEEK_HOLE) == 4096
            assert os.lseek(fd, 4096, os.SEEK_DATA) == 12288
            assert os.pread(fd, 8194, 4095) == b"x" + bytes(8192) + b"x"
            fallocate(fd, ZERO_RANGE, 19999, 4097)
            assert os.fstat(fd).st_size == 24096
            fallocate(fd, 0, 0, 30000)
            assert os.fstat(fd).st_size == 30000
            fallocate(fd, KEEP_SIZE, 0, 90000)
            assert os.fstat(fd).st_size == 30000
            with pytest.raises(OSError, match="No such device or address"):
                os.lseek(fd, 20000, os.SEEK_DATA)
            with pytest.raises(OSError, match="fallocate") as failure:
                fallocate(fd, COLLAPSE, 0, 4096)
            assert failure.value.errno == errno.EOPNOTSUPP
        finally:
            os.close(fd)

    async with mounted_memory(tmp_path):
        await outside(use)


async def test_copy_file_range_stays_in_the_server(tmp_path: Path) -> None:
    data = os.urandom(100_000)

    def use() -> None:
        (tmp_path / "a").write_bytes(data)
        with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("wb") as target:
            assert os.copy_file_range(source.fileno(), target.fileno(), 50_000, 1000, 77) == 50_000
        assert (tmp_path / "b").read_bytes() == bytes(77) + data[1000:51_000]

    async with mounted_memory(tmp_path):
        await outside(use)


async def test_after_a_copy_that_failed_the_kernel_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it may have been done, and the kernel keeps its pages."""

    async def fail(*_: object) -> int:
        raise NoSpace("full")

    def use() -> None:
        (tmp_path / "a").write_bytes(b"data")
        with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("wb") as target:
            with pytest.raises(OSError, check=lambda err: err.errno == errno.ENOSPC):
                os.copy_file_range(source.fileno(), target.fileno(), 4)

    monkeypatch.setattr(MemoryOperations, "copy_range", fail)
    async with mounted_memory(tmp_path) as operations:
        await outside(use)
        assert operations.dropped == [operations.files[b"b"].inode]


async def test_many_direct_writers_and_readers_at_once(tmp_path: Path) -> None:
    block = 4096

    def use() -> None:
        job = ["fio", "--name=x", f"--filename={tmp_path}/f", "--rw=randrw", "--bs=4k", "--size=4m", "--direct=1"]
        job += [
            "--ioengine=libaio",
            "--iodepth=16",
            "--verify=crc32c",
            "--verify_state_save=0",
            "--output-format=terse",
        ]
        subprocess.run(job, check=True, capture_output=True, timeout=25)

    async with mounted_memory(tmp_path) as operations:
        await outside(use)
        assert operations.files[b"f"].content.size == 4 << 20
        assert operations.files[b"f"].content.size % block == 0


async def test_sync_writes_are_flushed_before_they_return(tmp_path: Path) -> None:
    def use() -> None:
        for flags in (os.O_DSYNC, os.O_SYNC | os.O_DIRECT):
            fd = os.open(tmp_path / "a", os.O_CREAT | os.O_RDWR | flags)
            flushes = flush_count()
            os.pwrite(fd, memoryview(page), 0)
            assert flush_count() > flushes
            os.close(fd)

    def flush_count() -> int:
        return operations.files[b"a"].content.flushes  # type: ignore[attr-defined]

    page = mmap.mmap(-1, 4096)
    async with mounted_memory(tmp_path) as operations:
        await outside(use)


async def test_error_of_the_store_reaches_the_writer(tmp_path: Path) -> None:
    def use() -> None:
        with (tmp_path / "a").open("wb", buffering=0) as file:
            file.write(b"x" * 4096)
            with pytest.raises(OSError, match="No space left") as failure:
                os.pwrite(file.fileno(), b"x" * 4096, 4096)
            assert failure.value.errno == errno.ENOSPC
            os.pwrite(file.fileno(), b"y", 4095)

    async with mounted_memory(tmp_path) as operations:
        operations.limit = 4096
        await outside(use)


async def test_invalidated_pages_are_read_again(tmp_path: Path) -> None:
    def read() -> bytes:
        return (tmp_path / "a").read_bytes()

    def write() -> None:
        (tmp_path / "a").write_bytes(b"old" * 5000)

    async with mounted_memory(tmp_path) as operations:
        await outside(write)
        assert await outside(read) == b"old" * 5000
        file = operations.files[b"a"]
        file.content.data[:] = b"new" * 5000  # type: ignore[attr-defined]
        assert await outside(read) == b"old" * 5000  # kept by the kernel across opens
        operations.notifier.invalidate_content(file.inode)
        await operations.notifier.wait_sent()
        assert await outside(read) == b"new" * 5000


async def test_unmount_is_refused_while_a_file_is_open(tmp_path: Path) -> None:
    def use() -> None:
        with (tmp_path / "a").open("wb"):
            with pytest.raises(Busy):
                unmount(tmp_path)

    async with mounted_memory(tmp_path):
        await outside(use)
    assert find_mount(tmp_path) is None


async def test_lazy_unmount_leaves_open_files_usable(tmp_path: Path) -> None:
    def detach_and_use() -> None:
        with (tmp_path / "a").open("w+b") as file:
            unmount(tmp_path, is_lazy=True)
            file.write(b"still here")
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            assert file.read() == b"still here"

    async with mounted_memory(tmp_path) as operations:
        await outside(detach_and_use)
    assert operations.files[b"a"].content.data == b"still here"  # type: ignore[attr-defined]


@pytest.mark.skipif(os.geteuid() != 0, reason="root may also mount without the helper")
async def test_helper_mounts_too(tmp_path: Path) -> None:
    async with mounted_memory(tmp_path, request=MountRequest("x,y", auto_unmount=True)):
        await outside((tmp_path / "a").write_bytes, b"1")
        mount = await outside(find_mount, tmp_path)
        assert mount is not None
        assert mount.type == "fuse.rbdfs"


async def test_mountpoint_is_made_and_a_live_mount_is_not_covered(tmp_path: Path) -> None:
    mountpoint = tmp_path / "new" / "er"
    assert prepare_mountpoint(mountpoint) == mountpoint
    async with mounted_memory(mountpoint):
        with pytest.raises(Busy, match="mounted here already"):
            await outside(prepare_mountpoint, mountpoint)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="not a directory"):
        prepare_mountpoint(tmp_path / "file")


async def test_dead_mount_is_cleared_away(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from rbdfs.fuse.mounting import attach, MountRequest;"
        "attach(Path(sys.argv[1]), MountRequest('gone')); os._exit(9)"
    )
    await outside(lambda: subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False))
    assert is_dead(tmp_path)
    assert await outside(prepare_mountpoint, tmp_path) == tmp_path
    assert not is_dead(tmp_path)
