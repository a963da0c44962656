"""Self-managed snapshots: snap contexts on writes, snap ids on reads, removal and trimming."""

from typing import cast

import calls
import pytest
import trio

from rbdfs.errors import NotFound
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import (
    HEAD,
    Create,
    OmapSet,
    Read,
    ReadOp,
    Remove,
    Rollback,
    SetXattr,
    SnapContext,
    SnapId,
    Stat,
    Truncate,
    Write,
    WriteOp,
    Zero,
)


def context(*snaps: SnapId) -> SnapContext:
    """The context in which these snapshots exist."""
    return SnapContext(max(snaps), tuple(sorted(snaps, reverse=True)))


async def content(ioctx: IoCtx, name: str, snap_id: SnapId = HEAD) -> bytes:
    return bytes(await calls.read(ioctx, name, 0, 0, snap_id))


async def until_states(ioctx: IoCtx, name: str, count: int) -> None:
    """Wait until trimming has left so many states of an object."""
    with trio.fail_after(200):  # a cluster that other tests used has others to trim first
        states = None
        while states != count:
            await trio.sleep(0.05)
            try:
                states = len(await calls.list_snaps(ioctx, name))
            except NotFound:
                states = 0


async def test_snapshot_keeps_what_is_overwritten(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"one")
    first = await ioctx.create_snap_id()
    await calls.write(ioctx, "o", 0, b"two", context(first))
    second = await ioctx.create_snap_id()
    assert second > first
    await calls.write(ioctx, "o", 0, b"three", context(first, second))
    assert [await content(ioctx, "o", snap) for snap in (first, second, HEAD)] == [b"one", b"two", b"three"]


async def test_small_write_after_a_snapshot_in_a_large_object(ioctx: IoCtx) -> None:
    before = bytes(range(256)) * 4096
    await calls.write(ioctx, "o", 0, before)
    snap = await ioctx.create_snap_id()
    for offset in (5, 65_530, 300_000, 1_048_570):
        await calls.write(ioctx, "o", offset, b"changed", context(snap))
    assert await content(ioctx, "o", snap) == before
    now = bytearray(before)
    for offset in (5, 65_530, 300_000, 1_048_570):
        now[offset : offset + 7] = b"changed"
    assert await content(ioctx, "o") == now


async def test_snapshot_that_nothing_was_written_after_reads_the_head(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"one")
    snap = await ioctx.create_snap_id()
    assert await content(ioctx, "o", snap) == b"one"


async def test_object_made_after_a_snapshot_is_not_in_it(ioctx: IoCtx) -> None:
    snap = await ioctx.create_snap_id()
    await calls.write(ioctx, "o", 0, b"new", context(snap))
    with pytest.raises(NotFound):
        await content(ioctx, "o", snap)


async def test_object_removed_after_a_snapshot_is_still_in_it(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"one")
    snap = await ioctx.create_snap_id()
    await calls.remove(ioctx, "o", context(snap))
    with pytest.raises(NotFound):
        await content(ioctx, "o")
    assert await content(ioctx, "o", snap) == b"one"
    assert "o" not in [name async for name in ioctx.list_objects()]
    await calls.write(ioctx, "o", 0, b"again", context(snap))
    assert (await content(ioctx, "o"), await content(ioctx, "o", snap)) == (b"again", b"one")


async def test_objects_that_only_snapshots_see_are_listed_where_asked_for(ioctx: IoCtx) -> None:
    async def names() -> list[str]:
        return sorted([name async for name in ioctx.list_objects("o.", of_snapshots=True)])

    for name in ("o.before", "o.still", "p"):
        await calls.write(ioctx, name, 0, b"x")
    snap = await ioctx.create_snap_id()
    await calls.write(ioctx, "o.never", 0, b"x", context(snap))
    for name in ("o.before", "p", "o.never"):
        await calls.remove(ioctx, name, context(snap))
    assert await names() == ["o.before", "o.still"]
    await ioctx.flush()
    assert await names() == ["o.before", "o.still"]
    assert [name async for name in ioctx.list_objects("o.")] == ["o.still"]


async def test_zero_and_truncate_keep_the_snapshot(ioctx: IoCtx) -> None:
    before = b"x" * 200_000
    await calls.write(ioctx, "o", 0, before)
    first = await ioctx.create_snap_id()
    await ioctx.operate("o", WriteOp([Zero(10, 100_000)], context(first)))
    second = await ioctx.create_snap_id()
    await ioctx.operate("o", WriteOp([Truncate(5)], context(first, second)))
    assert await content(ioctx, "o", first) == before
    assert await content(ioctx, "o", second) == before[:10] + bytes(100_000) + before[100_010:]
    assert await content(ioctx, "o") == before[:5]


