"""Bytes of an object: written, read, zeroed, cut, compared."""

import calls
import pytest

from rbdfs.errors import Canceled, Exists, ExtentMismatch, InvalidArgument, NotFound, TooLarge, VersionMismatch
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import (
    AllocHint,
    Append,
    AssertExists,
    AssertVersion,
    CompareExtent,
    Create,
    MapExtents,
    Read,
    ReadOp,
    Remove,
    SetAllocHint,
    SparseRead,
    Stat,
    Truncate,
    Write,
    WriteFull,
    WriteOp,
    WriteSame,
    Zero,
)

KIB = 1024


async def content(ioctx: IoCtx, name: str) -> bytes:
    return bytes(await calls.read(ioctx, name, 0, 0))


async def test_written_bytes_are_read_and_the_gap_is_zero(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 100_000, b"hello")
    assert await content(ioctx, "o") == bytes(100_000) + b"hello"
    assert (await calls.stat(ioctx, "o")).size == 100_005


async def test_read_ends_where_the_object_ends(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"0123456789")
    assert bytes(await calls.read(ioctx, "o", 8, 100)) == b"89"
    assert bytes(await calls.read(ioctx, "o", 10, 100)) == b""
    assert bytes(await calls.read(ioctx, "o", 1000, 100)) == b""


async def test_overwriting_changes_only_its_extent(ioctx: IoCtx) -> None:
    before = bytes(range(256)) * KIB
    await calls.write(ioctx, "o", 0, before)
    await calls.write(ioctx, "o", 65_530, b"x" * 70_000)
    assert await content(ioctx, "o") == before[:65_530] + b"x" * 70_000 + before[135_530:]


async def test_any_buffer_can_be_written(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, bytearray(b"ab"))
    await calls.write(ioctx, "o", 2, memoryview(b"xcdx")[1:3])
    assert await content(ioctx, "o") == b"abcd"


async def test_four_mebibytes_travel_whole(ioctx: IoCtx) -> None:
    data = bytes(range(251)) * (4 * KIB * KIB // 251)
    await calls.write(ioctx, "o", 0, data)
    assert await content(ioctx, "o") == data


async def test_reading_a_missing_object(ioctx: IoCtx) -> None:
    for step in (Read(0, 10), SparseRead(0, 10), Stat(), AssertExists()):
        with pytest.raises(NotFound):
            await ioctx.operate("missing", ReadOp([step]))


async def test_write_full_replaces_what_was_longer(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"x" * 200_000)
    await ioctx.operate("o", WriteOp([WriteFull(b"short")]))
    assert await content(ioctx, "o") == b"short"
    await ioctx.operate("o", WriteOp([Truncate(10)]))
    assert await content(ioctx, "o") == b"short" + bytes(5)


async def test_append_writes_at_the_end(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Append(b"one")]))
    await ioctx.operate("o", WriteOp([Append(b"two")]))
    assert await content(ioctx, "o") == b"onetwo"


async def test_write_same_repeats(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([WriteSame(3, 6, b"ab")]))
    assert await content(ioctx, "o") == b"\0\0\0ababab"
    with pytest.raises(InvalidArgument):
        await ioctx.operate("o", WriteOp([WriteSame(0, 5, b"ab")]))


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 65_536), (10, 20), (65_530, 70_000), (100_000, 100_000), (0, 200_000), (199_999, 1)]
)
async def test_zeroed_extent_reads_as_zeroes_or_is_cut_off_at_the_end(ioctx: IoCtx, offset: int, length: int) -> None:
    await calls.write(ioctx, "o", 0, b"x" * 200_000)
    await ioctx.operate("o", WriteOp([Zero(offset, length)]))
    stop = min(offset + length, 200_000)
    left = await content(ioctx, "o")
    assert left.ljust(200_000, b"\0") == b"x" * offset + bytes(stop - offset) + b"x" * (200_000 - stop)
    assert len(left) == 200_000 or (len(left), stop) == (offset, 200_000)


async def test_zero_neither_grows_nor_makes_an_object(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Create(), Zero(0, 1000)]))
    assert (await calls.stat(ioctx, "o")).size == 0
    await ioctx.operate("missing", WriteOp([Zero(0, 1000)]))
    with pytest.raises(NotFound):
        await calls.stat(ioctx, "missing")


async def test_truncated_bytes_do_not_come_back(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"x" * 150_000)
    await ioctx.operate("o", WriteOp([Truncate(70_000)]))
    await ioctx.operate("o", WriteOp([Truncate(150_000)]))
    assert await content(ioctx, "o") == b"x" * 70_000 + bytes(80_000)


async def test_written_behind_a_truncation_leaves_zeroes_between(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"x" * 1000)
    await ioctx.operate("o", WriteOp([Truncate(10)]))
    await calls.write(ioctx, "o", 20, b"y")
    assert await content(ioctx, "o") == b"x" * 10 + bytes(10) + b"y"


async def test_removed_object_is_gone_and_comes_back_empty(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"x" * 100_000)
    await calls.remove(ioctx, "o")
    with pytest.raises(NotFound):
        await calls.stat(ioctx, "o")
    with pytest.raises(NotFound):
        await calls.remove(ioctx, "o")
    await ioctx.operate("o", WriteOp([Create(), Truncate(5)]))
    assert await content(ioctx, "o") == bytes(5)


