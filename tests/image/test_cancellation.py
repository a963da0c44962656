"""Operations that are given up half way: whatever they were waiting for, the image goes on working."""

import itertools
from collections.abc import Awaitable, Callable

import calls
import pytest
import trio
from image.conftest import Pools
from image.faulty import FaultyIoCtx, Op

from rbdfs.errors import NotFound
from rbdfs.image import directory, snapshots
from rbdfs.image.features import ImageFlag
from rbdfs.image.image import Image, open_image
from rbdfs.image.object_map import load_states

UNIT = 1 << 16  # an object

OPERATIONS: dict[str, Callable[[Image], Awaitable[object]]] = {
    "write": lambda image: image.write(3 * UNIT - 5, b"x" * UNIT),
    "grow": lambda image: image.write(7 * UNIT, b"x" * UNIT),
    "zero": lambda image: image.write_zeroes(5, 5 * UNIT),
    "shrink": lambda image: image.resize(UNIT + 7),
    "snapshot": lambda image: snapshots.create(image, "new"),
    "remove": lambda image: snapshots.remove(image, "s"),
    "rollback": lambda image: snapshots.rollback(image, "s"),
    "flush": lambda image: image.flush(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_cancelled_at_every_point(pools: Pools, operation: str) -> None:
    async with pools.client() as inner:
        for at in itertools.count():
            name = f"vm{at}"
            await directory.create(inner, name, 6 * UNIT, order=16)
            ioctx = FaultyIoCtx(inner)
            async with open_image(ioctx, name) as image:
                await image.write(0, b"a" * (5 * UNIT))
                await snapshots.create(image, "s")
                await image.write(UNIT, b"b" * UNIT)
                was_cancelled = await cancel_at(ioctx, OPERATIONS[operation](image), at)
                with trio.fail_after(10):
                    await check_works(image)
            with trio.fail_after(10):
                async with open_image(inner, name) as image:
                    await check_map(image)
                    await snapshots.purge(image)
                await directory.remove(inner, name)
            if not was_cancelled:
                break


async def cancel_at(ioctx: FaultyIoCtx, work: Awaitable[object], at: int) -> bool:
    """Hold the op number `at` of the work, cancel the work, and let the op go on; whether there was such an op."""
    left = at
    scope = trio.CancelScope()

    def holds(_name: str, _op: Op) -> bool:
        nonlocal left
        left -= 1
        if left == -1:
            scope.cancel()
        return left == -1

    async def run() -> None:
        with scope:
            await work

    ioctx.holds = holds
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        while left >= 0 and nursery.child_tasks:  # noqa: ASYNC110
            await trio.sleep(0.001)
        await trio.sleep(0.002)
        ioctx.release()
    return left < 0


async def check_works(image: Image) -> None:
    await image.write(0, b"c" * 100)
    await image.write_zeroes(50, 10)
    await image.write(4 * UNIT, b"d" * UNIT)
    assert await image.read(0, 100) == b"c" * 50 + bytes(10) + b"c" * 40
    assert await image.read(4 * UNIT, UNIT) == b"d" * UNIT
    await snapshots.create(image, "check")
    await image.flush()


async def check_map(image: Image) -> None:
    assert not image.header.flags & ImageFlag.OBJECT_MAP_INVALID
    states = await load_states(image.ioctx, image.image_id)
    assert len(states) >= image.header.striping.object_count(image.size)
    for number, state in enumerate(states):
        if state == 0:
            with pytest.raises(NotFound):
                await calls.stat(image.path.data, image.path.object_name(number))
