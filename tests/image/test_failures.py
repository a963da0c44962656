"""What happens when the store does not do what it is asked: the writer hears of it, nothing hangs, nothing is lost."""

import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress

import calls
import pytest
import trio
import trio.testing
from image.conftest import MIB, Pools, until
from image.faulty import FaultyIoCtx, Op, faulty_image, is_data_write, is_map_update, takes_room

from rbdfs.cls import lock
from rbdfs.cls.query import ask
from rbdfs.errors import (
    Blocklisted,
    Busy,
    LockLost,
    NoSpace,
    NotConnected,
    NotFound,
    RbdfsError,
    StoreFailure,
)
from rbdfs.image import directory, snapshots
from rbdfs.image.features import Feature, ImageFlag
from rbdfs.image.header import read_header
from rbdfs.image.image import Image, open_image
from rbdfs.image.object_map import load_states
from rbdfs.image.tasks import Completion
from rbdfs.rados.api import WatchLost
from rbdfs.rados.ops import Remove, Truncate, WriteOp, Zero


async def test_failed_write_is_told_and_the_next_one_works(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image):
        await image.write(0, b"good")
        ioctx.rule = lambda name, op: NoSpace("full") if is_data_write(name, op) else None
        with pytest.raises(NoSpace):
            await image.write(0, b"evil")
        with pytest.raises(NoSpace):
            await image.write(4 * MIB - 2, b"evil")
        ioctx.rule = lambda _name, _op: None
        assert await image.read(0, 4) == b"good"
        await image.write(4 * MIB - 2, b"good")
        assert await image.read(4 * MIB - 2, 4) == b"good"


async def test_writes_past_the_end_that_find_no_room_do_not_make_it_larger(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image):
        size = image.size
        await image.write(size, b"grown")  # some grow it, one of them succeeds, and what it wrote stays
        outcomes: list[RbdfsError | None] = []
        full = {image.path.object_name(number) for number in range(20)} - {image.path.object_name(3)}

        def full_but_for_one_object(name: str, op: Op) -> RbdfsError | None:
            takes_room = isinstance(op, WriteOp) and not any(
                isinstance(step, Remove | Truncate | Zero) for step in op.steps
            )
            return NoSpace("full") if takes_room and name in full else None

        ioctx.rule = full_but_for_one_object
        for offset in (size + 5, 12 * MIB, 17 * MIB, 21 * MIB):
            image.submit_write(offset, b"more", outcomes.append)
        await until(lambda: len(outcomes) == 4)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [NoSpace] * 3
        assert image.size == 12 * MIB + 4
        with pytest.raises(NoSpace):
            await image.write(40 * MIB, b"alone")
        assert image.size == 12 * MIB + 4
        await image.resize(30 * MIB)  # this size was asked for
        with pytest.raises(NoSpace):
            await image.write(29 * MIB, b"within")
        with pytest.raises(NoSpace):
            await image.copy_range(image, 12 * MIB, 30 * MIB, 4)
        assert image.size == 30 * MIB
        ioctx.rule = lambda _name, _op: None
        assert await image.read(12 * MIB - 1, 6) == b"\0more\0"
        assert (await read_header(ioctx, image.image_id)).size == 30 * MIB
        assert await image.read(size, 5) == b"grown"


async def test_what_was_written_over_a_write_past_the_end_stays_where_that_one_finds_no_room(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image):
        outcomes: list[RbdfsError | None] = []
        ioctx.holds = lambda name, op: name == image.path.object_name(6) and takes_room(name, op)
        image.submit_write(23 * MIB, b"a" * (2 * MIB), outcomes.append)  # objects 5 and 6
        await until(lambda: ioctx.held)
        await image.write(23 * MIB, b"b" * 1000)
        ioctx.rule = lambda name, op: NoSpace("full") if takes_room(name, op) else None
        ioctx.release()
        await until(lambda: outcomes)
        assert isinstance(outcomes[0], NoSpace)
        assert image.size == 23 * MIB + 1000
        assert await image.read(23 * MIB, 1000) == b"b" * 1000