async def test_create_exclusive(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Create(exclusive=True)]))
    with pytest.raises(Exists):
        await ioctx.operate("o", WriteOp([Create(exclusive=True)]))
    await ioctx.operate("o", WriteOp([Create()]))


async def test_alloc_hint_never_fails(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([SetAllocHint(4 << 20, 4096), Write(0, b"x")]))
    flags = AllocHint.SEQUENTIAL_WRITE | AllocHint.APPEND_ONLY | AllocHint.INCOMPRESSIBLE
    await ioctx.operate("o", WriteOp([SetAllocHint(4 << 20, 4096, flags), Write(1, b"y")]))
    assert await content(ioctx, "o") == b"xy"


async def test_object_larger_than_the_store_allows(ioctx: IoCtx) -> None:
    with pytest.raises(TooLarge):
        await calls.write(ioctx, "o", ioctx.cluster.properties.max_object_size, b"x")


async def test_sparse_read_gives_what_is_allocated(ioctx: IoCtx) -> None:
    data = b"x" * 65_536
    await calls.write(ioctx, "o", 0, data)
    await calls.write(ioctx, "o", 1 << 20, data)
    sparse = (await ioctx.operate("o", ReadOp([SparseRead(0, 2 << 20)]))).outputs[0]
    rebuilt, position = bytearray((1 << 20) + 65_536), 0
    for offset, length in sparse.extents:
        rebuilt[offset : offset + length] = sparse.data[position : position + length]
        position += length
    assert rebuilt == data + bytes((1 << 20) - 65_536) + data
    assert position == len(sparse.data)


async def test_extents_cover_the_data_and_leave_out_large_holes(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"x" * 65_536)
    await calls.write(ioctx, "o", 1 << 20, b"x" * 65_536)
    extents = (await ioctx.operate("o", ReadOp([MapExtents(0, 2 << 20)]))).outputs[0]
    assert extents == [(0, 65_536), (1 << 20, 65_536)]


async def test_compare_extent_guards_a_write(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"abcdef")
    await ioctx.operate("o", WriteOp([CompareExtent(2, b"cd"), Write(2, b"CD")]))
    with pytest.raises(ExtentMismatch) as caught:
        await ioctx.operate("o", WriteOp([CompareExtent(0, b"abXd"), Write(0, b"zz")]))
    assert caught.value.offset == 2
    assert isinstance(caught.value, Canceled)
    assert await content(ioctx, "o") == b"abCDef"


async def test_compare_extent_guards_a_removal(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"abcdef")
    with pytest.raises(ExtentMismatch):
        await ioctx.operate("o", WriteOp([CompareExtent(0, b"xyz"), Remove()]))
    assert await content(ioctx, "o") == b"abcdef"
    await ioctx.operate("o", WriteOp([CompareExtent(0, b"abcdef"), Remove()]))
    with pytest.raises(Canceled):
        await ioctx.operate("o", WriteOp([CompareExtent(0, b"abcdef"), Remove()]))


async def test_compare_extent_behind_the_end_compares_zeroes(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"ab")
    await ioctx.operate("o", WriteOp([CompareExtent(0, b"ab\0\0"), Write(0, b"c")]))
    assert await content(ioctx, "o") == b"cb"


async def test_version_guard(ioctx: IoCtx) -> None:
    version = (await ioctx.operate("o", WriteOp([Write(0, b"a")]))).version
    assert (await ioctx.operate("o", ReadOp([Stat()]))).version == version
    newer = (await ioctx.operate("o", WriteOp([AssertVersion(version), Write(0, b"b")]))).version
    assert newer > version
    with pytest.raises(VersionMismatch):
        await ioctx.operate("o", WriteOp([AssertVersion(version), Write(0, b"c")]))
    assert await content(ioctx, "o") == b"b"


async def test_mtime_moves_with_writes(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"a")
    first = (await calls.stat(ioctx, "o")).mtime
    await calls.write(ioctx, "o", 0, b"b")
    assert (await calls.stat(ioctx, "o")).mtime > first > 10**18


async def test_failed_op_changes_nothing(ioctx: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"before")
    with pytest.raises(Exists):
        await ioctx.operate("o", WriteOp([Write(0, b"AFTER!" * 20_000), Zero(0, 2), Create(exclusive=True)]))
    assert await content(ioctx, "o") == b"before"


async def test_failed_op_creates_nothing(ioctx: IoCtx) -> None:
    with pytest.raises(InvalidArgument):
        await ioctx.operate("o", WriteOp([Write(0, b"x"), WriteSame(0, 5, b"ab")]))
    with pytest.raises(NotFound):
        await calls.stat(ioctx, "o")


async def test_steps_of_one_op_apply_in_order(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Write(0, b"aaaa"), Write(1, b"bb"), Truncate(3), Append(b"c")]))
    assert await content(ioctx, "o") == b"abbc"
    await ioctx.operate("o", WriteOp([Remove(), Write(2, b"z")]))
    assert await content(ioctx, "o") == b"\0\0z"


async def test_ops_on_one_object_apply_in_the_order_of_submission(ioctx: IoCtx) -> None:
    replies: list[object] = []
    for number in range(50):
        ioctx.submit("o", WriteOp([Write(0, b"%03d" % number)]), replies.append)
    assert await content(ioctx, "o") == b"049"
    assert len(replies) == 50
