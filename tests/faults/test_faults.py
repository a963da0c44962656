"""The short form of contrib/faults: one cluster, each kind of fault once, no wrong byte, no op lost or done twice."""

from collections.abc import Iterator

import pytest
from ceph_cluster import CephCluster, selected_releases
from ceph_roots import Unavailable
from faults.faults import FAULTS
from faults.run import run, start

from rbdfs.ceph.msgr2.login import Mode

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# All that begin a new interval or lose a connection in another way; the long form draws from all.
SHORT = [
    "osd_killed_while_pool_splits",
    "osd_out_and_in",
    "osd_suspended",
    "osd_marked_down",
    "pool_merged",
    "osds_drop_connections",
    "monitors_without_quorum",
]


@pytest.fixture(scope="module", params=selected_releases())
def cluster(request: pytest.FixtureRequest) -> Iterator[CephCluster]:
    """Three monitors, three OSDs."""
    try:
        with start(request.param) as cluster:
            yield cluster
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.timeout(900)  # two minutes where nothing else runs
async def test_load_survives_everything_that_befalls_the_cluster(cluster: CephCluster) -> None:
    report = await run(cluster, SHORT, seed=3, modes=(Mode.CRC,))
    assert set(report.faults) == set(SHORT)
    assert report.ops > 1000


async def test_encrypted_connections_survive_as_well(cluster: CephCluster) -> None:
    await run(cluster, ["osd_killed_and_restarted"], seed=4, modes=(Mode.SECURE,))


def test_the_long_form_knows_all_that_the_short_one_does() -> None:
    assert set(SHORT) < set(FAULTS)
