"""Ctrl-C, or a time limit, in any moment of opening and closing a store: it ends, and the store is sound."""

import signal
from collections.abc import Callable
from pathlib import Path

import calls
import pytest
import trio

from rbdfs.local.cluster import check_store, open_store

_SECONDS = 20


def ctrl_c() -> None:
    """Arrives at the next checkpoint of the main task."""
    signal.raise_signal(signal.SIGINT)


async def use(path: Path, before: Callable[[], None], within: Callable[[], None], at_end: Callable[[], None]) -> None:
    with trio.fail_after(_SECONDS):
        before()
        async with open_store(path, create=True) as cluster:
            within()
            if "rbd" not in (await cluster.list_pools()).values():
                await cluster.create_pool("rbd")
            ioctx = await cluster.open_pool("rbd")
            await calls.write(ioctx, "object", 0, b"x" * 1000)
            at_end()


def nothing() -> None:
    """No interruption here."""


@pytest.mark.parametrize("moment", range(3))
def test_ctrl_c_ends_it(tmp_path: Path, moment: int) -> None:
    path = tmp_path / "store"
    trio.run(use, path, nothing, nothing, nothing)
    moments = [nothing] * 3
    moments[moment] = ctrl_c
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # alone, or in a group
        trio.run(use, path, *moments, restrict_keyboard_interrupt_to_checkpoints=True)
    assert caught.type is KeyboardInterrupt or caught.group_contains(KeyboardInterrupt)
    report = trio.run(check_store, path)
    assert report.is_clean
    trio.run(use, path, nothing, nothing, nothing)


async def test_a_time_limit_that_is_over_before_it_begins(tmp_path: Path) -> None:
    with trio.fail_after(_SECONDS), trio.move_on_after(0) as limit:
        async with open_store(tmp_path / "store", create=True):
            pass
    assert limit.cancelled_caught
