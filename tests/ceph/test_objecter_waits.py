"""An op that must not be sent now: flags of the map, an OSD that asks to wait, a fenced client."""

import errno

import pytest
from ceph.osd_peer import MY_ADDR, POOL, Peers
from ceph.submitter import READ, WRITE, Client

from rbdfs.ceph.hobject import HObject
from rbdfs.ceph.messages import SpgId
from rbdfs.ceph.op_message import OpFlag
from rbdfs.ceph.osd_ops import OpCode
from rbdfs.ceph.osdmap import MapFlag
from rbdfs.ceph.pool import PoolFlag
from rbdfs.errors import Blocklisted, StoreFailure
from rbdfs.rados.api import Outcome
from rbdfs.rados.ops import ReadOp, Remove, Stat, WriteOp


class TestFlags:
    """What the map forbids waits."""

    async def test_paused_reads_wait_and_writes_do_not(self) -> None:
        cluster = Peers()
        client = Client(cluster)
        async with cluster.objecter():
            cluster.take_map(flags=MapFlag.PAUSERD)
            client.submit("a", READ)
            client.submit("b", WRITE)
            await cluster.settle()
            assert [op.name for op in cluster.ops] == ["b"]
            cluster.take_map(flags=MapFlag(0))
            await cluster.settle()
            assert [op.name for op in cluster.ops] == ["b", "a"]

    @pytest.mark.parametrize("flag", [PoolFlag.FULL, PoolFlag.FULL_QUOTA])
    async def test_a_full_pool_holds_writes_but_not_what_frees_space(self, flag: PoolFlag) -> None:
        cluster = Peers()
        client = Client(cluster)
        async with cluster.objecter():
            cluster.take_map(pool_flags=PoolFlag.HASHPSPOOL | flag)
            client.submit("a", WRITE)
            client.submit("b", WriteOp([Remove()], full_try=True))
            client.submit("c", READ)
            await cluster.settle()
            assert [op.name for op in cluster.ops] == ["b", "c"]
            assert cluster.ops[0].flags & OpFlag.FULL_TRY
            cluster.take_map(pool_flags=PoolFlag.HASHPSPOOL)
            await cluster.settle()
            assert [op.name for op in cluster.ops] == ["b", "c", "a", "b"]  # b again: it may have been dropped

    async def test_writes_under_way_when_a_pool_becomes_full_are_sent_again_afterwards(self) -> None:
        cluster = Peers()
        async with cluster.objecter():
            Client(cluster).submit("a", WRITE)
            await cluster.settle()
            cluster.take_map(pool_flags=PoolFlag.HASHPSPOOL | PoolFlag.FULL)
            cluster.take_map(pool_flags=PoolFlag.HASHPSPOOL)
            await cluster.settle()
            assert [attempt for *_, attempt in cluster.log] == [0, 1]

    async def test_a_read_that_keeps_the_order_of_writes_is_sent_again_as_they_are(self) -> None:
        cluster = Peers()
        outcomes: list[Outcome] = []
        async with cluster.objecter() as objecter:
            target = cluster.target("a")
            for op in (WRITE, READ):
                objecter.submit(target, op, outcomes.append)
            await cluster.settle()
            cluster.ops.clear()  # the OSD drops both, as it knows already that the pool is full
            cluster.take_map(pool_flags=PoolFlag.HASHPSPOOL | PoolFlag.FULL_QUOTA)
            await cluster.settle()
            assert [op.codes for op in cluster.ops] == [[OpCode.READ]]

    async def test_writes_do_not_overtake_a_held_write_to_their_object_and_reads_do(self) -> None:
        cluster = Peers()
        client = Client(cluster)
        async with cluster.objecter():
            cluster.take_map(pool_flags=PoolFlag.HASHPSPOOL | PoolFlag.FULL)
            client.submit("write", WRITE, "a")
            client.submit("remove", WriteOp([Remove()], full_try=True), "a")
            client.submit("read", ReadOp([Stat()]), "a")
            client.submit("other", READ)
            await cluster.settle()
            assert [(op.name, op.codes) for op in cluster.ops] == [("a", [OpCode.STAT]), ("other", [OpCode.READ])]
            cluster.take_map(pool_flags=PoolFlag.HASHPSPOOL)
            await cluster.settle()
            assert [op.codes for op in cluster.ops][2:] == [[OpCode.WRITE], [OpCode.DELETE]]

    async def test_a_pool_that_is_marked_to_fail_fails_every_op(self) -> None:
        cluster = Peers()
        client = Client(cluster)
        async with cluster.objecter():
            cluster.take_map(pool_flags=PoolFlag.HASHPSPOOL | PoolFlag.EIO)
            client.submit("a", READ)
            assert isinstance(client.outcome("a"), StoreFailure)


