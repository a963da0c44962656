"""What all tests share: `async def` tests run under trio, and a warning in the log that no test expects fails it."""

import inspect

import pytest
import trio.testing
from ceph_cluster import (  # fixtures
    ceph_cluster as ceph_cluster,
    ceph_cluster_3 as ceph_cluster_3,
    ceph_clusters as ceph_clusters,
)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Run an `async def` test under trio; an `autojump_clock` among its fixtures becomes its clock."""
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = trio.testing.trio_test(pyfuncitem.obj)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Time that jumps to the next deadline whenever every task waits."""
    return trio.testing.MockClock(autojump_threshold=0)
