"""A user who is not root mounts through fusermount3, on a store of their own."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user; all tests of mounts are this one"),
]


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that belongs to a user without rights."""
    if not stat.S_IMODE(os.stat("/dev/fuse").st_mode) & stat.S_IWOTH:
        pytest.skip("users may not open /dev/fuse here")
    path = Path(tempfile.mkdtemp(prefix="rbdfs-user-", dir="/tmp"))
    os.chown(path, NOBODY, NOBODY)
    yield path
    subprocess.run(["fusermount3", "-u", "-z", str(path / "mnt")], check=False, capture_output=True)
    shutil.rmtree(path)


@pytest.fixture
def as_user(home: Path) -> Callable[..., str]:
    """Run a command as that user; gives what it printed."""

    def run(*command: object, code: int = 0) -> str:
        result = subprocess.run(
            [str(word) for word in command],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            env={
                "HOME": str(home),
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(ROOT),
                "RBDFS_RUN_DIR": str(home / "run"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        output = result.stdout.decode()
        assert result.returncode == code, output
        return output

    try:
        run(sys.executable, "-c", "import rbdfs.cli.main")
    except (AssertionError, PermissionError):
        pytest.skip("other users cannot run this Python, or not read this tree")
    return run


def test_user_mounts_writes_and_unmounts(home: Path, as_user: Callable[..., str]) -> None:
    rbdfs = (sys.executable, "-m", "rbdfs")
    said = as_user(*rbdfs, "mount", "data", home / "mnt")
    assert f"using the local store {home}/.local/share/rbdfs" in said
    assert "created pool data" in said
    as_user("cp", "/bin/ls", home / "mnt/vm")
    as_user("cmp", "/bin/ls", home / "mnt/vm")
    as_user("fallocate", "-p", "-o", "4096", "-l", "4096", home / "mnt/vm")
    assert str(home / "mnt") in as_user(*rbdfs, "status")
    assert (home / ".local/state/rbdfs").is_dir()
    as_user(*rbdfs, "umount", home / "mnt")
    assert as_user(*rbdfs, "ls", "data").splitlines()[-1] == "vm"


def test_other_users_see_nothing_of_it(home: Path, as_user: Callable[..., str]) -> None:
    rbdfs = (sys.executable, "-m", "rbdfs")
    as_user(*rbdfs, "mount", "data", home / "mnt")
    with pytest.raises(PermissionError):
        os.listdir(home / "mnt")
    assert stat.S_IMODE((home / ".local/share/rbdfs").stat().st_mode) == 0o700
    as_user(*rbdfs, "umount", home / "mnt")
