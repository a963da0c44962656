"""What the tests of real mounts share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.daemon import Daemon, mounted


@pytest.fixture(autouse=True)
def _needs_fuse() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A new store, mounted."""
    with mounted(tmp_path) as running:
        yield running