async def test_attributes_belong_to_the_snapshot_too(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Write(0, b"x"), SetXattr("a", b"old"), OmapSet({"k": b"old"})]))
    snap = await ioctx.create_snap_id()
    await ioctx.operate("o", WriteOp([SetXattr("a", b"new"), OmapSet({"k": b"new"})], context(snap)))
    assert await calls.get_xattr(ioctx, "o", "a") == b"new"
    assert (await calls.omap_get(ioctx, "o", ["k"])) == {"k": b"new"}


async def test_guard_that_fails_makes_no_clone(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"one")
    snap = await ioctx.create_snap_id()
    with pytest.raises(Exception, match="exists"):
        await ioctx.operate("o", WriteOp([Write(0, b"two"), Create(exclusive=True)], context(snap)))
    assert len(await calls.list_snaps(ioctx, "o")) == 1


async def test_list_snaps_tells_clones_sizes_and_overlap(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"x" * 262_144)
    first = await ioctx.create_snap_id()
    second = await ioctx.create_snap_id()
    await calls.write(ioctx, "o", 65_536, b"y" * 65_536, context(first, second))
    clone, head = await calls.list_snaps(ioctx, "o")
    assert (clone.clone_id, clone.snaps, clone.size) == (second, (first, second), 262_144)
    assert clone.overlap == ((0, 65_536), (131_072, 131_072))
    assert (head.clone_id, head.size) == (HEAD, 262_144)
    with pytest.raises(NotFound):
        await calls.list_snaps(ioctx, "missing")


async def test_rollback_brings_a_snapshot_back(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"one" * 50_000)
    snap = await ioctx.create_snap_id()
    await calls.write(ioctx, "o", 70_000, b"changed", context(snap))
    await ioctx.operate("o", WriteOp([Rollback(snap)], context(snap)))
    assert await content(ioctx, "o") == b"one" * 50_000
    await calls.write(ioctx, "o", 0, b"two", context(snap))
    assert await content(ioctx, "o", snap) == b"one" * 50_000


async def test_rollback_to_before_the_object_removes_it(ioctx: IoCtx) -> None:
    snap = await ioctx.create_snap_id()
    await calls.write(ioctx, "o", 0, b"one", context(snap))
    await ioctx.operate("o", WriteOp([Rollback(snap)], context(snap)))
    with pytest.raises(NotFound):
        await calls.stat(ioctx, "o")


async def test_rollback_of_a_removed_object(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"one")
    snap = await ioctx.create_snap_id()
    await ioctx.operate("o", WriteOp([Remove()], context(snap)))
    await ioctx.operate("o", WriteOp([Rollback(snap)], context(snap)))
    assert await content(ioctx, "o") == b"one"


async def test_removed_snap_id_is_trimmed_and_others_stay(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"one")
    first = await ioctx.create_snap_id()
    await calls.write(ioctx, "o", 0, b"two", context(first))
    second = await ioctx.create_snap_id()
    await calls.write(ioctx, "o", 0, b"three", context(first, second))
    await ioctx.remove_snap_id(first)
    await until_states(ioctx, "o", 2)
    assert await content(ioctx, "o", second) == b"two"
    assert await content(ioctx, "o") == b"three"


async def test_trimming_the_last_snapshot_ends_a_removed_object(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"one")
    snap = await ioctx.create_snap_id()
    await calls.remove(ioctx, "o", context(snap))
    await ioctx.remove_snap_id(snap)
    await until_states(ioctx, "o", 0)


async def test_write_with_an_older_context_goes_on_in_the_newer_one(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"one")
    first = await ioctx.create_snap_id()
    second = await ioctx.create_snap_id()
    await calls.write(ioctx, "o", 0, b"two", context(first, second))
    await calls.write(ioctx, "o", 0, b"six", context(first))
    assert await content(ioctx, "o", second) == b"one"
    assert await content(ioctx, "o") == b"six"


async def test_each_state_has_its_own_size_and_version(ioctx: IoCtx) -> None:
    version = (await ioctx.operate("o", WriteOp([Write(0, b"one")]))).version
    snap = await ioctx.create_snap_id()
    await calls.write(ioctx, "o", 0, b"longer", context(snap))
    reply = await ioctx.operate("o", ReadOp([Stat(), Read(0, 0)], snap))
    assert cast(tuple[int, int], reply.outputs[0])[0] == 3
    assert bytes(reply.outputs[1]) == b"one"
    assert reply.version == version
