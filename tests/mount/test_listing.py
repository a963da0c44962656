"""A listing that goes on while files change: the kernel believes all that it says."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mount.daemon import Daemon, mounted
from mount.stores import LocalStore

pytestmark = pytest.mark.mount

_GETDENTS64 = {"x86_64": 217, "aarch64": 61}.get(os.uname().machine, 217)
_libc = ctypes.CDLL(None, use_errno=True)
FILES = 100


class Listing:
    """An open directory, read a page at a time: as any program does that takes its time."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._buffer = ctypes.create_string_buffer(4096)

    def read_on(self) -> list[str]:
        length = _libc.syscall(_GETDENTS64, self._directory, self._buffer, len(self._buffer))
        assert length >= 0
        names, at = [], 0
        while at < length:
            (record,) = struct.unpack_from("<H", self._buffer, at + 16)
            names.append(self._buffer.raw[at + 19 : at + record].split(b"\0")[0].decode())
            at += record
        return names

    def read_rest(self) -> list[str]:
        names: list[str] = []
        while more := self.read_on():
            names += more
        return names

    def rewind(self) -> None:
        os.lseek(self._directory, 0, os.SEEK_SET)


@contextmanager
def listing(path: Path) -> Iterator[Listing]:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Listing(directory)
    finally:
        os.close(directory)


@pytest.fixture
def many(tmp_path: Path, local_store: LocalStore) -> Iterator[Daemon]:
    """A mount with more files than one reply to READDIRPLUS has."""
    with mounted(tmp_path, local_store) as daemon:
        for number in range(FILES):
            (daemon.path / f"f{number:03}").write_bytes(b"a" * 10)
        yield daemon


def test_what_was_appended_meanwhile_is_not_taken_back(many: Daemon) -> None:
    with listing(many.path) as names:
        next_name = f"f{int(names.read_on()[-1][1:]) + 8:03}"  # its attributes may have been read already
        with (many.path / next_name).open("ab", buffering=0) as file:
            file.write(b"B" * 100_000)
            os.fsync(file.fileno())
            assert next_name in names.read_rest()
            assert os.fstat(file.fileno()).st_size == 100_010
            file.write(b"C")
        assert (many.path / next_name).read_bytes() == b"a" * 10 + b"B" * 100_000 + b"C"


def test_a_name_means_what_it_means_now(many: Daemon) -> None:
    disk, new = many.path / "z_disk", many.path / "z_new"
    disk.write_bytes(b"old")
    new.write_bytes(b"new")
    with listing(many.path) as names:
        names.read_on()
        disk.rename(many.path / "z_disk.old")
        new.rename(disk)
        (many.path / "f099").unlink()
        (many.path / "x").touch()
        assert disk.read_bytes() == b"new"
        rest = names.read_rest()
        assert "z_new" not in rest
        assert "f099" not in rest
        assert (disk.read_bytes(), (many.path / "z_disk.old").read_bytes()) == (b"new", b"old")
        assert not (many.path / "f099").exists()
        assert not new.exists()
        names.rewind()
        again = names.read_rest()
        assert {"x", "z_disk.old"} <= set(again)
        assert "z_new" not in again
