"""Placement on real clusters: where `ceph osd map` and the placement groups themselves say that objects are."""

import time

import pytest
from ceph_cluster import CephCluster

from rbdfs.ceph.osdmap import OSDMap
from rbdfs.ceph.placement import locate, place_pg
from rbdfs.ceph.pool import PgId

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

NAMES = ["foo", "rbd_directory", "rbd_data.10a3f2c.0000000000000000", "ä" * 40, " ", "a" * 11, "b" * 12, "c" * 13]


def current_map(cluster: CephCluster) -> OSDMap:
    path = cluster.directory / "osdmap.now"
    cluster.ceph("osd", "getmap", "-o", str(path))
    return OSDMap.from_bytes(path.read_bytes())


def test_objects_are_where_osd_map_says(ceph_cluster_3: CephCluster) -> None:
    osdmap = current_map(ceph_cluster_3)
    pool = osdmap.pool_id("data")
    assert pool is not None
    for name in NAMES:
        for namespace in ("", "some namespace"):
            said = ceph_cluster_3.json("osd", "map", "data", name, *([namespace] if namespace else []))
            target = locate(osdmap, pool, name, namespace=namespace)
            assert said["raw_pgid"] == f"{pool}.{target.raw_hash:x}"
            assert said["pgid"] == str(target.placement.pg)
            assert said["up"] == list(target.placement.up)
            assert said["acting"] == list(target.placement.acting)
            assert said["acting_primary"] == target.placement.osd


def test_placement_groups_are_where_they_say_they_are(ceph_cluster_3: CephCluster) -> None:
    cluster = ceph_cluster_3
    cluster.ceph("osd", "erasure-code-profile", "set", "k2m1", "k=2", "m=1", "crush-failure-domain=osd")
    cluster.ceph("osd", "pool", "create", "placed-ec", "8", "8", "erasure", "k2m1")
    cluster.ceph("osd", "pool", "create", "placed", "11", "11")
    try:
        cluster.wait_until_clean()
        deadline = time.monotonic() + 30
        while wrong := misplaced(cluster):  # the dump lags behind the map
            assert time.monotonic() < deadline, wrong
            time.sleep(0.5)
    finally:
        for name in ("placed-ec", "placed"):
            cluster.ceph("osd", "pool", "rm", name, name, "--yes-i-really-really-mean-it")


def misplaced(cluster: CephCluster) -> dict:
    """The PGs that `pg dump` puts elsewhere than we do."""
    dump = cluster.json("pg", "dump", "pgs")
    stats = dump["pg_stats"] if isinstance(dump, dict) else dump
    osdmap = current_map(cluster)
    wrong = {}
    for stat in stats:
        pool, seed = stat["pgid"].split(".")
        got = place_pg(osdmap, PgId(int(pool), int(seed, 16)))
        said = (stat["up"], stat["up_primary"], stat["acting"], stat["acting_primary"])
        if said != (list(got.up), got.up_primary, list(got.acting), got.osd):
            wrong[stat["pgid"]] = said, got
    return wrong
