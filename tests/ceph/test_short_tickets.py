"""A client that outlives its tickets, on a real cluster: RBDFS_TEST_MINUTES minutes, by default half a one.

Ten minutes are longer than any test may take: `pytest -o faulthandler_timeout=900`.
"""

import os
from collections.abc import Iterator

import pytest
import trio
from ceph_cluster import POOL, CephCluster, selected_releases, start_cluster
from ceph_roots import Unavailable

from rbdfs.ceph.cluster import connect
from rbdfs.ceph.config import Flags, load
from rbdfs.rados.ops import Read, ReadOp, Write, WriteOp

MINUTES = float(os.environ.get("RBDFS_TEST_MINUTES", "0.5"))
TTL = 60 if MINUTES >= 5 else 6

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(MINUTES * 60 + 180)]


@pytest.fixture(scope="module", params=selected_releases()[:1])
def short_tickets(request: pytest.FixtureRequest) -> Iterator[CephCluster]:
    """Service tickets of a minute (of six seconds, in the short form), AUTH tickets of twice that."""
    try:
        conf = f"auth service ticket ttl = {TTL}\nauth mon ticket ttl = {2 * TTL}\n"
        with start_cluster(request.param, conf=conf) as cluster:
            yield cluster
    except Unavailable as reason:
        pytest.skip(str(reason))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_client_outlives_its_tickets(short_tickets: CephCluster) -> None:
    async with connect(load(Flags(conf=str(short_tickets.conf)), {})) as cluster:
        ioctx = await cluster.open_pool(POOL)
        credentials = cluster.monitors.credentials
        await ioctx.operate("x", WriteOp([Write(0, b"first")]))
        global_id, first_renewal, descriptors = credentials.global_id, credentials.renew_at, open_descriptors()
        end = trio.current_time() + MINUTES * 60
        rounds = 0
        while trio.current_time() < end:
            rounds += 1
            await trio.sleep(TTL / 3)
            if rounds % 5 == 0:  # a new session needs a ticket that is good now
                short_tickets.stop("osd.0")
                short_tickets.start("osd.0")
            with trio.fail_after(60):
                await ioctx.operate("x", WriteOp([Write(0, b"%05d" % rounds)]))
                assert bytes((await ioctx.operate("x", ReadOp([Read(0, 5)]))).outputs[0]) == b"%05d" % rounds
        assert credentials.global_id == global_id
        assert credentials.renew_at > first_renewal + MINUTES * 60 - 2 * TTL
        assert open_descriptors() <= descriptors + 2
