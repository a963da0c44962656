"""What another client has removed, and the kernel still knows by name."""

import os
from pathlib import Path

import pytest
from mount.daemon import Daemon

pytestmark = pytest.mark.mount


def make(path: Path) -> None:
    """A file that was used a moment ago: the kernel keeps its name."""
    path.write_bytes(b"x")
    path.stat()


def test_a_name_can_be_used_again_at_once(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    make(path)
    daemon.cli("rm", "--no-progress", daemon.spec("disk"))
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_what_is_gone_is_missing_at_once(daemon: Daemon) -> None:
    path = daemon.path / "disk"
    make(path)
    daemon.cli("rm", "--no-progress", daemon.spec("disk"))
    with pytest.raises(FileNotFoundError):
        path.open("rb")
    path = daemon.path / "other"
    make(path)
    daemon.cli("rm", "--no-progress", daemon.spec("other"))
    with pytest.raises(FileNotFoundError):
        os.truncate(path, 1)


def test_a_name_that_is_another_images_by_now_leads_there(daemon: Daemon) -> None:
    path, other = daemon.path / "disk", daemon.path / "other"
    make(path)
    other.write_bytes(b"other")
    daemon.cli("rm", "--no-progress", daemon.spec("disk"))
    daemon.cli("mv", daemon.spec("other"), daemon.spec("disk"))
    assert path.read_bytes() == b"other"
