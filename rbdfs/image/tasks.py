"""Coroutines about many things at once, and callbacks that coroutines wait for."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

from rbdfs.errors import RbdfsError

MANY_AT_ONCE = 32  # ops under way in an operation on many objects; librbd: rbd_concurrent_management_ops (10)

T = TypeVar("T")


class Completion(Generic[T]):
    """A callback whose argument can be awaited."""

    def __init__(self) -> None:
        self._results: list[T] = []
        self._done: trio.Event | None = None

    def __call__(self, result: T) -> None:
        self._results.append(result)
        if self._done is not None:
            self._done.set()

    async def wait(self) -> T:
        """What the callback was called with."""
        if not self._results:
            self._done = trio.Event()
            await self._done.wait()
        return self._results[0]


async def for_each(
    items: Iterable[T],
    work: Callable[[T], Awaitable[None]],
    *,
    at_once: int = MANY_AT_ONCE,
    on_done: Callable[[int], None] = lambda _done: None,
) -> None:
    """Do the work for each item, several at a time; the first error ends it, when those under way are done."""
    remaining = iter(items)
    errors: list[RbdfsError] = []
    workers, done = 1, 0

    async def worker() -> None:
        nonlocal workers, done
        for item in remaining:
            if workers < at_once:  # there may be more to do
                workers += 1
                nursery.start_soon(worker)
            try:
                await work(item)
            except RbdfsError as err:
                errors.append(err)
            if errors:
                return
            done += 1
            on_done(done)

    async with open_tasks() as nursery:
        await worker()
    if errors:
        raise errors[0]


@asynccontextmanager
async def open_tasks() -> AsyncIterator[trio.Nursery]:
    """A nursery out of which an error comes as it is, not in a group; of several, the first."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        first = group.exceptions[0]
        if len(group.exceptions) == 1 or all(isinstance(error, RbdfsError) for error in group.exceptions):
            raise first from first.__cause__
        raise
