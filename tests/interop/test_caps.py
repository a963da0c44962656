"""Clients that may do less than everything, as `rbd` users with caps of their own are: what they may do works."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from ceph_cluster import CephCluster
from mount.daemon import Daemon, mounted, soon
from mount.stores import ClusterStore

pytestmark = [pytest.mark.cluster, pytest.mark.mount]

MIB = 1 << 20


@dataclass
class ClientStore(ClusterStore):
    """A pool or a namespace, for a client with caps."""

    arguments: str = field(default="")

    @property
    def environment(self) -> dict[str, str]:
        """See Store."""
        return {**super().environment, "CEPH_ARGS": self.arguments}

    def check(self, *, has_crashed: bool = False) -> None:
        """What it may not do, nobody has done; others judge the rest."""


@pytest.fixture
def image(ceph_cluster: CephCluster) -> Iterator[str]:
    """An image with a snapshot, made by `rbd`."""
    name = f"caps-{uuid4().hex[:8]}"
    ceph_cluster.rbd("create", f"data/{name}", "--size", "8M")
    ceph_cluster.rbd("bench", "--io-type", "write", "--io-size", "1M", "--io-total", "4M", f"data/{name}")
    ceph_cluster.rbd("snap", "create", f"data/{name}@s")
    yield name
    ceph_cluster.rbd("snap", "purge", "--no-progress", f"data/{name}")
    ceph_cluster.rbd("rm", "--no-progress", f"data/{name}")


def client(ceph: CephCluster, work: Path, mon: str, osd: str, **where: str) -> Daemon:
    """A mount, and commands, as a new client with these caps."""
    name = f"client.{uuid4().hex[:8]}"
    keyring = ceph.add_client(name, "mon", mon, "osd", osd)
    return Daemon(work, ClientStore(ceph, work, arguments=f"-n {name} -k {keyring}", **where))


def test_a_client_of_one_namespace_needs_no_other(ceph_cluster: CephCluster, tmp_path: Path) -> None:
    ceph_cluster.rbd("namespace", "create", "data/tenant")
    try:
        user = client(
            ceph_cluster, tmp_path, "profile rbd", "profile rbd pool=data namespace=tenant", namespace="tenant"
        )
        user.cli("create", user.spec("vm"), "--size", "1M")
        assert user.cli("ls", "data/tenant").stdout == "vm\n"
        assert user.cli("ls", "data", check=False).returncode == errno.EPERM
        with mounted(tmp_path, user.store) as daemon:
            (daemon.path / "vm").write_bytes(b"x" * MIB)
            assert (daemon.path / "vm").read_bytes() == b"x" * MIB
            os.unlink(daemon.path / "vm")
    finally:
        ceph_cluster.rbd("namespace", "remove", "data/tenant")


def test_who_may_only_read_reads_without_saying_so(ceph_cluster: CephCluster, tmp_path: Path, image: str) -> None:
    user = client(ceph_cluster, tmp_path, "profile rbd-read-only", "profile rbd-read-only pool=data")
    with mounted(tmp_path, user.store) as daemon:
        seen = (daemon.path / image).read_bytes()
        assert len(seen) == 8 * MIB
        assert any(seen)
        assert (daemon.path / ".snap" / image / "s").read_bytes() == seen
        with pytest.raises(OSError, match="Read-only file system"):
            (daemon.path / image).open("r+b")


def test_who_may_not_know_how_full_a_pool_is_works_on_large_images(ceph_cluster: CephCluster, tmp_path: Path) -> None:
    caps = "allow service mon r, allow service osd rw, allow service auth r"
    user = client(ceph_cluster, tmp_path, caps, "allow *")
    ceph_cluster.rbd("create", "data/large", "--size", "8G", "--image-feature", "layering")
    began = time.monotonic()
    assert "8 GiB" in user.cli("du", "data/large").stdout
    user.cli("rm", "--no-progress", "data/large")
    assert time.monotonic() - began < 30
    with mounted(tmp_path, user.store) as daemon, pytest.raises(TimeoutError):
        os.statvfs(daemon.path)


def test_a_pool_that_goes_leaves_nobody_waiting(ceph_cluster: CephCluster, tmp_path: Path) -> None:
    ceph_cluster.ceph("osd", "pool", "create", "doomed", "8")
    ceph_cluster.ceph("osd", "pool", "application", "enable", "doomed", "rbd")
    store = ClientStore(ceph_cluster, tmp_path, pool_name="doomed")
    with mounted(tmp_path, store) as daemon:
        ceph_cluster.ceph("config", "set", "mon", "mon_allow_pool_delete", "true")
        ceph_cluster.ceph("osd", "pool", "rm", "doomed", "doomed", "--yes-i-really-really-mean-it")
        soon(lambda: _fails_with(errno.ENOENT, os.statvfs, daemon.path))


def _fails_with(number: int, call: Callable[[Path], object], path: Path) -> bool:
    try:
        call(path)
    except OSError as err:
        return err.errno == number
    return False
