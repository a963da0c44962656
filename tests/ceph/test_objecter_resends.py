"""An op that is sent again, because a connection broke or a map says so: in order, under its number, never twice."""

import pytest
import trio
import trio.testing
from ceph.osd_peer import FSID, MY_ADDR, POOL, Peers
from ceph.submitter import READ, WRITE, Client

from rbdfs.ceph.messages import OSDMapMessage
from rbdfs.ceph.op_message import OpFlag
from rbdfs.errors import NotFound, StoreFailure, WireError
from rbdfs.rados.api import Outcome
from rbdfs.rados.ops import PoolId, Reply


async def test_after_a_broken_connection_all_is_sent_again_in_order_under_the_same_numbers(
    autojump_clock: object,
) -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        for label in "abc":
            client.submit(label, WRITE)
        await cluster.settle()
        first = list(cluster.ops)
        cluster.ops[1].reply()
        cluster.cut(0)
        await cluster.settle()
        assert [(op.name, op.tid) for op in cluster.ops] == [("a", first[0].tid), ("c", first[2].tid)]
        assert all(op.attempt == 1 and op.flags & OpFlag.RETRY for op in cluster.ops)
        for op in list(cluster.ops):
            op.reply()
        assert all(isinstance(client.outcome(label), Reply) for label in "abc")


async def test_an_osd_that_does_not_answer_yet_is_dialled_again(autojump_clock: object) -> None:
    cluster = Peers(refused={0})
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", READ)
        await trio.sleep(5)
        cluster.refused.clear()
        await trio.sleep(2)
        cluster.ops[0].reply()
        client.outcome("a")


async def test_an_osd_that_ends_every_connection_is_not_dialled_without_a_pause(autojump_clock: object) -> None:
    cluster = Peers(is_flapping=True)
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", READ)
        await trio.sleep(20)
        assert 20 < len(cluster.connections) < 30
        cluster.is_flapping = False
        await trio.sleep(2)
        cluster.ops[0].reply()
        client.outcome("a")


async def test_writes_whose_fate_nobody_knows_are_not_repeated_under_a_new_identity() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter() as objecter:
        client.submit("w", WRITE)
        client.submit("r", READ)
        await cluster.settle()
        objecter.on_identity(MY_ADDR, is_new=True)
        await cluster.settle()
        assert isinstance(client.outcome("w"), StoreFailure)
        assert [(op.name, op.attempt) for op in cluster.ops] == [("r", 1)]


async def test_ops_of_an_osd_that_goes_down_move_to_the_next_primary() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", WRITE)
        client.submit("b", READ)
        await cluster.settle()
        cluster.take_map(up=(1, 2))
        await cluster.settle()
        assert [(op.peer.osd, op.name, op.attempt, op.epoch) for op in cluster.ops] == [(1, "a", 1, 2), (1, "b", 1, 2)]


async def test_a_new_acting_set_means_sending_again_even_to_the_same_primary() -> None:
    cluster = Peers()
    async with cluster.objecter():
        Client(cluster).submit("a", WRITE)
        await cluster.settle()
        cluster.take_map(up=(0, 2))
        await cluster.settle()
        assert [(osd, attempt) for osd, _, _, attempt in cluster.log] == [(0, 0), (0, 1)]


async def test_a_map_that_changes_nothing_for_an_op_leaves_it_alone() -> None:
    cluster = Peers()
    async with cluster.objecter():
        Client(cluster).submit("a", WRITE)
        await cluster.settle()
        cluster.take_map()
        await cluster.settle()
        assert len(cluster.log) == 1


async def test_an_interval_that_begins_and_ends_within_one_message_counts() -> None:
    cluster = Peers()
    async with cluster.objecter() as objecter:
        Client(cluster).submit("a", WRITE)
        await cluster.settle()
        objecter.take_maps([cluster.next_map(up=(0, 2)), cluster.next_map(up=(0, 1, 2))])
        await cluster.settle()
        assert [(osd, attempt) for osd, _, _, attempt in cluster.log] == [(0, 0), (0, 1)]


