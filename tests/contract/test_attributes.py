"""Extended attributes and omap."""

import calls
import pytest

from rbdfs.errors import Canceled, NoData, NotFound
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import (
    CompareXattr,
    Comparison,
    Create,
    GetXattr,
    GetXattrs,
    OmapClear,
    OmapGetByKeys,
    OmapGetHeader,
    OmapGetKeys,
    OmapGetValues,
    OmapRemoveKeys,
    OmapSet,
    OmapSetHeader,
    ReadOp,
    RemoveXattr,
    SetXattr,
    WriteOp,
)


async def test_xattrs(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([SetXattr("a", b"1"), SetXattr("b", b"2")]))
    await ioctx.operate("o", WriteOp([SetXattr("a", b"one"), RemoveXattr("b")]))
    reply = await ioctx.operate("o", ReadOp([GetXattr("a"), GetXattrs()]))
    assert reply.outputs == [b"one", {"a": b"one"}]
    with pytest.raises(NoData):
        await calls.get_xattr(ioctx, "o", "b")


async def test_attributes_of_a_missing_object(ioctx: IoCtx) -> None:
    for step in (GetXattr("a"), GetXattrs(), OmapGetKeys("", 10), OmapGetHeader(), OmapGetByKeys(["a"])):
        with pytest.raises(NotFound):
            await ioctx.operate("missing", ReadOp([step]))


@pytest.mark.parametrize(
    ("comparison", "value", "holds"),
    [
        (Comparison.EQ, b"m", True),
        (Comparison.EQ, b"n", False),
        (Comparison.NE, b"n", True),
        (Comparison.GT, b"n", True),
        (Comparison.GT, b"m", False),
        (Comparison.GTE, b"m", True),
        (Comparison.LT, b"a", True),
        (Comparison.LTE, b"n", False),
    ],
)
async def test_compare_xattr(ioctx: IoCtx, comparison: Comparison, value: bytes, holds: bool) -> None:
    await ioctx.operate("o", WriteOp([SetXattr("a", b"m")]))
    op = WriteOp([CompareXattr("a", comparison, value), SetXattr("seen", b"")])
    if holds:
        await ioctx.operate("o", op)
    else:
        with pytest.raises(Canceled):
            await ioctx.operate("o", op)
    assert ("seen" in (await ioctx.operate("o", ReadOp([GetXattrs()]))).outputs[0]) == holds


async def test_missing_xattr_compares_as_empty(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([Create()]))
    await ioctx.operate("o", WriteOp([CompareXattr("a", Comparison.EQ, b""), SetXattr("a", b"1")]))
    assert await calls.get_xattr(ioctx, "o", "a") == b"1"


async def test_omap_pairs_come_in_byte_order(ioctx: IoCtx) -> None:
    pairs = {"b": b"2", "a": b"1", "é": b"4", "c": b"\x00\xff"}
    await calls.omap_set(ioctx, "o", pairs)
    values, more = (await ioctx.operate("o", ReadOp([OmapGetValues("", 100)]))).outputs[0]
    assert list(values.items()) == [("a", b"1"), ("b", b"2"), ("c", b"\x00\xff"), ("é", b"4")]
    assert not more


async def test_omap_pages_and_prefixes(ioctx: IoCtx) -> None:
    await calls.omap_set(ioctx, "o", {f"{letter}{number:03}": b"" for letter in "xyz" for number in range(30)})
    keys, more = (await ioctx.operate("o", ReadOp([OmapGetKeys("x010", 5)]))).outputs[0]
    assert (keys, more) == ([f"x{number:03}" for number in range(11, 16)], True)
    found = [key async for key, _ in calls.omap_items(ioctx, "o", prefix="y", page=7)]
    assert found == [f"y{number:03}" for number in range(30)]
    values, more = (await ioctx.operate("o", ReadOp([OmapGetValues("", 100, "nothing")]))).outputs[0]
    assert (values, more) == ({}, False)


async def test_omap_changes_in_one_op(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([OmapSet({"a": b"1", "b": b"2"}), OmapSetHeader(b"header")]))
    await ioctx.operate("o", WriteOp([OmapRemoveKeys(["a", "not there"]), OmapSet({"c": b"3"})]))
    reply = await ioctx.operate("o", ReadOp([OmapGetByKeys(["a", "b", "c"]), OmapGetHeader()]))
    assert reply.outputs == [{"b": b"2", "c": b"3"}, b"header"]
    await ioctx.operate("o", WriteOp([OmapClear(), OmapSet({"d": b"4"})]))
    reply = await ioctx.operate("o", ReadOp([OmapGetValues("", 10), OmapGetHeader()]))
    assert reply.outputs == [({"d": b"4"}, False), b""]


async def test_omap_survives_a_removal_only_as_nothing(ioctx: IoCtx) -> None:
    await calls.omap_set(ioctx, "o", {"a": b"1"})
    await calls.remove(ioctx, "o")
    await ioctx.operate("o", WriteOp([Create()]))
    assert await calls.omap_get(ioctx, "o", ["a"]) == {}
    await ioctx.flush()
    assert await calls.omap_get(ioctx, "o", ["a"]) == {}


async def test_removing_from_a_missing_object(ioctx: IoCtx) -> None:
    for step in (RemoveXattr("a"), OmapRemoveKeys(["a"]), OmapClear()):
        with pytest.raises(NotFound):
            await ioctx.operate("missing", WriteOp([step]))


async def test_failed_op_leaves_attributes_alone(ioctx: IoCtx) -> None:
    await ioctx.operate("o", WriteOp([SetXattr("a", b"1"), OmapSet({"k": b"1"})]))
    with pytest.raises(Canceled):
        await ioctx.operate(
            "o",
            WriteOp([SetXattr("a", b"2"), OmapSet({"k": b"2"}), CompareXattr("a", Comparison.EQ, b"3")]),
        )
    reply = await ioctx.operate("o", ReadOp([GetXattr("a"), OmapGetByKeys(["k"])]))
    assert reply.outputs == [b"1", {"k": b"1"}]