@pytest.mark.parametrize("size", [16 * MIB, 20 * MIB + 1, 24 * MIB])
@pytest.mark.parametrize("change", [Image.grow, Image.resize])
async def test_a_size_that_was_asked_for_stays_where_a_write_past_the_end_finds_no_room(
    pools: Pools, change: Callable[[Image, int], Awaitable[None]], size: int
) -> None:
    async with faulty_image(pools) as (ioctx, image), trio.open_nursery() as nursery:
        outcomes: list[RbdfsError | None] = []
        ioctx.holds = takes_room
        image.submit_write(20 * MIB, b"x", outcomes.append)
        await until(lambda: ioctx.held)
        nursery.start_soon(change, image, size)  # becoming smaller, it waits for the write
        await trio.testing.wait_all_tasks_blocked(0.02)
        image.submit_write(30 * MIB, b"x", outcomes.append)
        await trio.testing.wait_all_tasks_blocked(0.02)
        ioctx.rule = lambda name, op: NoSpace("full") if takes_room(name, op) else None
        ioctx.release()
        await until(lambda: len(outcomes) == 2)
        assert [type(outcome) for outcome in outcomes] == [NoSpace] * 2
        assert image.size == size


async def test_failed_read_is_told(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image):
        await image.write(0, b"x" * (8 * MIB))
        ioctx.rule = lambda name, _op: StoreFailure("bad sector") if name == image.path.object_name(1) else None
        with pytest.raises(StoreFailure):
            await image.read(0, 8 * MIB)
        assert await image.read(0, 4 * MIB) == b"x" * (4 * MIB)


async def test_full_store_at_the_object_map_spoils_nothing(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image):
        ioctx.rule = lambda name, op: NoSpace("full") if is_map_update(name, op) else None
        with pytest.raises(NoSpace):
            await image.write(0, b"x")
        ioctx.rule = lambda _name, _op: None
        await image.write(0, b"x")
        assert image.header.flags == 0
        assert list(await load_states(ioctx, image.image_id)) == [1, 0]


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
async def test_a_mark_that_fails_while_a_removal_waits_for_it_is_its_writers_concern(
    pools: Pools, first: int, second: int
) -> None:
    async with faulty_image(pools, 20 * MIB) as (ioctx, image):
        await image.write(0, b"x")
        outcomes: list[RbdfsError | None] = []
        ioctx.holds = is_map_update
        image.submit_write(4 * MIB, b"x", outcomes.append)  # its mark goes at once
        image.submit_write(8 * MIB, b"y", outcomes.append)  # these wait for that, and then go as an op each
        image.submit_write(16 * MIB, b"y", outcomes.append)
        ioctx.held.pop()()
        marks = list(ioctx.held)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(image.write_zeroes, 8 * MIB, 12 * MIB)
                await trio.testing.wait_all_tasks_blocked(0.02)
                ioctx.rule = lambda name, op: NoSpace("full") if is_map_update(name, op) else None
                marks[first]()
                await trio.testing.wait_all_tasks_blocked(0.02)
                ioctx.rule, ioctx.holds = lambda _name, _op: None, lambda _name, _op: False
                marks[second]()
            await until(lambda: len(outcomes) == 3)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [NoSpace]
        assert await image.read(8 * MIB, 12 * MIB) == bytes(12 * MIB)
        await image.write(8 * MIB, b"later")


async def test_lost_lock_fails_what_was_under_way_and_is_taken_again(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image):
        await image.write(0, b"x")
        ioctx.rule = lambda name, op: Busy("not locked") if is_map_update(name, op) else None
        with pytest.raises(LockLost):
            await image.write(4 * MIB, b"x")
        ioctx.rule = lambda _name, _op: None
        await image.write(4 * MIB, b"y")
        assert await image.read(4 * MIB, 1) == b"y"


async def test_flush_waits_for_a_write_that_waits_for_the_map(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image):
        await image.write(0, b"lock")
        ioctx.holds = is_map_update
        told: list[str] = []
        image.submit_write(4 * MIB, b"slow", lambda _: told.append("written"))
        flushed: Completion[RbdfsError | None] = Completion()
        image.submit_flush(lambda error: (told.append("flushed"), flushed(error)))
        image.submit_write(5 * MIB, b"later", lambda _: told.append("later"))
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert told == []
        ioctx.release()
        assert await flushed.wait() is None
        await image.flush()
        assert sorted(told) == ["flushed", "later", "written"]
        assert told.index("written") < told.index("flushed")


