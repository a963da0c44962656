"""The client on real clusters: what only a real one can show. The contract itself is tested in tests/contract."""

import signal
from unittest import mock

import calls
import pytest
import trio
from ceph_cluster import CephCluster as Daemons, start_cluster
from ceph_roots import Unavailable
from cluster.client import Load, connect_to

from rbdfs.ceph.backoff import Backoffs
from rbdfs.ceph.ioctx import CephIoCtx
from rbdfs.ceph.pool import PoolFlag
from rbdfs.errors import (
    AuthenticationFailed,
    Blocklisted,
    NotFound,
    NotSupported,
    PermissionDenied,
    RbdfsError,
    TimedOut,
    TooLarge,
)
from rbdfs.rados.api import NotifyEvent, Outcome, WatchEvent, WatchLost
from rbdfs.rados.ops import (
    Append,
    Create,
    ListWatchers,
    MapExtents,
    OmapSet,
    Read,
    ReadOp,
    Remove,
    Reply,
    SnapContext,
    SparseRead,
    Truncate,
    Write,
    WriteFull,
    WriteOp,
    Zero,
)

pytestmark = pytest.mark.cluster


async def test_what_we_write_rados_reads_and_the_other_way_round(ceph_cluster: Daemons, tmp_path: object) -> None:
    path = ceph_cluster.directory / "object"
    async with connect_to(ceph_cluster) as client:
        ioctx = await client.open_pool("data", "exchange")
        await ioctx.operate("ours", WriteOp([WriteFull(b"from us"), OmapSet({"key": b"value"})]))
        ceph_cluster.rados("-p", "data", "-N", "exchange", "get", "ours", str(path))
        assert path.read_bytes() == b"from us"
        assert "value" in ceph_cluster.rados("-p", "data", "-N", "exchange", "getomapval", "ours", "key")
        path.write_bytes(b"from rados" * 1000)
        ceph_cluster.rados("-p", "data", "-N", "exchange", "put", "theirs", str(path))
        assert bytes(await calls.read(ioctx, "theirs", 0, 0)) == path.read_bytes()
        assert sorted([name async for name in ioctx.list_objects()]) == ["ours", "theirs"]


async def test_the_cluster_knows_us_by_the_address_and_number_that_we_tell(ceph_cluster: Daemons) -> None:
    async with connect_to(ceph_cluster) as client:
        ioctx = await client.open_pool("data")
        await calls.write(ioctx, "watched", 0, b"x")
        watch = await ioctx.watch("watched", lambda _: None)
        listed = ceph_cluster.rados("-p", "data", "listwatchers", "watched")
        assert listed.strip() == f"watcher={client.address} client.{client.instance_id} cookie={watch.cookie}"
        [watcher] = (await ioctx.operate("watched", ReadOp([ListWatchers()]))).outputs[0]
        assert (watcher.entity, watcher.address) == (f"client.{client.instance_id}", client.address)
        await watch.close()
        assert not ceph_cluster.rados("-p", "data", "listwatchers", "watched")
        assert client.fsid == ceph_cluster.fsid


async def test_pools_are_made_found_and_removed(ceph_cluster: Daemons) -> None:
    async with connect_to(ceph_cluster) as client:
        pool_id = await client.create_pool("passing")
        assert (await client.list_pools())[pool_id] == "passing"
        assert "rbd" in ceph_cluster.json("osd", "pool", "application", "get", "passing")
        ioctx = await client.open_pool(pool_id)
        await calls.write(ioctx, "a", 0, b"x")
        await client.remove_pool("passing")
        for _ in range(2):
            with pytest.raises(NotFound):
                await calls.write(ioctx, "a", 0, b"x")
        with pytest.raises(NotFound):
            await client.open_pool("passing")


async def test_a_pool_that_another_client_has_just_made_is_found(ceph_cluster: Daemons) -> None:
    async with connect_to(ceph_cluster) as client:
        with pytest.raises(NotFound):
            await client.open_pool("fresh")
        ceph_cluster.ceph("osd", "pool", "create", "fresh", "1", "1")
        assert (await client.open_pool("fresh")).pool_name == "fresh"
        await client.remove_pool("fresh")


async def test_sizes_beyond_what_an_osd_takes_are_refused(ceph_cluster: Daemons) -> None:
    async with connect_to(ceph_cluster) as client:
        ioctx = await client.open_pool("data")
        data = bytes(32 << 20)
        await calls.write(ioctx, "large", 0, data)
        assert await calls.read(ioctx, "large", 0, 32 << 20) == data
        for offset, size in ((0, 91 << 20), (128 << 20, 4096)):
            with pytest.raises(TooLarge):
                await calls.write(ioctx, "large", offset, bytes(size))
        await calls.remove(ioctx, "large")


