"""The mount on a cluster, beside `rbd` and QEMU's rbd driver: each reads what the others wrote, sees what they did."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ceph_cluster import CephCluster
from interop.librbd import qemu_source
from mount.daemon import Daemon, mounted, soon
from mount.stores import ClusterStore

pytestmark = [pytest.mark.cluster, pytest.mark.mount]

MIB = 1 << 20


@pytest.fixture
def daemon(ceph_cluster: CephCluster, tmp_path: Path) -> Iterator[Daemon]:
    """The pool, mounted."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    with mounted(tmp_path, ClusterStore(ceph_cluster, tmp_path)) as running:
        yield running


def sh(*command: object) -> str:
    """What a command prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def exported(ceph: CephCluster, spec: str) -> bytes:
    path = ceph.directory / "exported"
    ceph.rbd("export", "--no-progress", spec, str(path))
    data = path.read_bytes()
    path.unlink()
    return data


def remove(ceph: CephCluster, file: Path) -> None:
    """Remove an image with its snapshots, through the mount."""
    ceph.rbd("snap", "purge", "--no-progress", f"data/{file.name}")
    file.unlink()
    assert file.name not in ceph.rbd("ls", "data").split()


def test_a_filesystem_made_through_the_mount_is_an_image(ceph_cluster: CephCluster, daemon: Daemon) -> None:
    file, spec = daemon.path / "fs", "data/fs"
    with file.open("wb") as made:
        made.truncate(64 * MIB)
    sh("mkfs.ext4", "-q", file)
    assert exported(ceph_cluster, spec) == file.read_bytes()
    ceph_cluster.check_object_map(spec)
    before = file.read_bytes()
    (daemon.path / ".snap/fs/one").touch()
    sh("fallocate", "-p", "-o", 1000, "-l", 3 * MIB, file)
    ceph_cluster.rbd("snap", "create", "--no-progress", f"{spec}@two")
    soon(lambda: sorted(os.listdir(daemon.path / ".snap/fs")) == ["one", "two"])
    assert exported(ceph_cluster, f"{spec}@one") == (daemon.path / ".snap/fs/one").read_bytes() == before
    assert exported(ceph_cluster, f"{spec}@two") == (daemon.path / ".snap/fs/two").read_bytes() == file.read_bytes()
    assert file.read_bytes()[1000 : 1000 + 3 * MIB] == bytes(3 * MIB)
    for suffix in ("", "@one", "@two"):
        ceph_cluster.check_object_map(spec + suffix)
    remove(ceph_cluster, file)


def test_sizes_and_names_follow_each_other(ceph_cluster: CephCluster, daemon: Daemon) -> None:
    ceph_cluster.rbd("create", "--size", "8M", "data/vm")
    file = daemon.path / "vm"
    soon(lambda: file.exists() and file.stat().st_size == 8 * MIB)
    with file.open("r+b") as opened:
        opened.write(b"x")
        ceph_cluster.rbd("resize", "--no-progress", "--size", "12M", "data/vm")
        soon(lambda: os.fstat(opened.fileno()).st_size == 12 * MIB)
        opened.truncate(5 * MIB + 3)
        assert '"size":5242883' in ceph_cluster.rbd("info", "--format", "json", "data/vm")
        ceph_cluster.rbd("mv", "data/vm", "data/moved")
        soon(lambda: (daemon.path / "moved").exists() and not file.exists())
    (daemon.path / "moved").rename(daemon.path / "again")
    assert "again" in ceph_cluster.rbd("ls", "data").split()
    (daemon.path / "again").unlink()
    assert "again" not in ceph_cluster.rbd("ls", "data").split()


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-utils is not installed")
def test_qemu_and_the_mount_write_in_turns(ceph_cluster: CephCluster, daemon: Daemon) -> None:
    """What QEMU wrote through librbd is read through the mount at once, although the kernel had the old pages."""
    ceph_cluster.rbd("create", "--size", "8M", "data/turns")
    file = daemon.path / "turns"
    soon(file.exists)
    source = qemu_source(ceph_cluster, "turns")
    with file.open("r+b", buffering=0) as opened:
        for turn in range(1, 5):
            os.pwrite(opened.fileno(), bytes((turn,)) * 8192, 0)
            os.fsync(opened.fileno())
            assert "pattern" not in sh("qemu-io", "-f", "raw", "-c", f"read -P {turn} 0 8192", source).lower()
            sh("qemu-io", "-f", "raw", "-c", f"write -P {turn + 100} 4096 8192", source)
            soon(
                lambda turn=turn: (
                    os.pread(opened.fileno(), 12288, 0) == bytes((turn,)) * 4096 + bytes((turn + 100,)) * 8192
                )
            )  # type: ignore[misc]
    sh("qemu-img", "compare", "-f", "raw", "-F", "raw", file, source)
    ceph_cluster.check_object_map("data/turns")
    remove(ceph_cluster, file)


def test_a_roll_back_by_rbd_shows_the_old_bytes(ceph_cluster: CephCluster, daemon: Daemon) -> None:
    """As long as nobody else writes: librbd does not ask for the lock to roll back."""
    source = daemon.work / "source"
    source.write_bytes(b"old" * MIB)
    ceph_cluster.rbd("import", "--no-progress", str(source), "data/rolled")
    ceph_cluster.rbd("snap", "create", "--no-progress", "data/rolled@then")
    ceph_cluster.rbd("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "64K", "data/rolled")
    file = daemon.path / "rolled"
    soon(file.exists)
    with file.open("rb", buffering=0) as opened:
        assert os.pread(opened.fileno(), 3, 0) != b"old"
        ceph_cluster.rbd("snap", "rollback", "--no-progress", "data/rolled@then")
        soon(lambda: os.pread(opened.fileno(), 3, 0) == b"old")
    assert file.read_bytes() == b"old" * MIB
    remove(ceph_cluster, file)


def test_used_space_is_what_rbd_counts(ceph_cluster: CephCluster, daemon: Daemon) -> None:
    file = daemon.path / "used"
    with file.open("wb") as opened:
        opened.truncate(41 * MIB)
        os.pwrite(opened.fileno(), b"x" * 5, 9 * MIB)
        os.pwrite(opened.fileno(), b"x" * 5, 40 * MIB)
    soon(lambda: file.stat().st_blocks * 512 == 5 * MIB)
    assert ceph_cluster.rbd("du", "data/used").split()[-5:] == ["used", "41", "MiB", "5", "MiB"]
    remove(ceph_cluster, file)


def test_a_clone_is_listed_and_refused_by_name(ceph_cluster: CephCluster, daemon: Daemon) -> None:
    """Whether or not it has an object map that would say what it occupies."""
    parent = "data/parent@s"
    ceph_cluster.rbd("create", "--size", "8M", "data/parent")
    ceph_cluster.rbd("snap", "create", "--no-progress", parent)
    ceph_cluster.rbd("snap", "protect", parent)
    clones = {"plain-clone": "layering", "full-clone": "layering,exclusive-lock,object-map,fast-diff"}
    for name, features in clones.items():
        ceph_cluster.rbd("clone", "--image-feature", features, parent, f"data/{name}")
    soon(lambda: set(clones) < set(os.listdir(daemon.path)))
    listing = sh("ls", "-l", daemon.path)
    for name in clones:
        assert re.search(rf"^-rw-------.* {8 * MIB} .* {name}$", listing, re.MULTILINE)
        with pytest.raises(OSError, match="not supported"):
            (daemon.path / name).open("rb")
        ceph_cluster.rbd("rm", "--no-progress", f"data/{name}")
    ceph_cluster.rbd("snap", "unprotect", parent)
    remove(ceph_cluster, daemon.path / "parent")