async def test_snapshot_waits_for_writes_in_flight_and_holds_back_later_ones(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image), trio.open_nursery() as nursery:
        await image.write(0, b"....")
        ioctx.holds = is_data_write
        told: list[str] = []
        image.submit_write(0, b"before", lambda _: told.append("before"))
        nursery.start_soon(snapshots.create, image, "s")
        await until(lambda: not image.path.is_open)
        image.submit_write(0, b"behind", lambda _: told.append("behind"))
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert told == []
        assert not image.header.snaps
        ioctx.release()
        await image.flush()
        assert told == ["before", "behind"]
        assert await image.read(0, 6) == b"behind"
        async with open_image(ioctx, "vm", snap_name="s") as snap:
            assert await snap.read(0, 6) == b"before"


async def test_removal_that_fails_half_way_leaves_objects_writable(pools: Pools) -> None:
    async with faulty_image(pools, 8 * MIB, order=20) as (ioctx, image):
        await image.write(0, b"x" * (8 * MIB))

        def rule(name: str, op: Op) -> RbdfsError | None:
            return StoreFailure("no") if Remove() in op.steps and name.endswith("3") else None

        ioctx.rule = rule
        with pytest.raises(StoreFailure):
            await image.write_zeroes(0, 8 * MIB)
        ioctx.rule = lambda _name, _op: None
        await image.write(3 * MIB, b"again")
        assert await image.read(3 * MIB, 6) == b"againx"
        await image.write_zeroes(0, 8 * MIB)
        assert await image.read(0, 8 * MIB) == bytes(8 * MIB)
        assert set(await load_states(ioctx, image.image_id)) == {0}


async def test_write_to_an_object_under_removal_comes_after_it(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image), trio.open_nursery() as nursery:
        await image.write(0, b"x" * (8 * MIB))
        ioctx.holds = lambda _name, op: Remove() in op.steps
        nursery.start_soon(image.write_zeroes, 0, 4 * MIB)
        await until(lambda: ioctx.held)
        told: list[RbdfsError | None] = []
        image.submit_write(100, b"survives", told.append)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert told == []
        ioctx.release()
        await image.flush()
        assert told == [None]
        assert await image.read(98, 12) == b"\0\0survives\0\0"
        assert list(await load_states(ioctx, image.image_id)) == [1, 1]


async def test_lost_watch_is_made_anew_and_the_lock_kept(pools: Pools) -> None:
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        await directory.create(ioctx, "vm", 8 * MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x")
            await ioctx.watches[0].close()
            await directory.rename(inner, "vm", "new")  # we cannot hear it
            ioctx.watchers[0](WatchLost(NotConnected("lost")))
            await until(lambda: image.name == "new")
            assert len(ioctx.watches) == 2
            info = await ask(ioctx, image.header_name, lock.get_info(lock.RBD_LOCK))
            assert [locker.cookie for locker in info.lockers] == [f"auto {ioctx.watches[1].cookie}"]
            assert image.lock is not None
            assert image.lock.is_owner
            await image.write(4 * MIB, b"y")


async def test_who_is_deaf_does_not_write_without_lock(pools: Pools) -> None:
    """A snapshot may have been made meanwhile, which the write would spoil."""
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        await directory.create(ioctx, "vm", 8 * MIB, features=int(Feature.LAYERING))
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"old")
            ioctx.rule = lambda name, _op: NotConnected("still lost") if name == "watch" else None
            await ioctx.watches[0].close()
            ioctx.watchers[0](WatchLost(NotConnected("lost")))
            async with open_image(inner, "vm") as other:
                await snapshots.create(other, "s")
            with pytest.raises(NotConnected):
                await image.write(0, b"bad")
            ioctx.rule = lambda _name, _op: None
            await until(lambda: len(ioctx.watches) == 2)
            await image.write(0, b"new")
            async with open_image(inner, "vm", snap_name="s") as snap:
                assert await snap.read(0, 3) == b"old"
            assert await image.read(0, 3) == b"new"


async def test_fenced_client_is_told_promptly(pools: Pools) -> None:
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        await directory.create(ioctx, "vm", 8 * MIB)
        with trio.fail_after(5), suppress(Blocklisted):
            async with open_image(ioctx, "vm") as image:
                await image.write(0, b"x")
                ioctx.rule = lambda _name, _op: Blocklisted("fenced")
                ioctx.watchers[0](WatchLost(Blocklisted("fenced")))
                for attempt in (image.write(0, b"y"), image.write(5 * MIB, b"y"), image.read(0, 1), image.resize(1)):
                    with pytest.raises(Blocklisted):
                        await attempt


