"""Whatever befalls the cluster, in whatever order: each op ends once, each write is done once, in its object's order.

The OSDs here have one memory (as if their logs were always in sync), which knows the writes that are done by their
numbers, and the rules by which an OSD drops ops without a word: it is not the primary, the op is from before the
present interval of its placement group, the pool is full or has become so since. A client that sends too little hangs;
one that sends too much, under another number or in another order, does a write twice or out of order.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
import trio.testing
from ceph.osd_peer import POOL, PeerConnection, Peers, ReceivedOp
from hypothesis import given, settings, strategies as st

from rbdfs.ceph.hobject import HObject
from rbdfs.ceph.messages import SpgId
from rbdfs.ceph.op_message import OpFlag
from rbdfs.ceph.osdmap import OSDMap
from rbdfs.ceph.placement import is_new_interval, place
from rbdfs.ceph.pool import PoolFlag
from rbdfs.rados.api import Outcome
from rbdfs.rados.ops import Read, ReadOp, Reply, Write, WriteOp

OBJECTS = ["a", "b", "c"]
EVERYTHING = HObject(), HObject(is_max=True)


@dataclass
class Submitted:
    """An op of the client, and what came back."""

    name: str
    number: int  # of a write: the how-manieth of its object; of a read: how many writes were submitted before it
    is_write: bool
    outcomes: list[Outcome] = field(default_factory=list)


class Model:
    """The cluster, its memory, and the client's ops."""

    def __init__(self) -> None:
        self.cluster = Peers(pg_num=4)
        self.hashes = {name: self.cluster.target(name).raw_hash for name in OBJECTS}
        self.targets = {name: self.cluster.target(name) for name in OBJECTS}
        self.interval_start = dict.fromkeys(OBJECTS, 1)
        self.full_since = 0  # the last epoch that marked the pool full
        self.done: dict[str, list[int]] = {name: [] for name in OBJECTS}  # the writes, as they were applied
        self.tids: dict[int, int] = {}  # of writes that were applied, and how often
        self.blocked: dict[tuple[int, int], tuple[PeerConnection, SpgId, int]] = {}  # by connection and PG
        self.backoff_ids = itertools.count(1)
        self.submitted: list[Submitted] = []
        self.has_been_full = False

    # the client

    def submit(self, name: str, is_write: bool) -> None:
        """One more op."""
        number = sum(1 for op in self.submitted if op.name == name and op.is_write)
        op = Submitted(name, number, is_write)
        self.submitted.append(op)
        step = WriteOp([Write(0, number.to_bytes(4, "little"))]) if is_write else ReadOp([Read(0, 4)])
        self.cluster.client.submit(self.targets[name], step, op.outcomes.append)

    # the OSDs

    def serve(self, choice: int, *, is_answer_lost: bool = False) -> None:
        """Some OSD does an op, or drops it as an OSD would; the first one on its object that it has."""
        if not self.cluster.ops:
            return
        name = self.cluster.ops[choice % len(self.cluster.ops)].name
        op = next(op for op in self.cluster.ops if op.name == name)
        if self.is_dropped(op):
            self.cluster.ops.remove(op)
            return
        if op.flags & OpFlag.WRITE:
            if op.tid not in self.tids:
                self.done[name].append(int.from_bytes(op.ops[0][3], "little"))
            self.tids[op.tid] = self.tids.get(op.tid, 0) + 1
        if is_answer_lost:
            op.peer.close()
        else:
            op.reply(data=b"" if op.flags & OpFlag.WRITE else len(self.done[name]).to_bytes(4, "little"))

    def is_dropped(self, op: ReceivedOp) -> bool:
        """Whether an OSD does not even answer."""
        osdmap = self.cluster.map
        placement = place(osdmap, POOL, op.raw_hash)
        is_full = bool(osdmap.pools[POOL].flags & PoolFlag.FULL)
        return (
            placement.osd != op.peer.osd
            or op.peer.lost is not None
            or placement.pg.seed != op.pg.seed
            or op.epoch < self.interval_start[op.name]
            or (bool(op.flags & OpFlag.WRITE) and is_full)
            # PrimaryLogPG: "discarding op sent before full", which outlasts the flag
            or (bool(op.flags & (OpFlag.WRITE | OpFlag.RWORDERED)) and op.epoch < self.full_since)
        )

    def check(self) -> None:
        """Nothing is sent in spite of a backoff."""
        assert not [op for op in self.cluster.ops if (id(op.peer), op.pg.seed) in self.blocked]

    def block(self, name: str) -> None:
        """The object's primary wants none of the ops of its placement group for now."""
        placement = place(self.cluster.map, POOL, self.hashes[name])
        peer = next((one for one in self.cluster.connections if one.osd == placement.osd and not one.lost), None)
        key = (id(peer), placement.pg.seed)
        if peer is None or key in self.blocked:
            return
        pg, number = SpgId(1, POOL, placement.pg.seed, -1, -1), next(self.backoff_ids)
        self.cluster.ops = [op for op in self.cluster.ops if op.peer is not peer or op.pg.seed != pg.seed]
        self.blocked[key] = peer, pg, number
        peer.block(pg, number, *EVERYTHING)

    def unblock(self) -> None:
        """Every backoff ends."""
        blocked, self.blocked = self.blocked, {}
        for peer, pg, number in blocked.values():
            peer.unblock(pg, number, *EVERYTHING)

    # the map

    def change(self, *all_changes: dict[str, object]) -> None:
        """New maps, in one message; whoever is no longer primary takes its backoffs back."""
        self.unblock()
        maps = [self.next_map(**changes) for changes in all_changes]
        self.cluster.client.take_maps(maps)

    def next_map(self, **changes: object) -> OSDMap:
        """The next map, and the intervals that begin with it."""
        old = self.cluster.map
        if "moved" in changes:  # an OSD has started anew, so fast that the monitors did not see it down
            changes = {"osd_addresses": self.cluster.move(*changes["moved"])}  # type: ignore[misc]
        new = self.cluster.next_map(**changes)
        if new.pools[POOL].flags & ~old.pools[POOL].flags & PoolFlag.FULL:
            self.full_since = new.epoch
        for name, raw_hash in self.hashes.items():
            if is_new_interval(place(old, POOL, raw_hash), place(new, POOL, raw_hash)):
                self.interval_start[name] = new.epoch
        return new

    def fill(self, is_full: bool) -> None:
        """The pool is full, or is no longer."""
        self.has_been_full |= is_full
        self.change({"pool_flags": PoolFlag.HASHPSPOOL | (PoolFlag.FULL if is_full else PoolFlag(0))})

    # the end

    async def finish(self) -> None:
        """All is well again; then every op must come to its end."""
        self.change({"up": (0, 1, 2)})
        self.fill(False)
        for _ in range(3 * len(self.submitted) + 3):
            await trio.sleep(5)
            while self.cluster.ops:
                self.serve(0)
            if all(op.outcomes for op in self.submitted):
                break
        for op in self.submitted:
            [outcome] = op.outcomes  # once
            assert isinstance(outcome, Reply)
            if not op.is_write and not self.has_been_full:
                assert int.from_bytes(outcome.outputs[0], "little") >= op.number
        for name in OBJECTS:
            expected = [op.number for op in self.submitted if op.name == name and op.is_write]
            assert self.done[name] == expected, name


