"""A pool mounted from the command line, as a user does it: real processes, real files."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rbdfs.cli.holders import find_server
from rbdfs.fuse.mounting import find_mount
from rbdfs.fuse.state import process_start

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"),
]

TIMEOUT = 60


class Shell:
    """Commands on a store and a run directory of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "store"
        self.mountpoint = directory / "mnt"
        self.environment = {
            **os.environ,
            "RBDFS_STORE": str(self.store),
            "RBDFS_RUN_DIR": str(directory / "run"),
            "XDG_STATE_HOME": str(directory / "state"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def __call__(self, *argv: object, code: int = 0) -> str:
        """Run a command and expect its exit code; gives what it printed, errors included."""
        command = [sys.executable, "-m", "rbdfs", *map(str, argv)]
        result = subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
        )
        output = result.stdout.decode()
        assert result.returncode == code, output
        assert "Traceback" not in output
        return output

    def mount(self, *options: object, code: int = 0) -> str:
        log = ("--log-file", self.mountpoint.with_suffix(".log"))
        return self("mount", "data", self.mountpoint, *log, *options, code=code)

    def mounts(self) -> list[dict[str, object]]:
        return list(json.loads(self("status", "--format", "json")))

    def daemon(self) -> int:
        pid = self.mounts()[0]["pid"]
        assert isinstance(pid, int)
        return pid


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    for mount in shell.mounts():
        pid, mountpoint = mount["pid"], str(mount["mountpoint"])
        assert isinstance(pid, int)
        detach(mountpoint)
        wait_for_end(pid)
    subprocess.run(
        ["fusermount3", "-u", "-z", str(shell.mountpoint)], check=False, capture_output=True, timeout=TIMEOUT
    )


def detach(mountpoint: object) -> None:
    command = ["fusermount3", "-u", "-z", str(mountpoint)]
    subprocess.run(command, check=False, capture_output=True, timeout=TIMEOUT)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_for_end(pid: int) -> None:
    for _ in range(100):
        if not is_running(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Whether a process works, or lies there only until somebody asks how it ended."""
    return process_start(pid) != 0


def test_first_mount_makes_store_pool_and_mountpoint_and_says_so(shell: Shell) -> None:
    said = shell.mount()
    assert f"creating the local store {shell.store}" in said
    assert "created pool data" in said
    assert os.listdir(shell.mountpoint) == []
    (mount,) = shell.mounts()
    assert (mount["mountpoint"], mount["pool"], mount["read_only"]) == (str(shell.mountpoint), "data", False)


def test_unknown_pool_is_an_error_with_a_hint_and_no_mount(shell: Shell) -> None:
    shell("pool", "create", "other")
    said = shell.mount(code=2)
    assert "no pool 'data'" in said
    assert "rbdfs pool create data" in said
    assert shell.mounts() == []
    assert not os.path.ismount(shell.mountpoint)


def test_umount_returns_when_the_daemon_is_gone_and_the_data_is_safe(shell: Shell) -> None:
    shell.mount()
    content = os.urandom(3_000_000)
    (shell.mountpoint / "vm").write_bytes(content)
    pid = shell.daemon()
    shell("umount", shell.mountpoint)
    assert not is_running(pid)
    assert shell.mounts() == []
    assert shell("ls", "data") == "vm\n"
    shell.mount()
    assert (shell.mountpoint / "vm").read_bytes() == content


def test_umount_in_use_names_who_uses_it(shell: Shell) -> None:
    shell.mount()
    with (shell.mountpoint / "vm").open("wb"):
        said = shell("umount", shell.mountpoint, code=16)
        assert f"(pid {os.getpid()})" in said
    shell("umount", shell.mountpoint)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a mount namespace")
def test_umount_ends_the_daemon_where_another_mount_namespace_has_a_copy(shell: Shell) -> None:
    shell.mount()
    (shell.mountpoint / "vm").write_bytes(b"kept")
    pid = shell.daemon()
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(unshare, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            assert f"sleep (pid {other.pid})" in shell("umount", shell.mountpoint)
            assert not is_running(pid)
        finally:
            other.kill()
    shell.mount()
    assert (shell.mountpoint / "vm").read_bytes() == b"kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a mount namespace")
def test_umount_waits_for_a_file_open_in_another_namespace_as_long_as_one_likes(shell: Shell) -> None:
    shell.mount()
    pid = shell.daemon()
    script = f"exec 3>{shell.mountpoint}/vm; printf kept >&3; echo; exec sleep 60"
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(unshare, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            said = shell("umount", "--timeout", "1", shell.mountpoint, code=110)
            assert f"open in the mount namespace of sleep (pid {other.pid}): vm" in said
            assert is_running(pid)
            shell("umount", "--force", shell.mountpoint)
            assert not is_running(pid)
        finally:
            other.kill()
    shell.mount()
    assert (shell.mountpoint / "vm").read_bytes() == b"kept"


@pytest.mark.parametrize("seconds", ["-1", "nan", "soon"])
def test_umount_refuses_a_time_that_is_none(shell: Shell, seconds: str) -> None:
    shell.mount()
    assert "--timeout" in shell("umount", f"--timeout={seconds}", shell.mountpoint, code=1)
    (shell.mountpoint / "vm").write_bytes(b"still mounted")


def test_umount_by_force_breaks_open_files_and_keeps_what_was_written(shell: Shell) -> None:
    shell.mount()
    file = os.open(shell.mountpoint / "vm", os.O_RDWR | os.O_CREAT)
    os.write(file, b"kept")
    shell("umount", shell.mountpoint, code=16)
    shell("umount", "--force", shell.mountpoint)
    with pytest.raises(OSError, match="not connected"):
        os.write(file, b"lost")
    with pytest.raises(OSError, match="not connected"):
        os.close(file)
    shell.mount()
    assert (shell.mountpoint / "vm").read_bytes() == b"kept"


def test_mountpoint_may_be_named_by_a_link(shell: Shell, tmp_path: Path) -> None:
    shell.mountpoint.mkdir()
    (tmp_path / "link").symlink_to(shell.mountpoint)
    shell("mount", "data", tmp_path / "link", "--log-file", "none")
    assert shell.mounts()[0]["mountpoint"] == str(shell.mountpoint)
    assert "data" in shell("status", tmp_path / "link")
    shell("umount", tmp_path / "link")
    assert shell.mounts() == []


def test_umount_of_what_is_not_mounted_is_an_error(shell: Shell) -> None:
    assert "not mounted" in shell("umount", shell.mountpoint, code=22)


def test_second_mount_on_the_same_mountpoint_is_refused(shell: Shell) -> None:
    shell.mount()
    assert "mounted here already" in shell.mount(code=16)
    assert len(shell.mounts()) == 1


def test_second_mount_of_the_same_store_shows_the_same_files(shell: Shell, tmp_path: Path) -> None:
    shell.mount()
    shell("mount", "data", tmp_path / "second", "--log-file", "none")
    (shell.mountpoint / "vm").write_bytes(b"first")
    assert (tmp_path / "second/vm").read_bytes() == b"first"
    shell("umount", tmp_path / "second")
    assert (shell.mountpoint / "vm").read_bytes() == b"first"


def test_umount_waits_for_a_daemon_that_another_run_directory_knows(shell: Shell) -> None:
    shell.mount()
    pid = shell.daemon()
    if find_server(find_mount(shell.mountpoint).device) != pid:
        pytest.skip("this kernel does not tell which process serves a mount")
    (shell.mountpoint / "vm").write_bytes(b"x" * (64 << 20))
    shell.environment["RBDFS_RUN_DIR"] += ".other"
    shell("umount", shell.mountpoint)
    assert process_start(pid) == 0


def test_dead_mount_in_the_way_is_cleared(shell: Shell) -> None:
    shell.mount()
    (shell.mountpoint / "vm").write_bytes(b"kept")
    pid = shell.daemon()
    descriptor = os.open(shell.mountpoint / "vm", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(shell.mountpoint)
    shell.mount()
    assert (shell.mountpoint / "vm").read_bytes() == b"kept"


def test_commands_work_on_a_mounted_store(shell: Shell) -> None:
    shell.mount()
    (shell.mountpoint / "vm").write_bytes(b"before")
    shell("snap", "create", "data/vm@s1")
    (shell.mountpoint / "vm").write_bytes(b"after!")
    assert (shell.mountpoint / ".snap/vm/s1").read_bytes() == b"before"
    shell("create", "data/new", "-s", "5M")
    assert (shell.mountpoint / "new").stat().st_size == 5 << 20
    shell("resize", "data/new", "-s", "6M")
    wait_until(lambda: (shell.mountpoint / "new").stat().st_size == 6 << 20)  # nobody has it open: attr_timeout
    shell("rm", "data/new")
    wait_until(lambda: not (shell.mountpoint / "new").exists())  # entry_timeout


def test_read_only_mount_refuses_writes(shell: Shell) -> None:
    shell("pool", "create", "data")
    shell("create", "data/vm", "-s", "1M")
    shell.mount("-o", "ro")
    with pytest.raises(OSError, match="Read-only"):
        (shell.mountpoint / "vm").write_bytes(b"x")


def test_owner_and_permissions_follow_the_options(shell: Shell) -> None:
    shell("pool", "create", "data")
    shell("create", "data/vm", "-s", "1M")
    shell.mount("-o", "uid=1234,gid=4321", "-o", "umask=027")
    found = (shell.mountpoint / "vm").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 4321, 0o640)


@pytest.mark.parametrize("option", ["bogus", "uid", "uid=nobody-of-that-name", "ro=1", "umask=9"])
def test_unknown_option_is_refused_before_anything_happens(shell: Shell, option: str) -> None:
    assert f"-o {option}" in shell.mount("-o", option, code=22)
    assert not shell.store.exists()


def test_store_inside_the_mountpoint_is_refused(shell: Shell) -> None:
    shell.mountpoint = shell.store.parent
    assert "is inside" in shell.mount(code=22)


def test_mountpoint_that_is_a_file_is_refused(shell: Shell) -> None:
    shell.mountpoint.write_text("mine")
    assert "not a directory" in shell.mount(code=22)
    assert shell.mountpoint.read_text() == "mine"


def test_foreground_serves_until_it_is_interrupted(shell: Shell) -> None:
    command = [sys.executable, "-m", "rbdfs", "mount", "-f", "data", str(shell.mountpoint)]
    daemon = subprocess.Popen(command, env=shell.environment, stderr=subprocess.PIPE, text=True)
    assert daemon.stderr is not None
    with daemon.stderr:
        for line in daemon.stderr:
            if "is mounted on" in line:
                break
        (shell.mountpoint / "vm").write_bytes(b"kept")
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(TIMEOUT) == 0
        assert "Traceback" not in daemon.stderr.read()
    assert not os.path.ismount(shell.mountpoint)
    assert shell("ls", "data") == "vm\n"


def test_name_that_cannot_be_a_file_is_told_by_status(shell: Shell) -> None:
    shell("pool", "create", "data")
    name = "n" * 300
    shell("create", f"data/{name}", "-s", "1M")
    shell.mount()
    assert os.listdir(shell.mountpoint) == []
    assert name in shell("status")
    assert shell.mounts()[0]["hidden"] == [{"name": name, "reason": "the name has 300 bytes, a file name at most 255"}]


def test_status_tells_the_open_images(shell: Shell) -> None:
    shell.mount()
    with (shell.mountpoint / "vm").open("wb") as file:
        file.write(b"x")
        file.flush()
        wait_until(lambda: shell.mounts()[0]["open_images"] == ["vm"])
        assert "  vm\n" in shell("status", shell.mountpoint)