async def test_where_epochs_are_missing_everything_is_sent_again() -> None:
    cluster = Peers()
    async with cluster.objecter() as objecter:
        Client(cluster).submit("a", WRITE)
        await cluster.settle()
        cluster.next_map()
        objecter.take_maps([cluster.next_map()])
        await cluster.settle()
        assert [attempt for *_, attempt in cluster.log] == [0, 1]


async def test_an_op_without_an_osd_waits_for_one() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", WRITE)
        await cluster.settle()
        cluster.take_map(up=())
        client.submit("b", WRITE)
        await cluster.settle()
        assert not cluster.ops
        cluster.take_map(up=(2,))
        await cluster.settle()
        assert [(op.peer.osd, op.name, op.attempt) for op in cluster.ops] == [(2, "a", 1), (2, "b", 0)]


async def test_an_osd_that_moves_is_dialled_at_its_new_address() -> None:
    cluster = Peers()
    async with cluster.objecter():
        Client(cluster).submit("a", READ)
        await cluster.settle()
        cluster.take_map(osd_addresses=cluster.move(0, 2))
        await cluster.settle()
        assert [connection.lost is None for connection in cluster.connections] == [False, True]
        assert [op.attempt for op in cluster.ops] == [1]


async def test_ops_of_a_pool_that_is_gone_fail_those_under_way_too() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter() as objecter:
        client.submit("a", WRITE)
        target = cluster.target("b")
        await cluster.settle()
        cluster.take_map(pools={}, pool_names={})
        assert isinstance(client.outcome("a"), NotFound)
        outcomes: list[Outcome] = []
        objecter.submit(target, READ, outcomes.append)
        assert isinstance(outcomes[0], NotFound)


async def test_after_a_split_ops_go_to_the_placement_group_that_now_has_the_object() -> None:
    cluster = Peers(pg_num=8)
    client = Client(cluster)
    names = [f"object{n}" for n in range(40)]
    async with cluster.objecter():
        for name in names:
            client.submit(name, WRITE)
        await cluster.settle()
        before = {op.name: op.pg.seed for op in cluster.ops}
        cluster.take_map(pg_num=16)
        await cluster.settle()
        last = {op.name: op for op in cluster.ops}
        assert {op.pg.seed for op in last.values()} - set(before.values())
        for name, op in last.items():
            assert op.attempt == 1
            assert op.pg.seed == op.raw_hash % 16, name
            assert op.pg.seed in (before[name], before[name] + 8)


async def test_ops_that_a_map_ends_are_told_so_after_the_others_are_on_their_way() -> None:
    cluster = Peers()
    client = Client(cluster)
    other = PoolId(2)
    async with cluster.objecter() as objecter:
        cluster.take_map(pools={**cluster.map.pools, other: cluster.map.pools[POOL]}, pool_names={})
        doomed = cluster.target("doomed", other)

        def on_complete(_: Outcome) -> None:
            client.submit("second", WRITE, "a")

        objecter.submit(doomed, READ, on_complete)
        client.submit("first", WRITE, "a")
        await cluster.settle()
        cluster.take_map(up=(1, 2), pools={POOL: cluster.map.pools[POOL]})
        await cluster.settle()
        assert [(op.name, op.attempt) for op in cluster.ops] == [("a", 1), ("a", 0)]


@pytest.mark.complains("asking for the whole map")
async def test_an_increment_that_does_not_fit_makes_us_ask_for_the_whole_map() -> None:
    cluster = Peers()
    async with cluster.objecter() as objecter:
        objecter.on_maps(OSDMapMessage(FSID.bytes, {2: b"no increment"}, {}))
        assert cluster.maps_wanted == 1
        assert objecter.epoch == 1


async def test_maps_behind_a_gap_make_us_ask_for_those_between() -> None:
    cluster = Peers()
    async with cluster.objecter() as objecter:
        objecter.on_maps(OSDMapMessage(FSID.bytes, {5: b""}, {}))
        assert cluster.maps_wanted == 1


async def test_maps_of_another_cluster_are_refused() -> None:
    cluster = Peers()
    async with cluster.objecter() as objecter:
        with pytest.raises(WireError):
            objecter.on_maps(OSDMapMessage(bytes(16), {}, {}))
