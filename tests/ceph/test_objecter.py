"""An op's life, against OSDs in memory: sent again when it must be, never lost, never done under another number."""

import errno

import pytest
import trio
import trio.testing
from ceph.osd_peer import FSID, MY_ADDR, POOL, Peers

from rbdfs.ceph.hobject import HObject
from rbdfs.ceph.messages import OSDMapMessage, SpgId
from rbdfs.ceph.op_message import OpFlag
from rbdfs.ceph.osd_ops import OpCode
from rbdfs.ceph.osdmap import MapFlag
from rbdfs.ceph.pool import PoolFlag
from rbdfs.errors import (
    Blocklisted,
    InvalidArgument,
    NotFound,
    NotSupported,
    RbdfsError,
    StoreFailure,
    TimedOut,
    WireError,
)
from rbdfs.rados.api import Outcome
from rbdfs.rados.ops import CloneRange, PoolId, Read, ReadOp, Remove, Reply, SnapContext, SnapId, Stat, Write, WriteOp

READ = ReadOp([Read(0, 100)])
WRITE = WriteOp([Write(0, b"data")], SnapContext(5, (SnapId(5), SnapId(3))))


class Client:
    """Submits, and keeps what comes back."""

    def __init__(self, cluster: Peers) -> None:
        self.cluster = cluster
        self.outcomes: dict[str, list[Outcome]] = {}

    def submit(self, label: str, op: ReadOp | WriteOp, name: str = "") -> None:
        outcomes = self.outcomes.setdefault(label, [])
        self.cluster.client.submit(self.cluster.target(name or label), op, outcomes.append)

    def outcome(self, label: str) -> Outcome:
        [outcome] = self.outcomes[label]  # exactly one, ever
        return outcome


async def test_a_read_gives_the_data_of_the_reply() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", READ)
        await cluster.settle()
        [op] = cluster.ops
        op.reply(data=b"hello", version=9)
        outcome = client.outcome("a")
        assert isinstance(outcome, Reply)
        assert (bytes(outcome.outputs[0]), outcome.version) == (b"hello", 9)
        assert op.flags & OpFlag.READ
        assert not op.flags & OpFlag.WRITE


async def test_a_write_carries_its_data_and_its_snap_context() -> None:
    cluster = Peers()
    async with cluster.objecter():
        Client(cluster).submit("a", WRITE)
        await cluster.settle()
        [op] = cluster.ops
        assert (op.snap_seq, op.snaps, op.ops[0][3]) == (5, [5, 3], b"data")
        assert op.flags & OpFlag.WRITE


async def test_answers_are_matched_by_number_whatever_their_order() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        for label in ("a", "b", "c"):
            client.submit(label, READ)
        await cluster.settle()
        for op in reversed(list(cluster.ops)):
            op.reply(data=op.name.encode())
        for label in ("a", "b", "c"):
            outcome = client.outcome(label)
            assert isinstance(outcome, Reply)
            assert outcome.outputs == [label.encode()]


async def test_a_read_does_not_overtake_writes_to_its_object() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        target = cluster.target("a")
        outcomes: list[Outcome] = []
        for op in (WRITE, WRITE, READ):
            cluster.client.submit(target, op, outcomes.append)
        client.submit("other", READ)
        await cluster.settle()
        first, second, read, other = cluster.ops
        assert read.flags & OpFlag.RWORDERED  # otherwise an OSD that recovers the object does the read first
        assert not other.flags & OpFlag.RWORDERED
        first.reply()
        second.reply(-errno.EIO)
        cluster.client.submit(target, READ, outcomes.append)
        await cluster.settle()
        assert not cluster.ops[-1].flags & OpFlag.RWORDERED


async def test_an_error_of_the_osd_becomes_ours() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", READ)
        await cluster.settle()
        cluster.ops[0].reply(-errno.ENOENT)
        assert isinstance(client.outcome("a"), NotFound)


async def test_an_op_that_cannot_be_encoded_fails_alone() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", ReadOp([Read(-1, 10)]))
        client.submit("b", WriteOp([CloneRange(0, "c", 0, 1)]))
        client.submit("c", READ)
        assert isinstance(client.outcome("a"), InvalidArgument)
        assert isinstance(client.outcome("b"), NotSupported)
        await cluster.settle()
        assert [op.name for op in cluster.ops] == ["c"]


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


async def test_an_answer_to_an_earlier_attempt_does_not_count() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", READ)
        await cluster.settle()
        [early] = cluster.ops
        cluster.take_map(up=(0, 2))  # sent again on the same connection
        early.reply(data=b"early")
        assert not client.outcomes["a"]
        [late] = cluster.ops
        late.reply(data=b"late")
        outcome = client.outcome("a")
        assert isinstance(outcome, Reply)
        assert outcome.outputs == [b"late"]


async def test_a_second_answer_is_ignored() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", READ)
        await cluster.settle()
        [op] = cluster.ops
        op.reply()
        op.reply()
        client.outcome("a")


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


async def test_a_time_limit_ends_an_op_and_its_late_answer_is_ignored(autojump_clock: object) -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter(op_timeout=10):
        client.submit("a", WRITE)
        await trio.sleep(9)
        assert not client.outcomes["a"]
        await trio.sleep(4)
        assert isinstance(client.outcome("a"), TimedOut)
        cluster.ops[0].reply()
        client.outcome("a")


async def test_flush_waits_for_the_writes_before_it_and_for_no_other() -> None:
    cluster = Peers()
    client = Client(cluster)
    done: list[str] = []
    async with cluster.objecter() as objecter, trio.open_nursery() as nursery:
        client.submit("a", WRITE)
        client.submit("read", READ)

        async def flush() -> None:
            await objecter.flush(POOL)
            done.append("flushed")

        nursery.start_soon(flush)
        await cluster.settle()
        client.submit("b", WRITE)
        await cluster.settle()
        assert not done
        next(op for op in cluster.ops if op.name == "a").reply()
        await cluster.settle()
        assert done == ["flushed"]


async def test_flush_ends_when_the_write_fails() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter() as objecter, trio.open_nursery() as nursery:
        client.submit("a", WRITE)
        await cluster.settle()
        nursery.start_soon(objecter.flush, POOL)
        await cluster.settle()
        cluster.take_map(pools={}, pool_names={})
    assert isinstance(client.outcome("a"), RbdfsError)


async def test_a_callback_may_submit() -> None:
    cluster = Peers()
    outcomes: list[Outcome] = []
    async with cluster.objecter() as objecter:
        target = cluster.target("a")

        def again(outcome: Outcome) -> None:
            outcomes.append(outcome)
            if len(outcomes) < 3:
                objecter.submit(target, READ, again)

        objecter.submit(target, READ, again)
        for _ in range(3):
            await cluster.settle()
            cluster.ops[0].reply()
        assert len(outcomes) == 3


async def test_a_faulty_callback_does_not_harm_other_ops(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Peers()
    client = Client(cluster)

    def faulty(_: Outcome) -> None:
        raise RuntimeError("bug")

    async with cluster.objecter() as objecter:
        objecter.submit(cluster.target("a"), READ, faulty)
        client.submit("b", READ)
        await cluster.settle()
        for op in list(cluster.ops):
            op.reply()
        client.outcome("b")
    assert "completion of an op on a" in caplog.text


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


async def test_closing_the_cluster_ends_what_is_pending_and_what_comes() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", WRITE)
        await cluster.settle()
    client.submit("b", READ)
    assert all(isinstance(client.outcome(label), StoreFailure) for label in "ab")


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