async def test_a_listing_is_complete_and_leaves_out_what_only_snapshots_hold(ceph_cluster: Daemons) -> None:
    async with connect_to(ceph_cluster) as client:
        await client.create_pool("listed")
        ioctx = await client.open_pool("listed", "space")
        left: list[Outcome] = []
        names = {f"object.{n}" for n in range(2500)}
        for name in names:
            ioctx.submit(name, WriteOp([Create()]), left.append)
        await ioctx.flush()
        assert all(isinstance(outcome, Reply) for outcome in left)
        assert len(left) == 2500
        assert {name async for name in ioctx.list_objects()} == names
        assert not [name async for name in ioctx.with_namespace("").list_objects()]
        snap_id = await ioctx.create_snap_id()
        snapc = SnapContext(snap_id, (snap_id,))
        for name in ("object.1", "object.2"):
            await ioctx.operate(name, WriteOp([Remove()], snapc))
        await ioctx.operate("object.3", WriteOp([Append(b"x")], snapc))
        assert {name async for name in ioctx.list_objects()} == names - {"object.1", "object.2"}
        await client.remove_pool("listed")


class TestFenced:
    """A client on the blocklist."""

    async def test_every_op_fails_promptly_and_other_clients_go_on(self, ceph_cluster: Daemons) -> None:
        async with connect_to(ceph_cluster) as victim, connect_to(ceph_cluster) as other:
            theirs, ours = await victim.open_pool("data"), await other.open_pool("data")
            await calls.write(theirs, "fenced", 0, b"before")
            events: list[WatchEvent] = []
            await theirs.watch("fenced", events.append)
            await other.blocklist(victim.address)
            with trio.fail_after(5):
                for _ in range(3):
                    with pytest.raises(Blocklisted):
                        await calls.write(theirs, "fenced", 0, b"after")
                    with pytest.raises(Blocklisted):
                        await calls.read(theirs, "fenced", 0, 1)
                with pytest.raises(Blocklisted):
                    await theirs.watch("fenced", events.append)
                with pytest.raises(Blocklisted):
                    await theirs.notify("fenced", b"")
            assert bytes(await calls.read(ours, "fenced", 0, 0)) == b"before"
            assert [type(event) for event in events] == [WatchLost]

    async def test_one_that_does_nothing_hears_of_it_too(self, ceph_cluster: Daemons) -> None:
        async with connect_to(ceph_cluster) as victim, connect_to(ceph_cluster) as other:
            ioctx = await victim.open_pool("data")
            await calls.write(ioctx, "fenced", 0, b"before")
            lost = trio.Event()
            await ioctx.watch("fenced", lambda _: lost.set())
            await other.blocklist(victim.address)
            with trio.fail_after(10):
                await lost.wait()


class TestCapabilities:
    """What a client may not do is said by name."""

    async def test_a_client_that_may_only_read(self, ceph_cluster: Daemons) -> None:
        keyring = ceph_cluster.add_client("client.reader", "mon", "allow r", "osd", "allow r pool=data")
        async with connect_to(ceph_cluster) as admin:
            await calls.write(await admin.open_pool("data"), "readable", 0, b"text")
        async with connect_to(ceph_cluster, "client.reader", keyring) as client:
            ioctx = await client.open_pool("data")
            assert bytes(await calls.read(ioctx, "readable", 0, 0)) == b"text"
            with pytest.raises(PermissionDenied):
                await calls.write(ioctx, "readable", 0, b"x")
            with pytest.raises(PermissionDenied):
                await ioctx.watch("readable", lambda _: None)
            with pytest.raises(PermissionDenied):
                await ioctx.create_snap_id()
            with pytest.raises((PermissionDenied, RbdfsError)):
                await client.create_pool("other")

    async def test_the_profile_for_images_suffices_for_all_that_images_need(self, ceph_cluster: Daemons) -> None:
        caps = ("mon", "profile rbd", "osd", "profile rbd pool=data")
        keyring = ceph_cluster.add_client("client.images", *caps)
        async with connect_to(ceph_cluster, "client.images", keyring) as client:
            ioctx = await client.open_pool("data")
            await calls.write(ioctx, "rbd_data.1", 0, b"x")
            await ioctx.remove_snap_id(await ioctx.create_snap_id())
            watch = await ioctx.watch("rbd_data.1", lambda _: None)
            assert (await ioctx.notify("rbd_data.1", b"", 1)).timeouts == [(client.instance_id, watch.cookie)]
            await client.blocklist("10.9.8.7:0/1", 1)
            assert (await ioctx.usage()).available > 0
            await watch.close()
            ceph_cluster.ceph("osd", "pool", "create", "forbidden", "1", "1")
            with pytest.raises(PermissionDenied):
                await calls.write(await client.open_pool("forbidden"), "x", 0, b"x")
            ceph_cluster.ceph("osd", "pool", "rm", "forbidden", "forbidden", "--yes-i-really-really-mean-it")

    async def test_a_wrong_key_is_named(self, ceph_cluster: Daemons) -> None:
        keyring = ceph_cluster.directory / "keyring.wrong"
        path = ceph_cluster.add_client("client.first", "mon", "allow r")
        keyring.write_text(path.read_text().replace("client.first", "client.second"))
        with pytest.raises(AuthenticationFailed, match=r"client\.second"):
            async with connect_to(ceph_cluster, "client.second", keyring):
                pass


