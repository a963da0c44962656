"""What the tests of real mounts share."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.daemon import Daemon, mounted

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18  # linux/sched.h, linux/mount.h
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True, scope="session")
def _own_mount_namespace() -> None:
    """Mount where no other process can get a copy of it, and keep it, when it makes a namespace for itself."""
    if os.geteuid() == 0:
        assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        assert libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None) == 0


@pytest.fixture(autouse=True)
def _needs_fuse() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A new store, mounted."""
    with mounted(tmp_path) as running:
        yield running
