"""An op against OSDs in memory, from being submitted to its one answer."""

import errno

import pytest
import trio
import trio.testing
from ceph.osd_peer import POOL, Peers
from ceph.submitter import READ, WRITE, Client

from rbdfs.ceph.op_message import OpFlag
from rbdfs.errors import InvalidArgument, NotFound, NotSupported, RbdfsError, StoreFailure, TimedOut
from rbdfs.rados.api import Outcome
from rbdfs.rados.ops import CloneRange, Read, ReadOp, Reply, Stat, WriteOp


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


@pytest.mark.parametrize("op", [READ, ReadOp([Stat(), Read(0, 10)])])
async def test_a_redirect_ends_its_op_and_no_other(op: ReadOp) -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", op)
        client.submit("other", READ, "a")
        await cluster.settle()
        cluster.ops[0].reply(-errno.ENOENT, is_redirected=True)
        assert isinstance(client.outcome("a"), NotSupported)
        cluster.ops[0].reply()
        assert isinstance(client.outcome("other"), Reply)


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


@pytest.mark.parametrize("is_pool_removed", [False, True])
async def test_unsent_data_is_copied_before_a_write_ends_without_an_answer(
    is_pool_removed: bool, autojump_clock: object
) -> None:
    cluster = Peers()
    copied: list[int] = []
    async with cluster.objecter(op_timeout=10) as objecter:
        objecter.submit(cluster.target("a"), WRITE, lambda _: copied.append(op.peer.times_copied))
        await cluster.settle()
        [op] = cluster.ops
        if is_pool_removed:
            cluster.take_map(pools={})
        else:
            await trio.sleep(13)
        assert copied == [1]


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


@pytest.mark.complains("completion of an op on a")
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


async def test_closing_the_cluster_ends_what_is_pending_and_what_comes() -> None:
    cluster = Peers()
    client = Client(cluster)
    async with cluster.objecter():
        client.submit("a", WRITE)
        await cluster.settle()
    client.submit("b", READ)
    assert all(isinstance(client.outcome(label), StoreFailure) for label in "ab")