async def test_a_quota_holds_writes_and_lets_go_of_them(ceph_cluster: Daemons) -> None:
    async with connect_to(ceph_cluster) as client:
        await client.create_pool("small")
        ioctx = await client.open_pool("small")
        for n in range(3):
            await calls.write(ioctx, f"object.{n}", 0, b"x")
        await client.monitors.command("osd pool set-quota", pool="small", field="max_objects", val="2")
        with trio.fail_after(60):
            while not client.osdmap.pools[ioctx.pool_id].flags & PoolFlag.FULL_QUOTA:
                await client.objecter.wait_for_epoch(client.osdmap.epoch + 1)
        outcomes: list[Outcome] = []
        ioctx.submit("object.9", WriteOp([Write(0, b"later")]), outcomes.append)
        assert bytes(await calls.read(ioctx, "object.0", 0, 1)) == b"x"
        await calls.remove(ioctx, "object.1")  # what frees space is done
        assert not outcomes
        await client.monitors.command("osd pool set-quota", pool="small", field="max_objects", val="0")
        with trio.fail_after(60):
            await ioctx.flush()
        assert isinstance(outcomes[0], Reply)
        await client.remove_pool("small")


async def test_placement_groups_split_under_load(ceph_cluster: Daemons) -> None:
    async with connect_to(ceph_cluster) as client:
        await client.monitors.command("osd pool create", pool="growing", pg_num=2, pgp_num=2)
        ioctx = await client.open_pool("growing")
        async with Load(ioctx, "split", blocks=64).running() as load:
            await load.advance()
            for variable in ("pg_num", "pgp_num"):
                await client.monitors.command("osd pool set", pool="growing", var=variable, val="16")
            with trio.fail_after(60):
                while client.osdmap.pools[ioctx.pool_id].pg_num < 16:
                    await load.advance(10)
                await load.advance()
        await client.remove_pool("growing")


@pytest.mark.slow
async def test_an_osd_is_killed_and_comes_back_under_load(ceph_cluster: Daemons) -> None:
    async with connect_to(ceph_cluster) as client:
        ioctx = await client.open_pool("data", "killed")
        async with Load(ioctx, "kill").running() as load:
            await load.advance()
            heard: list[WatchEvent] = []
            watch = await ioctx.watch("kill.0", heard.append)
            ceph_cluster.stop("osd.0")
            await trio.sleep(1)
            ceph_cluster.start("osd.0")
            with trio.fail_after(90):
                await load.advance()
                reply = await ioctx.notify("kill.0", b"still there?", 1)
        if not any(isinstance(event, WatchLost) for event in heard):
            assert reply.timeouts == [(client.instance_id, watch.cookie)]
            assert any(isinstance(event, NotifyEvent) for event in heard)
        await watch.close()


@pytest.mark.slow
async def test_peering_with_backoffs_loses_nothing(ceph_cluster: Daemons) -> None:
    """With this option an OSD sends backoffs for every op that comes while a placement group peers."""
    async with connect_to(ceph_cluster) as client:
        set_option = {"who": "osd", "name": "osd_backoff_on_peering"}
        await client.monitors.command("config set", **set_option, value="true")
        ioctx = await client.open_pool("data", "backoff")
        with mock.patch.object(Backoffs, "block", autospec=True, side_effect=Backoffs.block) as block:
            async with Load(ioctx, "backoff", blocks=64).running() as load:
                await load.advance()
                await client.monitors.command("osd down", ids=["0"])  # it comes back by itself
                with trio.fail_after(90):
                    await load.advance(20)
        assert block.called
        await client.monitors.command("config rm", **set_option)


