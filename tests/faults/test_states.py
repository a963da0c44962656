"""States of a pool or a cluster in which ops must be held, refused, or sent elsewhere than CRUSH says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import calls
import pytest
import trio
from ceph_cluster import CephCluster as Daemons
from cluster.client import connect_to

from rbdfs.ceph.cluster import CephCluster
from rbdfs.ceph.ioctx import CephIoCtx
from rbdfs.ceph.pool import PoolFlag
from rbdfs.errors import NotFound, NotSupported
from rbdfs.rados.api import Outcome
from rbdfs.rados.ops import Reply, Write, WriteFull, WriteOp

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

OBJECTS = [f"object.{number}" for number in range(24)]


@asynccontextmanager
async def pool_of_our_own(cluster: Daemons, name: str, *how: str) -> AsyncIterator[tuple[CephCluster, CephIoCtx]]:
    """A client, and a pool that is removed afterwards."""
    cluster.ceph("osd", "pool", "create", name, "8", "8", *how)
    async with connect_to(cluster) as client:
        try:
            yield client, await client.open_pool(name)
        finally:
            cluster.ceph("osd", "pool", "rm", name, name, "--yes-i-really-really-mean-it")


async def write_and_read_all(ioctx: CephIoCtx, data: bytes) -> None:
    """Write every object and read it back; an op that went to the wrong OSD would never end."""
    with trio.fail_after(60):
        for name in OBJECTS:
            await ioctx.operate(name, WriteOp([WriteFull(data)]))
        for name in OBJECTS:
            assert bytes(await calls.read(ioctx, name, 0, 0)) == data


async def test_ops_on_a_pool_that_is_removed_end_as_not_found(ceph_cluster_3: Daemons) -> None:
    async with pool_of_our_own(ceph_cluster_3, "kept"), connect_to(ceph_cluster_3) as client:
        await client.create_pool("doomed")
        ioctx = await client.open_pool("doomed")
        ended = 0

        async def work(number: int) -> None:
            nonlocal ended
            try:
                while True:
                    await calls.write(ioctx, f"object.{number}", 0, b"x" * 4096)
            except NotFound:
                ended += 1

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(16):
                    nursery.start_soon(work, number)
                await trio.sleep(0.5)
                await client.remove_pool("doomed")
        assert ended == 16


def set_full_ratios(cluster: Daemons, *ratios: str) -> None:
    for kind, ratio in zip(("nearfull", "backfillfull", "full"), ratios, strict=True):
        cluster.ceph("osd", f"set-{kind}-ratio", ratio)


async def test_a_full_cluster_holds_writes_and_lets_removals_and_reads_through(ceph_cluster_3: Daemons) -> None:
    async with pool_of_our_own(ceph_cluster_3, "filled") as (client, ioctx):
        await write_and_read_all(ioctx, b"before")
        set_full_ratios(ceph_cluster_3, "0.0001", "0.0002", "0.0003")
        try:
            with trio.fail_after(60):
                while not client.osdmap.pools[ioctx.pool_id].flags & PoolFlag.FULL:
                    await client.objecter.wait_for_epoch(client.osdmap.epoch + 1)
            outcomes: list[Outcome] = []
            ioctx.submit("object.0", WriteOp([Write(0, b"later!")]), outcomes.append)
            assert bytes(await calls.read(ioctx, "object.1", 0, 0)) == b"before"
            with trio.fail_after(20):
                await calls.remove(ioctx, "object.2")
            await trio.sleep(1)
            assert not outcomes
        finally:
            set_full_ratios(ceph_cluster_3, "0.90", "0.92", "0.95")
        with trio.fail_after(60):
            await ioctx.flush()
        assert isinstance(outcomes[0], Reply)
        assert bytes(await calls.read(ioctx, "object.0", 0, 0)) == b"later!"


async def test_a_pool_with_a_cache_tier_is_refused(ceph_cluster_3: Daemons) -> None:
    cluster = ceph_cluster_3
    async with pool_of_our_own(cluster, "base") as (client, ioctx), pool_of_our_own(cluster, "cache"):
        cluster.ceph("osd", "tier", "add", "base", "cache")
        cluster.ceph("osd", "tier", "cache-mode", "cache", "writeback", "--yes-i-really-mean-it")
        cluster.ceph("osd", "tier", "set-overlay", "base", "cache")
        try:
            await client.list_pools()
            with pytest.raises(NotSupported, match="cache tier"):
                await calls.write(ioctx, "object", 0, b"x")
            with pytest.raises(NotSupported, match="base: has a cache tier"):
                await client.open_pool("base")
        finally:
            cluster.ceph("osd", "tier", "remove-overlay", "base")
            cluster.ceph("osd", "tier", "cache-mode", "cache", "proxy")
            cluster.ceph("osd", "tier", "remove", "base", "cache")


async def test_ops_go_to_primaries_that_an_upmap_names(ceph_cluster_3: Daemons) -> None:
    """A client that announces this and does not do it waits for an answer for ever."""
    cluster = ceph_cluster_3
    if float(cluster.release) < 18:
        pytest.skip("upmaps of primaries came with Reef")
    cluster.ceph("osd", "set-require-min-compat-client", "reef", "--yes-i-really-mean-it")
    async with pool_of_our_own(cluster, "led") as (client, ioctx):
        await write_and_read_all(ioctx, b"before")
        for seed in range(8):
            pg = f"{ioctx.pool_id}.{seed}"
            cluster.ceph("osd", "pg-upmap-primary", pg, str(cluster.json("pg", "map", pg)["acting"][-1]))
        await client.list_pools()
        assert len(client.osdmap.pg_upmap_primaries) >= 8
        await write_and_read_all(ioctx, b"after")
        async with connect_to(cluster) as newcomer:
            await write_and_read_all(await newcomer.open_pool("led"), b"by another")


async def test_a_degraded_erasure_coded_pool_with_optimizations(ceph_cluster_3: Daemons) -> None:
    """Its pg_temp lists shards in another order than its acting set has."""
    cluster = ceph_cluster_3
    if float(cluster.release) < 20:
        pytest.skip("optimizations of erasure coding came with Tentacle")
    cluster.ceph("osd", "erasure-code-profile", "set", "k2m1", "k=2", "m=1", "crush-failure-domain=osd")
    async with pool_of_our_own(cluster, "optimized", "erasure", "k2m1") as (_, ioctx):
        cluster.ceph("osd", "pool", "set", "optimized", "allow_ec_overwrites", "true")
        cluster.ceph("osd", "pool", "set", "optimized", "allow_ec_optimizations", "true")
        cluster.ceph("osd", "pool", "set", "optimized", "min_size", "2")
        await write_and_read_all(ioctx, b"before" * 5000)
        for osd in range(3):
            cluster.stop(f"osd.{osd}")
            cluster.ceph("osd", "down", str(osd))
            try:
                await write_and_read_all(ioctx, f"without osd.{osd}".encode() * 3000)
            finally:
                cluster.start(f"osd.{osd}")
                await trio.to_thread.run_sync(cluster.wait_until_clean)


async def test_an_erasure_coded_pool_placed_by_multi_step_retry(ceph_cluster_3: Daemons) -> None:
    cluster = ceph_cluster_3
    if float(cluster.release) < 20:
        pytest.skip("multi-step retry came with Squid")
    cluster.ceph("osd", "set-require-min-compat-client", "squid", "--yes-i-really-mean-it")
    spread = ("crush-failure-domain=host", "crush-osds-per-failure-domain=3", "crush-num-failure-domains=1")
    cluster.ceph("osd", "erasure-code-profile", "set", "msr", "k=2", "m=1", *spread)
    async with pool_of_our_own(cluster, "spread", "erasure", "msr") as (client, ioctx):
        rule = client.osdmap.crush.rules[client.osdmap.pools[ioctx.pool_id].crush_rule]
        assert rule.is_msr
        cluster.ceph("osd", "pool", "set", "spread", "allow_ec_overwrites", "true")
        await client.list_pools()
        await write_and_read_all(ioctx, b"content" * 3000)
