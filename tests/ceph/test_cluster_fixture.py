"""The clusters that tests run against."""

import pytest
from ceph_cluster import CephCluster


@pytest.mark.cluster
def test_cluster_takes_an_image(ceph_cluster: CephCluster) -> None:
    ceph_cluster.rbd("create", "data/fixture", "--size", "1M")
    assert ceph_cluster.rbd("ls", "data").split() == ["fixture"]
    ceph_cluster.rbd("rm", "--no-progress", "data/fixture")


@pytest.mark.cluster
def test_osd_can_be_stopped_and_started_again(ceph_cluster: CephCluster) -> None:
    ceph_cluster.stop("osd.0")
    ceph_cluster.start("osd.0")
    ceph_cluster.rados("-p", "data", "put", "back", "/dev/null")
    ceph_cluster.rados("-p", "data", "rm", "back")
