"""A pool of a cluster fills up: who writes is told, nothing is lost, and all goes on when there is room again."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ceph_cluster import CephCluster
from mount.daemon import mounted, soon
from mount.stores import ClusterStore

pytestmark = [pytest.mark.mount, pytest.mark.cluster, pytest.mark.slow]

MIB = 1 << 20
POOL = "small"
RATIOS = ("nearfull", "backfillfull", "full")


def by_quota(ceph: CephCluster, *, full: bool) -> None:
    ceph.ceph("osd", "pool", "set-quota", POOL, "max_bytes", str(12 * MIB if full else 0))


def by_ratio(ceph: CephCluster, *, full: bool) -> None:
    for kind, ratio in zip(RATIOS, ("0.0001", "0.0002", "0.0003") if full else ("0.90", "0.92", "0.95"), strict=True):
        ceph.ceph("osd", f"set-{kind}-ratio", ratio)


@pytest.fixture(params=[by_quota, by_ratio])
def fill(request: pytest.FixtureRequest, ceph_cluster: CephCluster) -> Iterator[Callable[..., None]]:
    """What makes the pool full, and what makes it so no more."""
    ceph_cluster.ceph("osd", "pool", "create", POOL, "8")
    ceph_cluster.ceph("osd", "pool", "application", "enable", POOL, "rbd")
    try:
        yield request.param
    finally:
        request.param(ceph_cluster, full=False)
        ceph_cluster.ceph("osd", "pool", "rm", POOL, POOL, "--yes-i-really-really-mean-it")


class NoRoom(Exception):
    """What the test waits for."""


@contextlib.contextmanager
def no_room(*numbers: int) -> Iterator[None]:
    """Turn these errors into NoRoom; any other breaks the test."""
    try:
        yield
    except OSError as err:
        if err.errno in numbers:
            raise NoRoom from err
        raise


def has_room(path: Path) -> bool:
    """Whether a byte can be added where none is; the cluster notices some seconds later that it is full, or not."""
    with contextlib.suppress(NoRoom), path.open("ab", buffering=0) as file, no_room(errno.ENOSPC):
        file.write(os.urandom(MIB))
        os.fsync(file.fileno())
        return True
    return False


def test_full_pool_is_enospc_and_recovers(ceph_cluster: CephCluster, tmp_path: Path, fill: Callable[..., None]) -> None:
    with mounted(tmp_path, ClusterStore(ceph_cluster, tmp_path, POOL)) as daemon:
        disk, big, again = (daemon.path / name for name in ("disk", "big", "again"))
        kept = os.urandom(8 * MIB)
        disk.write_bytes(kept)
        again.touch()
        fill(ceph_cluster, full=True)
        soon(lambda: not has_room(big))
        began = time.monotonic()
        with pytest.raises(NoRoom), no_room(errno.ENOSPC, errno.EDQUOT):
            (daemon.path / "another").write_bytes(b"x")
        assert disk.read_bytes() == kept
        with disk.open("r+b") as file:  # what is there can be written again
            file.write(kept[::-1])
        assert time.monotonic() - began < 20
        assert len(big.read_bytes()) == big.stat().st_size
        big.unlink()
        fill(ceph_cluster, full=False)
        soon(lambda: has_room(again))
        daemon.stop()
        daemon.start()
        assert disk.read_bytes() == kept[::-1]
