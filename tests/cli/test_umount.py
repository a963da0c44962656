"""What `umount` tells of a daemon that did not end well."""

import subprocess
from pathlib import Path

from cli.conftest import Run

from rbdfs.fuse.state import MountStatus, failure_file, process_start, write_state


def test_error_of_the_daemon_reaches_whoever_unmounts(run: Run, store: Path, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    with subprocess.Popen(["sleep", "1"]) as daemon:
        pid = daemon.pid
        write_state(MountStatus(pid, process_start(pid), "a store", "data", "", str(mountpoint), read_only=False))
        failure_file(mountpoint).write_text(f"{pid} data/vm: no room\n")
        told = run("umount", mountpoint)
    assert told.code == 5
    assert told.err == f"rbdfs: {mountpoint}: the daemon ended with an error: data/vm: no room\n"


def test_error_of_an_earlier_daemon_is_not_told_again(run: Run, store: Path, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    with subprocess.Popen(["sleep", "0.5"]) as daemon:
        pid = daemon.pid
        write_state(MountStatus(pid, process_start(pid), "a store", "data", "", str(mountpoint), read_only=False))
        failure_file(mountpoint).write_text("1 of another one\n")
        assert run("umount", mountpoint).code == 0
