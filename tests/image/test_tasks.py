"""Several things at once."""

import pytest
import trio

from rbdfs.errors import StoreFailure
from rbdfs.image.tasks import Completion, for_each, open_tasks


async def test_work_is_done_for_each_and_no_more_at_once_than_said() -> None:
    running, most, done = 0, 0, []

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.lowlevel.checkpoint()
        running -= 1
        done.append(item)

    await for_each(iter(range(50)), work, at_once=7)
    assert sorted(done) == list(range(50))
    assert most == 7


async def test_first_error_ends_the_work_after_what_is_under_way() -> None:
    done = []

    async def work(item: int) -> None:
        await trio.lowlevel.checkpoint()
        if item == 3:
            raise StoreFailure("third")
        done.append(item)

    with pytest.raises(StoreFailure, match="third"):
        await for_each(range(100), work, at_once=4)
    assert len(done) < 20


async def test_nothing_to_do() -> None:
    async def work(_: int) -> None:
        raise AssertionError

    await for_each([], work)


async def test_completion_may_come_before_or_after_the_wait() -> None:
    early: Completion[int] = Completion()
    early(1)
    assert await early.wait() == 1
    late: Completion[int] = Completion()

    async def complete() -> None:
        late(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(complete)
        assert await late.wait() == 2


async def test_error_of_a_task_comes_out_as_it_is() -> None:
    async def fail() -> None:
        raise StoreFailure("task")

    async def run_both() -> None:
        async with open_tasks() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(fail)

    with pytest.raises(StoreFailure, match="task"):
        await run_both()
