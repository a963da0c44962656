"""Changes whose answer is lost, late, or not waited for: what was acknowledged is there, whatever was done of them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import calls
import pytest
import trio
from image.conftest import MIB, Pools, until
from image.faulty import FaultyIoCtx, Op, calls_method, faulty_image, is_data_write, is_map_update

from rbdfs.errors import NoSpace, NotConnected, RbdfsError, TimedOut
from rbdfs.image import directory, snapshots
from rbdfs.image.image import open_image
from rbdfs.image.lookup import lookup
from rbdfs.image.names import object_map_object
from rbdfs.rados.api import IoCtx, WatchEvent, WatchLost
from rbdfs.rados.ops import ReadOp, Remove, Reply, Truncate, Zero


@contextmanager
def not_answered(ioctx: FaultyIoCtx, method: str, *, is_cancelled: bool) -> Iterator[None]:
    """The call of a method is done: after the caller was cancelled, or its answer is lost."""
    scope, is_it = trio.CancelScope(), calls_method(method)

    def holds(name: str, op: Op) -> bool:
        if is_it(name, op):
            scope.cancel()
        return is_it(name, op)

    if is_cancelled:
        ioctx.holds = holds
    else:
        ioctx.loses = is_it
    with scope:
        yield
    ioctx.release()


@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_snapshot_that_may_have_been_made_is_not_written_over(pools: Pools, is_answered: bool) -> None:
    """It is entered in the header, and then either that, or reading the header again, is not answered."""
    async with faulty_image(pools) as (ioctx, image):
        await image.write(0, b"old")
        if is_answered:
            adds = calls_method("snapshot_add")
            has_added = False

            def rule(name: str, op: Op) -> RbdfsError | None:
                nonlocal has_added
                has_added |= adds(name, op)
                if has_added and isinstance(op, ReadOp) and name == image.header_name:
                    ioctx.rule = lambda _name, _op: None
                    return TimedOut("no answer")
                return None

            ioctx.rule = rule
        else:
            ioctx.loses = calls_method("snapshot_add")
        with suppress(TimedOut):
            await snapshots.create(image, "s")
        await image.write(0, b"new")
        await image.flush()
    async with pools.client() as inner, open_image(inner, "vm", snap_name="s") as snapshot:
        assert await snapshot.read(0, 3) == b"old"


async def test_a_file_that_may_have_become_smaller_is_looked_at_before_it_is_written(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image):
        await image.write(6 * MIB, b"gone with the end")
        ioctx.loses = calls_method("set_size")
        with pytest.raises(TimedOut):
            await image.resize(2 * MIB)
        ioctx.loses = lambda _name, _op: False
        await image.write(7 * MIB, b"kept")
        await image.flush()
    async with pools.client() as inner, open_image(inner, "vm") as image:
        assert image.size == 7 * MIB + 4
        assert await image.read(6 * MIB, MIB + 4) == bytes(MIB) + b"kept"


async def test_a_size_taken_back_late_does_not_cut_off_later_writes(
    pools: Pools, autojump_clock: trio.testing.MockClock
) -> None:
    """A write past the end finds no room; that the size goes back takes longer than the writer waits."""
    async with faulty_image(pools) as (ioctx, image):
        sizes = 0
        frees = (Remove, Truncate, Zero)

        def holds(name: str, op: Op) -> bool:
            nonlocal sizes
            sizes += is_size(name, op)
            return is_size(name, op) and sizes == 2  # not the growing

        def rule(name: str, op: Op) -> RbdfsError | None:
            is_write = is_data_write(name, op) and not any(isinstance(step, frees) for step in op.steps)
            return NoSpace("full") if is_write else None

        is_size = calls_method("set_size")
        ioctx.rule, ioctx.holds = rule, holds
        with pytest.raises(NoSpace):
            await image.write(20 * MIB, b"x")
        ioctx.rule = lambda _name, _op: None
        ioctx.release()
        await image.write(16 * MIB, b"kept")
        await image.flush()
    async with pools.client() as inner, open_image(inner, "vm") as image:
        assert await image.read(16 * MIB, 4) == b"kept"


async def test_a_map_that_could_not_be_flagged_is_kept(pools: Pools) -> None:
    """The snapshot's map is gone, so rolling back must give up the image's, and say so in the header."""
    async with faulty_image(pools) as (ioctx, image):
        await image.write(0, b"old")
        await snapshots.create(image, "s")
        await calls.remove(ioctx, object_map_object(image.image_id, image.header.snaps[0].id))
        is_flagging = calls_method("set_flags")
        ioctx.rule = lambda name, op: NoSpace("full") if is_flagging(name, op) else None
        with pytest.raises(NoSpace):
            await snapshots.rollback(image, "s")
        ioctx.rule = lambda _name, _op: None
        await image.write(5 * MIB, b"kept")
        await image.flush()
    async with pools.client() as inner, open_image(inner, "vm") as image:
        await image.write(0, b"x")  # as the owner of the lock, with the stored map
        assert await image.read(5 * MIB, 4) == b"kept"


async def test_a_lock_that_was_not_waited_for_is_given_back(pools: Pools) -> None:
    class Slow(FaultyIoCtx):
        async def operate(self, name: str, op: Op) -> Reply:
            reply = await super().operate(name, op)
            if name.startswith("rbd_header.") and calls_method("lock")(name, op):
                await trio.sleep(0.3)
            return reply

    async with pools.client() as mine, pools.client() as other:
        await directory.create(mine, "vm", 8 * MIB)
        async with open_image(Slow(mine), "vm") as image:
            with trio.move_on_after(0.1) as scope:
                await image.resize(4 * MIB)
            assert scope.cancelled_caught
            with trio.fail_after(5):
                async with open_image(other, "vm") as peer:
                    await peer.write(0, b"x")


async def test_what_is_still_marked_when_the_lock_is_lost_is_on_the_next_map(pools: Pools) -> None:
    async with faulty_image(pools, 16 * MIB) as (ioctx, image):
        await image.write(0, b"0")
        outcomes: list[object] = []
        ioctx.holds = is_map_update
        image.submit_write(4 * MIB, b"1", outcomes.append)  # its mark is under way
        image.submit_write(8 * MIB, b"2", outcomes.append)  # its mark waits for that
        assert image.lock is not None
        image.lock.lost()  # no answer to the cookie of a new watch, say: the lock is still there
        image.submit_write(0, b"3", outcomes.append)
        await trio.sleep(0.1)
        ioctx.release()
        await until(lambda: len(outcomes) == 3)
        assert outcomes == [None] * 3
        assert [await image.read(at * 4 * MIB, 1) for at in range(3)] == [b"3", b"1", b"2"]


async def test_a_watch_that_stands_after_its_image_was_closed_ends(pools: Pools) -> None:
    is_slow, may_stand = False, trio.Event()

    class Slow(FaultyIoCtx):
        async def watch(self, name: str, on_event: Any, seconds: int = 30) -> Any:
            if is_slow:
                await may_stand.wait()
            return await super().watch(name, on_event, seconds)

        async def notify(self, name: str, payload: bytes, seconds: float = 10.0) -> Any:
            if is_slow:
                may_stand.set()
            reply = await super().notify(name, payload, seconds)
            await trio.sleep(0.05)
            return reply

    async with pools.client() as inner, pools.client() as other:
        await directory.create(inner, "vm", MIB)
        ioctx = Slow(inner)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x")
            is_slow = True
            await ioctx.watches[-1].close()
            lost: WatchEvent = WatchLost(NotConnected("dropped"))
            ioctx.watchers[-1](lost)
        await directory.remove(other, "vm")


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_rename_that_may_have_been_done_leaves_a_name_that_leads_to_the_image(
    pools: Pools, is_cancelled: bool
) -> None:
    async with pools.client() as inner:
        image_id = await directory.create(inner, "old", MIB)
        ioctx = FaultyIoCtx(inner)
        with not_answered(ioctx, "dir_rename_image", is_cancelled=is_cancelled):
            await directory.rename(ioctx, "old", "new")
        assert await directory.list_images(inner) == {"new": image_id}
        assert bytes(await calls.read(inner, "rbd_id.new", 4, 0)).decode() == image_id
        assert await lookup(inner, "new") == image_id


async def check_usable(ioctx: IoCtx) -> None:
    """`vm` is the only image, and can be written."""
    assert list(await directory.list_images(ioctx)) == ["vm"]
    async with open_image(ioctx, "vm") as image:
        await image.write(0, b"x")


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_an_image_whose_entry_may_have_been_made_can_be_used(pools: Pools, is_cancelled: bool) -> None:
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        with not_answered(ioctx, "dir_add_image", is_cancelled=is_cancelled):
            await directory.create(ioctx, "vm", MIB)
        await check_usable(inner)


async def test_an_image_whose_name_may_have_been_taken_has_it(pools: Pools) -> None:
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        ioctx.loses = calls_method("set_id")
        image_id = await directory.create(ioctx, "vm", MIB)
        assert await directory.list_images(inner) == {"vm": image_id}
        await check_usable(inner)


async def test_an_image_that_may_be_listed_keeps_its_header(pools: Pools) -> None:
    """Neither the entry in the directory is answered, nor the question whether it is there."""
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        ioctx.loses = lambda name, op: name == "rbd_directory"
        with pytest.raises(TimedOut):
            await directory.create(ioctx, "vm", MIB)
        await check_usable(inner)


async def test_a_name_that_cannot_be_taken_leaves_nothing(pools: Pools) -> None:
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        for method in ("set_id", "dir_add_image"):
            is_it = calls_method(method)
            ioctx.rule = lambda name, op, is_it=is_it: NoSpace("full") if is_it(name, op) else None
            with pytest.raises(NoSpace):
                await directory.create(ioctx, "vm", MIB)
            assert [name async for name in inner.list_objects()] == []


async def test_two_removals_of_an_object_and_a_write_to_it_all_end(pools: Pools) -> None:
    async with faulty_image(pools) as (ioctx, image):
        await image.write(0, b"x")
        outcomes: list[object] = []
        ioctx.holds = lambda name, _op: name.startswith("rbd_data.")
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(image.write_zeroes, 0, 4 * MIB)
                await until(lambda: ioctx.held)
                image.submit_write(0, b"w", outcomes.append)  # waits for the removal
                nursery.start_soon(image.write_zeroes, 0, 4 * MIB)
                await trio.sleep(0.05)
                ioctx.release()
            await until(lambda: outcomes)
        assert outcomes == [None]
