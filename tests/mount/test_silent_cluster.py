"""A cluster that does not answer: what waits for it says so, and ends when it is told to."""

import contextlib
import errno
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ceph_cluster import CephCluster
from mount.daemon import mounted, soon
from mount.stores import cluster_namespace

pytestmark = [pytest.mark.mount, pytest.mark.cluster]


@contextlib.contextmanager
def silence(ceph: CephCluster) -> Iterator[None]:
    """No OSD answers inside; briefly, or the monitors take notice."""
    ceph.send_signal("osd.0", signal.SIGSTOP)
    try:
        yield
    finally:
        ceph.send_signal("osd.0", signal.SIGCONT)


def test_umount_ends_when_it_was_told_to(ceph_cluster: CephCluster, tmp_path: Path) -> None:
    with cluster_namespace(ceph_cluster, tmp_path) as store, mounted(tmp_path, store) as daemon:
        daemon.expected.append("again: leaving at once")
        (daemon.path / "stuck").write_bytes(b"s" * 512)
        write_in_vain = ["dd", "if=/dev/zero", f"of={daemon.path}/stuck", "count=1", "conv=notrunc"]
        with silence(ceph_cluster), subprocess.Popen(write_in_vain, stderr=subprocess.DEVNULL):
            soon(lambda: daemon.status()["open_images"] == ["stuck"])
            daemon.cli("umount", "--lazy", "--timeout", "1", daemon.path, check=False)
            done = daemon.cli("umount", "--timeout", "1", daemon.path, check=False)
            assert done.returncode == errno.ETIMEDOUT
            assert "still serves files that are open: stuck" in done.stderr
            began = time.monotonic()
            done = daemon.cli("umount", "--force", "--timeout", "1", daemon.path, check=False)
            assert time.monotonic() - began < 6
            assert (done.returncode, "what was not synced is lost" in done.stderr) == (errno.EIO, True)
            assert daemon.process is not None
            assert daemon.process.wait(5) == -signal.SIGKILL
        daemon.has_crashed = True
        daemon.start()
        assert (daemon.path / "stuck").read_bytes() in (b"s" * 512, bytes(512))