@pytest.mark.slow
async def test_a_time_limit_ends_ops_where_nobody_answers(ceph_cluster: Daemons) -> None:
    async with connect_to(ceph_cluster, osd_op_timeout=2.0) as client:
        ioctx = await client.open_pool("data")
        await calls.write(ioctx, "limited", 0, b"x")
        ceph_cluster.send_signal("osd.0", signal.SIGSTOP)
        try:
            with trio.fail_after(10), pytest.raises(TimedOut):
                await calls.read(ioctx, "limited", 0, 1)
        finally:
            ceph_cluster.send_signal("osd.0", signal.SIGCONT)


async def test_an_erasure_coded_pool_with_overwrites(ceph_cluster_3: Daemons) -> None:
    cluster = ceph_cluster_3
    cluster.ceph("osd", "erasure-code-profile", "set", "k2m1", "k=2", "m=1", "crush-failure-domain=osd")
    cluster.ceph("osd", "pool", "create", "coded", "8", "8", "erasure", "k2m1")
    cluster.ceph("osd", "pool", "set", "coded", "allow_ec_overwrites", "true")
    async with connect_to(cluster) as client:
        ioctx = await client.open_pool("coded")
        expected = bytearray(100_000)
        for offset, length in ((0, 70_000), (1, 1), (4095, 2), (33_333, 12_345), (99_999, 1)):
            data = bytes([offset % 251 + 1]) * length
            await calls.write(ioctx, "striped", offset, data)
            expected[offset : offset + length] = data
        assert bytes(await calls.read(ioctx, "striped", 0, 0)) == expected
        assert bytes(await calls.read(ioctx, "striped", 4090, 10)) == expected[4090:4100]
        await ioctx.operate("striped", WriteOp([Zero(5000, 3), Truncate(50_001)]))
        expected[5000:5003] = bytes(3)
        assert bytes(await calls.read(ioctx, "striped", 0, 0)) == expected[:50_001]
        sparse = (await ioctx.operate("striped", ReadOp([SparseRead(4000, 2000)]))).outputs[0]
        assert (sparse.extents, bytes(sparse.data)) == ([(4000, 2000)], expected[4000:6000])
        with pytest.raises(NotSupported):
            await ioctx.operate("striped", ReadOp([MapExtents(0, 100)]))
        with pytest.raises(NotSupported):
            await calls.omap_set(ioctx, "striped", {"a": b"b"})
        snap_id = await ioctx.create_snap_id()
        await calls.write(ioctx, "striped", 0, b"new", SnapContext(snap_id, (snap_id,)))
        assert bytes(await calls.read(ioctx, "striped", 0, 3, snap_id)) == expected[:3]
        assert bytes(await calls.read(ioctx, "striped", 0, 3)) == b"new"
        async with Load(ioctx, "load").running() as load:
            await load.advance(20)


@pytest.mark.slow
async def test_another_monitor_takes_over() -> None:
    try:
        with start_cluster(monitors=3) as cluster:
            async with connect_to(cluster) as client:
                ioctx: CephIoCtx = await client.open_pool("data")
                identity = client.instance_id
                async with Load(ioctx, "monitors").running() as load:
                    await load.advance()
                    address = client.monitors.session_address
                    assert address is not None
                    dump = cluster.json("mon", "dump")
                    [name] = [
                        mon["name"]
                        for mon in dump["mons"]
                        if any(str(address.port) in addr["addr"] for addr in mon["public_addrs"]["addrvec"])
                    ]
                    cluster.stop(f"mon.{name}")
                    with trio.fail_after(60):
                        await client.monitors.command("osd dump")
                        await client.create_pool("afterwards")
                    await load.advance()
                assert client.instance_id == identity
    except Unavailable as reason:
        pytest.skip(str(reason))


async def test_reading_ahead_of_a_cancelled_caller_harms_nobody(ceph_cluster: Daemons) -> None:
    async with connect_to(ceph_cluster) as client:
        ioctx = await client.open_pool("data")
        for _ in range(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                await calls.write(ioctx, "cancelled", 0, b"written all the same")
        await ioctx.flush()
        assert bytes((await ioctx.operate("cancelled", ReadOp([Read(0, 0)]))).outputs[0]) == b"written all the same"