class TestBackoff:
    """An OSD asks to wait."""

    async def test_ops_in_the_range_wait_and_are_sent_again_at_its_end(self) -> None:
        cluster = Peers(pg_num=1)
        client = Client(cluster)
        async with cluster.objecter():
            client.submit("a", WRITE)
            await cluster.settle()
            [op] = cluster.ops
            begin, end = HObject(pool=POOL), HObject(is_max=True)
            op.peer.block(op.pg, 1, begin, end)
            assert [message.id for message in op.peer.backoffs_acknowledged] == [1]
            cluster.ops.clear()  # the OSD drops what came before
            client.submit("b", READ)
            await cluster.settle()
            assert not cluster.ops
            op.peer.unblock(op.pg, 1, begin, end)
            await cluster.settle()
            assert [(op.name, op.attempt) for op in cluster.ops] == [("a", 1), ("b", 0)]

    async def test_objects_outside_of_the_range_go_on(self) -> None:
        cluster = Peers(pg_num=1)
        client = Client(cluster)
        async with cluster.objecter():
            client.submit("a", READ)
            await cluster.settle()
            [op] = cluster.ops
            only = HObject(name="a", snap=2**64 - 2, hash=op.raw_hash, pool=POOL)
            op.peer.block(op.pg, 1, only, only)
            client.submit("again", READ, "a")
            client.submit("b", READ)
            await cluster.settle()
            assert [op.name for op in cluster.ops] == ["a", "b"]

    async def test_a_new_connection_knows_no_backoffs(self) -> None:
        cluster = Peers(pg_num=1)
        client = Client(cluster)
        async with cluster.objecter():
            client.submit("a", READ)
            await cluster.settle()
            [op] = cluster.ops
            op.peer.block(SpgId(1, POOL, 0, -1, -1), 1, HObject(pool=POOL), HObject(is_max=True))
            cluster.cut(0)
            await cluster.settle()
            assert [(op.name, op.attempt) for op in cluster.ops] == [("a", 1)]


@pytest.mark.complains("is on the cluster's blocklist")
class TestBlocklist:
    """A fenced client."""

    @pytest.mark.parametrize("by_reply", [True, False])
    async def test_everything_fails_at_once_and_from_then_on(self, by_reply: bool) -> None:
        cluster = Peers()
        client = Client(cluster)
        async with cluster.objecter():
            client.submit("a", WRITE)
            client.submit("b", READ)
            await cluster.settle()
            if by_reply:
                cluster.ops[0].reply(-errno.ESHUTDOWN)
            else:
                cluster.take_map(blocklist=frozenset({MY_ADDR}))
            client.submit("c", READ)
            assert all(isinstance(client.outcome(label), Blocklisted) for label in "abc")

    async def test_it_stays_so_when_the_blocklist_forgets(self) -> None:
        cluster = Peers()
        client = Client(cluster)
        async with cluster.objecter():
            cluster.take_map(blocklist=frozenset({MY_ADDR}))
            cluster.take_map(blocklist=frozenset())
            client.submit("a", READ)
            assert isinstance(client.outcome("a"), Blocklisted)