async def test_failed_flush_at_the_end_is_told_and_the_lock_given_up(pools: Pools) -> None:
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        await directory.create(ioctx, "vm", 8 * MIB)

        async def write_and_leave() -> None:
            async with open_image(ioctx, "vm") as image:
                await image.write(0, b"x")
                ioctx.rule = lambda name, _op: StoreFailure("disk") if name == "flush" else None

        with pytest.raises(StoreFailure):
            await write_and_leave()
        header = await read_header(inner, await directory.lookup(inner, "vm"))
        assert not header.lockers


async def test_map_that_goes_missing_under_way_is_flagged_once_for_all_writes(pools: Pools) -> None:
    async with faulty_image(pools, 64 * MIB) as (ioctx, image):
        await image.write(0, b"x")
        await calls.remove(ioctx, f"rbd_object_map.{image.image_id}")
        async with trio.open_nursery() as nursery:
            for number in range(1, 16):
                nursery.start_soon(image.write, number * 4 * MIB, b"data")
        assert image.header.flags & ImageFlag.OBJECT_MAP_INVALID
        for number in range(1, 16):
            assert await image.read(number * 4 * MIB, 4) == b"data"


UNIT = 1 << 16  # an object of the story


class Story:
    """Operations of every kind, one after the other; what was acknowledged is what must be there."""

    def __init__(self) -> None:
        self.content = bytearray(6 * UNIT)
        self.doubtful: list[tuple[int, int]] = []  # extents that a failed operation may or may not have changed

    async def run(self, image: Image) -> None:
        await self.write(image, 0, b"a" * UNIT)
        await snapshots.create(image, "s")
        await self.write(image, UNIT // 2, b"b" * UNIT)
        await self.zero(image, UNIT, 2 * UNIT)
        await self.write(image, 5 * UNIT, b"c" * (2 * UNIT))
        self.doubtful.append((4 * UNIT, 4 * UNIT))
        await image.resize(4 * UNIT)
        self.doubtful.append((0, 8 * UNIT))
        await snapshots.rollback(image, "s")
        await snapshots.remove(image, "s")

    async def write(self, image: Image, offset: int, data: bytes) -> None:
        self.doubtful.append((offset, len(data)))
        await image.write(offset, data)
        self.doubtful.pop()
        self.content[offset : offset + len(data)] = data

    async def zero(self, image: Image, offset: int, length: int) -> None:
        self.doubtful.append((offset, length))
        await image.write_zeroes(offset, length)
        self.doubtful.pop()
        self.content[offset : offset + length] = bytes(length)

    def check(self, found: bytes) -> None:
        expected = self.content + bytes(8 * UNIT - len(self.content))
        actual = bytearray(found) + bytes(8 * UNIT - len(found))
        for offset, length in self.doubtful:
            expected[offset : offset + length] = actual[offset : offset + length] = bytes(length)
        assert actual == expected


@pytest.mark.parametrize("part", range(6))
async def test_failure_at_every_point(pools: Pools, part: int) -> None:
    """The n-th call of the store fails, for every n: the image stays usable, its map right, its content as told."""
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        for at in itertools.count(part, 6):
            name = f"vm{at}"
            await directory.create(inner, name, 6 * UNIT, order=16)
            story = Story()
            if not await fails_at(ioctx, name, story, at):
                break
            async with open_image(inner, name) as image:
                with trio.fail_after(20):
                    story.check(await image.read(0, image.size))
                    await check_map(image)
                    await image.write(3 * UNIT, b"usable")
                    await snapshots.purge(image)
            await directory.remove(inner, name)
        assert at > 20


async def fails_at(ioctx: FaultyIoCtx, name: str, story: Story, at: int) -> bool:
    """Whether the story is long enough for its call number `at` to fail."""
    calls_left = at

    def rule(_name: str, _op: Op) -> RbdfsError | None:
        nonlocal calls_left
        calls_left -= 1
        return StoreFailure("injected") if calls_left == -1 else None

    with suppress(RbdfsError), trio.fail_after(20):
        async with open_image(ioctx, name) as image:
            ioctx.rule = rule
            try:
                await story.run(image)
            finally:
                failed = calls_left < 0
                ioctx.rule = lambda _name, _op: None
    return failed


async def check_map(image: Image) -> None:
    if image.header.flags & ImageFlag.OBJECT_MAP_INVALID:
        return
    states = await load_states(image.ioctx, image.image_id)
    assert len(states) >= image.header.striping.object_count(image.size)
    for number, state in enumerate(states):
        if state == 0:
            with pytest.raises(NotFound):
                await calls.stat(image.path.data, image.path.object_name(number))
