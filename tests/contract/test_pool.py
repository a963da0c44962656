"""What concerns more than one object: listing, namespaces, usage, sharing, calls of class methods, several clients."""

import calls
import pytest
import trio

from rbdfs.errors import Blocklisted, Exists, NotFound, NotSupported, PermissionDenied
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Call, CloneRange, Create, ReadOp, SnapContext, Write, WriteOp


async def names(ioctx: IoCtx) -> list[str]:
    return sorted([name async for name in ioctx.list_objects()])


async def test_listing_has_each_object_once(ioctx: IoCtx) -> None:
    made = [f"object.{number:04}" for number in range(60)]
    for name in made[:30]:
        await ioctx.operate(name, WriteOp([Create()]))
    await ioctx.flush()
    for name in made[30:]:
        await ioctx.operate(name, WriteOp([Create()]))
    await calls.remove(ioctx, made[3])
    await calls.remove(ioctx, made[33])
    assert await names(ioctx) == [name for name in made if name not in (made[3], made[33])]


async def test_a_listing_may_be_of_names_that_begin_alike(ioctx: IoCtx) -> None:
    made = ["a.1", "a.2", "a/", "a", "b.1"]
    for name in made[:3]:
        await ioctx.operate(name, WriteOp([Create()]))
    await ioctx.flush()
    for name in made[3:]:
        await ioctx.operate(name, WriteOp([Create()]))
    assert sorted([name async for name in ioctx.list_objects("a.")]) == ["a.1", "a.2"]
    assert sorted([name async for name in ioctx.list_objects("a")]) == ["a", "a.1", "a.2", "a/"]
    assert [name async for name in ioctx.list_objects("c")] == []


async def test_namespaces_are_apart(ioctx: IoCtx) -> None:
    inner = ioctx.with_namespace(ioctx.namespace + "inner")
    await calls.write(ioctx, "o", 0, b"outer")
    await calls.write(inner, "o", 0, b"inner")
    await calls.write(inner, "p", 0, b"inner")
    assert bytes(await calls.read(ioctx, "o", 0, 0)) == b"outer"
    assert bytes(await calls.read(inner, "o", 0, 0)) == b"inner"
    assert (await names(ioctx), await names(inner)) == (["o"], ["o", "p"])


async def test_another_client_sees_what_is_written(ioctx: IoCtx, peer: IoCtx) -> None:
    await calls.write(ioctx, "o", 0, b"a" * 100_000)
    assert bytes(await calls.read(peer, "o", 0, 0)) == b"a" * 100_000
    await calls.write(peer, "o", 1, b"b")
    assert bytes(await calls.read(ioctx, "o", 0, 3)) == b"aba"


async def test_flush_returns(ioctx: IoCtx) -> None:
    await ioctx.flush()
    await calls.write(ioctx, "o", 0, b"x")
    await ioctx.flush()
    await ioctx.flush()
    assert bytes(await calls.read(ioctx, "o", 0, 0)) == b"x"


async def test_pools_are_listed_and_opened(ioctx: IoCtx) -> None:
    cluster = ioctx.cluster
    assert (await cluster.list_pools())[ioctx.pool_id] == ioctx.pool_name
    assert (await cluster.open_pool(ioctx.pool_id)).pool_name == ioctx.pool_name
    with pytest.raises(NotFound):
        await cluster.open_pool("no such pool")


async def test_usage_counts(ioctx: IoCtx) -> None:
    for number in range(3):
        await calls.write(ioctx, f"o.{number}", 0, b"x" * 65_536)
    with trio.fail_after(60):
        usage = await ioctx.usage()
        while not usage.available:  # a cluster that has just started does not know yet
            await trio.sleep(0.2)
            usage = await ioctx.usage()
    allocated = await ioctx.allocated_bytes("o.")
    if allocated is not None:
        assert allocated == 3 * 65_536
        assert usage.used >= allocated
        assert usage.objects == 3


async def test_allocated_bytes_of_a_prefix(ioctx: IoCtx) -> None:
    if await ioctx.allocated_bytes("") is None:
        pytest.skip("this store does not count")
    await calls.write(ioctx, "rbd_data.1.0", 0, b"x" * 65_536)
    await calls.write(ioctx, "rbd_data.1.1", 1 << 20, b"x" * 65_536)
    await calls.write(ioctx, "rbd_data.12.0", 0, b"x" * 131_072)
    snap = await ioctx.create_snap_id()
    await calls.write(ioctx, "rbd_data.12.0", 0, b"y", SnapContext(snap, (snap,)))
    prefixes = ["rbd_data.1.", "rbd_data.1", "rbd_data.", "rbd_data.1.1", ""]
    assert [await ioctx.allocated_bytes(prefix) for prefix in prefixes] == [
        131_072,
        262_144,
        262_144,
        65_536,
        262_144,
    ]
    await calls.remove(ioctx, "rbd_data.1.0")
    assert await ioctx.allocated_bytes("rbd_data.1.") == 65_536


@pytest.mark.parametrize(
    ("offset", "source_offset", "length"),
    [(0, 0, 300_000), (65_536, 131_072, 65_536), (10, 20, 100_000), (0, 200_000, 300_000), (65_536, 0, 70_000)],
)
async def test_clone_range_is_a_copy(ioctx: IoCtx, offset: int, source_offset: int, length: int) -> None:
    if not ioctx.cluster.properties.clone_range:
        pytest.skip("this store does not share between objects")
    source, target = bytes(range(250)) * 1200, b"t" * 200_000
    await calls.write(ioctx, "source", 0, source)
    await calls.write(ioctx, "target", 0, target)
    await ioctx.operate("target", WriteOp([CloneRange(offset, "source", source_offset, length)]))
    taken = source[source_offset : source_offset + length].ljust(length, b"\0")
    expected = target[:offset].ljust(offset, b"\0") + taken + target[offset + length :]
    assert bytes(await calls.read(ioctx, "target", 0, 0)) == expected
    await calls.write(ioctx, "source", 0, b"#" * 300_000)
    assert bytes(await calls.read(ioctx, "target", 0, 0)) == expected
    await calls.write(ioctx, "target", 0, b"%" * 300_000)
    assert bytes(await calls.read(ioctx, "source", 0, 0)) == b"#" * 300_000


async def test_class_methods_run_in_ops(ioctx: IoCtx) -> None:
    with pytest.raises((NotSupported, PermissionDenied)):  # an OSD may take it for a class that it must not load
        await calls.execute(ioctx, "o", "no_class", "method")
    with pytest.raises(NotSupported):
        await calls.execute(ioctx, "o", "rbd", "no_method")
    name = b"\x04\x00\x00\x00test"
    await ioctx.operate("rbd_id.test", WriteOp([Create(exclusive=True), Call("rbd", "set_id", name)]))
    assert await calls.execute(ioctx, "rbd_id.test", "rbd", "get_id") == name
    with pytest.raises(Exists):
        await ioctx.operate("rbd_id.test", WriteOp([Write(0, b"x"), Create(exclusive=True)]))
    assert (await ioctx.operate("rbd_id.test", ReadOp([Call("rbd", "get_id")]))).outputs == [name]


async def test_blocklisted_client_changes_nothing_any_more(ioctx: IoCtx, peer: IoCtx) -> None:
    await calls.write(peer, "o", 0, b"before")
    await ioctx.cluster.blocklist(peer.cluster.address)
    with pytest.raises(Blocklisted):
        await calls.write(peer, "o", 0, b"after!")
    assert bytes(await calls.read(ioctx, "o", 0, 0)) == b"before"