OBJECT = st.sampled_from(OBJECTS)
UP = st.sets(st.integers(0, 2)).map(lambda osds: {"up": tuple(osds)})
ACTING = st.permutations([0, 1, 2]).map(lambda osds: {"acting": tuple(osds)})
MOVED = st.builds(lambda osd, nonce: {"moved": (osd, nonce)}, st.integers(0, 2), st.integers(2, 9))
CHANGES = st.lists(MOVED | UP | ACTING | st.sampled_from([{"pg_num": 8}, {"pg_num": 4}, {}]), min_size=1, max_size=3)
Step = Callable[[Model], object]

STEPS: st.SearchStrategy[Step] = st.one_of(
    st.builds(lambda name, is_write: lambda model: model.submit(name, is_write), OBJECT, st.booleans()),
    st.builds(lambda choice: lambda model: model.serve(choice), st.integers(0, 9)),
    st.builds(lambda choice: lambda model: model.serve(choice, is_answer_lost=True), st.integers(0, 9)),
    st.builds(lambda name: lambda model: model.block(name), OBJECT),
    st.just(lambda model: model.unblock()),
    st.builds(lambda changes: lambda model: model.change(*changes), CHANGES),
    st.builds(lambda is_full: lambda model: model.fill(is_full), st.booleans()),
    st.builds(lambda osd: lambda model: cut(model, osd), st.integers(0, 2)),
)


def cut(model: Model, osd: int) -> None:
    """Break the connections to an OSD."""
    for connection in model.cluster.connections:
        if connection.osd == osd:
            connection.close()


async def run(steps: list[tuple[Step, bool]]) -> None:
    """Take the steps, with or without a pause behind each."""
    model = Model()
    async with model.cluster.objecter():
        for step, is_calm in steps:
            step(model)
            if is_calm:
                await trio.sleep(1)
            model.check()
        await model.finish()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(STEPS, st.booleans()), min_size=12, max_size=50))
def test_each_op_ends_once_and_each_write_is_done_once_in_order(steps: list[tuple[Step, bool]]) -> None:
    trio.run(run, steps, clock=trio.testing.MockClock(autojump_threshold=0))
