"""What all tests share: `async def` tests run under trio, and a warning in the log that no test expects fails it."""

import functools
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Iterator

import hypothesis
import pytest
import trio.testing
from ceph_cluster import (  # fixtures
    ceph_cluster as ceph_cluster,
    ceph_cluster_3 as ceph_cluster_3,
    ceph_clusters as ceph_clusters,
)
from mount.namespaces import enter_own_mount_namespace

# How fast a machine is at the moment is no property of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_sessionstart() -> None:
    """Mount where nobody else can get a copy of it."""
    enter_own_mount_namespace()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Run an `async def` test under trio; an `autojump_clock` among its fixtures becomes its clock."""
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        test = pyfuncitem.obj
        if "autojump_clock" not in pyfuncitem.fixturenames:
            test = _ends_within(_seconds_allowed(pyfuncitem) * 0.9, test)
        pyfuncitem.obj = trio.testing.trio_test(test)


def _seconds_allowed(item: pytest.Function) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0] if marker and marker.args else item.config.getini("timeout"))


def _ends_within(seconds: float, test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Cancel a test that hangs: the alarm of pytest-timeout may end trio's own loop, and all later tests with it."""

    @functools.wraps(test)
    async def bounded(**fixtures: object) -> None:
        with trio.fail_after(seconds):
            await test(**fixtures)

    return bounded


@pytest.fixture(autouse=True)
def _no_complaints(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What rbdfs warns of must match a pattern of `@pytest.mark.complains(...)`; real clusters have their reasons."""
    yield
    if request.node.get_closest_marker("cluster") is not None:
        return
    expected = [pattern for marker in request.node.iter_markers("complains") for pattern in marker.args]
    for record in caplog.get_records("call"):
        if record.levelno >= logging.WARNING and record.name.startswith("rbdfs"):
            text = record.getMessage()
            assert any(re.search(pattern, text) for pattern in expected), f"{record.name}: {text}"


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Time that jumps to the next deadline whenever every task waits."""
    return trio.testing.MockClock(autojump_threshold=0)
