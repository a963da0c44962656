"""`rbdfs mount` as users call it, in the background: once, twice, in the way of another, over one that died."""

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.daemon import Daemon, soon
from mount.stores import Store

from rbdfs.fuse.state import process_start

pytestmark = pytest.mark.mount


class Shell(Daemon):
    """Commands only; the daemons are not ours to wait for."""

    def mount(self, *arguments: object, code: int = 0) -> str:
        """`rbdfs mount`; what it said."""
        done = self.cli("mount", self.store.pool, *(arguments or [self.path]), "--log-file", "none", check=False)
        assert done.returncode == code, done.stderr
        return done.stderr

    def pids(self) -> list[int]:
        """The daemons, in the order in which `rbdfs status` shows them."""
        return [mount["pid"] for mount in json.loads(self.cli("status", "--format", "json").stdout)]


@pytest.fixture
def shell(tmp_path: Path, store: Store) -> Iterator[Shell]:
    """A store that nobody has mounted yet."""
    with Shell(tmp_path, store) as made:
        yield made
        for pid in made.pids():
            os.kill(pid, signal.SIGTERM)
            soon(lambda pid=pid: process_start(pid) == 0)  # type: ignore[misc]
        made.store.check(has_crashed=made.has_crashed)


def test_what_was_written_is_safe_when_umount_returns(shell: Shell) -> None:
    content = os.urandom(3_000_000)
    shell.mount()
    (shell.path / "vm").write_bytes(content)
    (pid,) = shell.pids()
    shell.cli("umount", shell.path)
    assert process_start(pid) == 0
    assert shell.pids() == []
    shell.mount()
    assert (shell.path / "vm").read_bytes() == content


def test_two_mounts_of_one_store_but_not_on_one_directory(shell: Shell, tmp_path: Path) -> None:
    shell.mount()
    assert "mounted here already" in shell.mount(code=errno.EBUSY)
    shell.mount(tmp_path / "second")
    (shell.path / "vm").write_bytes(b"first")
    assert (tmp_path / "second/vm").read_bytes() == b"first"
    assert len(shell.pids()) == 2
    shell.cli("umount", tmp_path / "second")
    assert (shell.path / "vm").read_bytes() == b"first"


def test_umount_of_what_is_in_use_names_who_uses_it(shell: Shell) -> None:
    shell.mount()
    with (shell.path / "vm").open("wb"):
        refused = shell.cli("umount", shell.path, check=False)
        assert refused.returncode == errno.EBUSY
        assert f"(pid {os.getpid()})" in refused.stderr
    shell.cli("umount", shell.path)


def test_a_mount_that_died_is_cleared_away(shell: Shell) -> None:
    shell.mount()
    with (shell.path / "vm").open("wb") as file:
        file.write(b"kept")
        file.flush()
        os.fsync(file.fileno())
    (pid,) = shell.pids()
    shell.has_crashed = True
    os.kill(pid, signal.SIGKILL)
    soon(lambda: process_start(pid) == 0)
    with pytest.raises(OSError, match=r"not connected|connection abort"):  # the latter while the connection ends
        os.listdir(shell.path)
    shell.mount()
    assert (shell.path / "vm").read_bytes() == b"kept"


def test_a_pool_that_is_not_there_is_named(shell: Shell) -> None:
    shell.mount()
    shell.cli("umount", shell.path)
    missing = shell.cli("mount", "nowhere", shell.path, check=False)
    assert missing.returncode == errno.ENOENT
    assert "no pool 'nowhere'" in missing.stderr
    assert "rbdfs pool create nowhere" in missing.stderr
    assert not os.path.ismount(shell.path)
