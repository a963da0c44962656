"""The state files of mounts."""

import os
from pathlib import Path

import pytest

from rbdfs.fuse.state import (
    MountStatus,
    path_for,
    process_start,
    read_state,
    read_states,
    remove_state,
    write_state,
)


@pytest.fixture(autouse=True)
def _run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBDFS_RUN_DIR", str(tmp_path / "run"))


def status(mountpoint: str, pid: int = 0) -> MountStatus:
    pid = pid or os.getpid()
    return MountStatus(pid, process_start(pid), "a store", "data", "", mountpoint, False, ["disk"], {"..": "no"})


def test_state_is_written_read_and_removed() -> None:
    write_state(status("/mnt/b"))
    write_state(status("/mnt/a"))
    assert [state.mountpoint for state in read_states()] == ["/mnt/a", "/mnt/b"]
    assert read_state("/mnt/b") == status("/mnt/b")
    assert read_state("/mnt/b/") == status("/mnt/b")
    remove_state("/mnt/b", os.getpid())
    assert read_state("/mnt/b") is None


def test_only_the_daemon_removes_its_file() -> None:
    write_state(status("/mnt/a"))
    remove_state("/mnt/a", os.getpid() + 1)
    assert read_state("/mnt/a") is not None


def test_a_process_that_is_gone_is_not_alive() -> None:
    ours = status("/mnt/a")
    assert ours.is_alive
    ours.started += 1  # the number was given to another process
    assert not ours.is_alive
    assert process_start(1 << 30) == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_damaged_files_count_as_absent(content: str) -> None:
    path = path_for("/mnt/a")
    path.parent.mkdir()
    path.write_text(content)
    assert read_states() == []
