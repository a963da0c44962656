"""Load that knows what must come of it: every byte, every record once, every step of a counter.

    Blocks      random writes over a few objects, read back and compared with what the model says
    Records     appends to one object, several at a time: each record must stand there once, in order
    Counter     a value that is compared and raised in one op: were it done twice, the second would not compare
    Watched     a watch, and notifies to it: each is answered, or the watcher is told that the watch was lost

Each measures how long its ops took. An op that fails, whatever the error, fails the load.
"""

import random
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence

import trio

from rbdfs.ceph.ioctx import CephIoCtx
from rbdfs.errors import RbdfsError
from rbdfs.rados.api import NotifyEvent, Outcome, WatchEvent, WatchLost
from rbdfs.rados.ops import (
    Append,
    CompareXattr,
    Comparison,
    Create,
    GetXattr,
    OmapGetKeys,
    OmapSet,
    Read,
    ReadOp,
    Reply,
    SetXattr,
    Write,
    WriteOp,
    Zero,
)

Op = tuple[str, ReadOp | WriteOp]  # with the object's name


class Task(ABC):
    """Something that goes on until told to stop."""

    def __init__(self, ioctx: CephIoCtx, name: str) -> None:
        self.ioctx = ioctx
        self.name = name
        self.done = 0  # ops
        self.slowest = 0.0  # seconds
        self.stopping = False
        self._progress = trio.Event()

    @abstractmethod
    async def run(self) -> None:
        """Go on until told to stop."""

    @abstractmethod
    async def verify(self) -> None:
        """Compare what is stored with what must be there."""

    async def together(self, ops: Sequence[Op]) -> list[Reply]:
        """Submit ops at once, so that they are under way side by side, and wait for all."""
        start, left, finished = trio.current_time(), len(ops), trio.Event()
        outcomes: list[Outcome | None] = [None] * len(ops)

        def on_complete(index: int, outcome: Outcome) -> None:
            nonlocal left
            assert outcomes[index] is None, f"{ops[index]}: completed twice"
            outcomes[index] = outcome
            left -= 1
            self.slowest = max(self.slowest, trio.current_time() - start)
            if not isinstance(outcome, RbdfsError):
                self.advanced()
            if not left:
                finished.set()

        for index, (name, op) in enumerate(ops):
            self.ioctx.submit(name, op, lambda outcome, index=index: on_complete(index, outcome))
        await finished.wait()
        for outcome in outcomes:
            if isinstance(outcome, RbdfsError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, Reply)]

    def advanced(self) -> None:
        """Count an op that succeeded."""
        self.done += 1
        progress, self._progress = self._progress, trio.Event()
        progress.set()

    async def progress(self, ops: int) -> None:
        """Wait until so many more ops have succeeded."""
        goal = self.done + ops
        while self.done < goal:
            await self._progress.wait()


class Steps(Task):
    """The same in steps of a few ops."""

    async def run(self) -> None:
        """Go on until told to stop."""
        await self.prepare()
        while not self.stopping:
            await self.step()
            await trio.lowlevel.checkpoint()

    async def prepare(self) -> None:
        """What comes before the first step."""

    @abstractmethod
    async def step(self) -> None:
        """A few ops."""


class Blocks(Steps):
    """Random writes and zeroes, some of them side by side and overlapping, over objects of its own."""

    OBJECTS, SIZE = 4, 1 << 18

    def __init__(self, ioctx: CephIoCtx, name: str, seed: int) -> None:
        super().__init__(ioctx, name)
        self._random = random.Random(f"{name} {seed}")
        self.contents = {f"{name}.{number}": bytearray(self.SIZE) for number in range(self.OBJECTS)}

    async def prepare(self) -> None:
        await self.together([(name, WriteOp([Write(0, bytes(self.SIZE))])) for name in self.contents])

    async def step(self) -> None:
        rng = self._random
        name, content = rng.choice(list(self.contents.items()))
        ops: list[Op] = []
        for _ in range(rng.randint(1, 6)):
            length = rng.choice((512, 4096, 4096, 4096, 20000, 65536))
            offset = rng.randrange(self.SIZE - length)
            data = bytes(length) if rng.random() < 0.1 else rng.randbytes(length)
            content[offset : offset + length] = data
            ops.append((name, WriteOp([Write(offset, data) if any(data) else Zero(offset, length)])))
        offset, length = rng.randrange(self.SIZE - 8192), 8192
        ops.append((name, ReadOp([Read(offset, length)])))  # sees all that was submitted before it
        expected = bytes(content[offset : offset + length])
        found = (await self.together(ops))[-1].outputs[0]
        assert bytes(found) == expected, f"{self.ioctx.pool_name} {name}: wrong bytes at {offset}"

    async def verify(self) -> None:
        for name, content in self.contents.items():
            (reply,) = await self.together([(name, ReadOp([Read(0, 0)]))])
            assert bytes(reply.outputs[0]) == content, f"{name}: wrong bytes"


class Records(Steps):
    """Appends to one object, several under way at a time."""

    RECORD = struct.Struct("<Q")

    def __init__(self, ioctx: CephIoCtx, name: str) -> None:
        super().__init__(ioctx, name)
        self._next = 0

    async def step(self) -> None:
        numbers = range(self._next, self._next + 4)
        self._next = numbers.stop
        await self.together([(self.name, WriteOp([Append(self.RECORD.pack(number))])) for number in numbers])

    async def verify(self) -> None:
        (reply,) = await self.together([(self.name, ReadOp([Read(0, 0)]))])
        found = [number for (number,) in self.RECORD.iter_unpack(reply.outputs[0])]
        assert found == list(range(self._next)), f"{self.name}: {len(found)} records of {self._next}"


class Counter(Steps):
    """A value that is compared and raised in one op, with a key for every value where the pool has omap."""

    def __init__(self, ioctx: CephIoCtx, name: str, *, has_omap: bool = True) -> None:
        super().__init__(ioctx, name)
        self._has_omap = has_omap
        self._value = 0

    async def prepare(self) -> None:
        await self.together([(self.name, WriteOp([Create(), SetXattr("value", b"0")]))])

    async def step(self) -> None:
        ops: list[Op] = []
        for _ in range(2):
            before, after = str(self._value).encode(), str(self._value + 1).encode()
            steps = [CompareXattr("value", Comparison.EQ, before), SetXattr("value", after)]
            keys = [OmapSet({f"{self._value:08d}": b""})] if self._has_omap else []
            ops.append((self.name, WriteOp([*steps, *keys])))
            self._value += 1
        await self.together(ops)

    async def verify(self) -> None:
        (reply,) = await self.together([(self.name, ReadOp([GetXattr("value")]))])
        assert reply.outputs == [str(self._value).encode()]
        keys: list[str] = []
        while self._has_omap:
            (reply,) = await self.together([(self.name, ReadOp([OmapGetKeys(keys[-1] if keys else "", 1000)]))])
            keys += reply.outputs[0].keys
            if not reply.outputs[0].more:
                assert keys == [f"{value:08d}" for value in range(self._value)]
                break


class Watched(Steps):
    """A watch that is made anew whenever it is lost, and notifies to it."""

    def __init__(self, ioctx: CephIoCtx, name: str) -> None:
        super().__init__(ioctx, name)
        self.lost = 0
        self.unanswered = 0
        self._is_lost = False
        self._heard: set[bytes] = set()
        self._number = 0

    async def prepare(self) -> None:
        await self.together([(self.name, WriteOp([Create()]))])
        await self._watch()

    async def _watch(self) -> None:
        self._is_lost = False
        self._current = await self.ioctx.watch(self.name, self._on_event, seconds=30)

    def _on_event(self, event: WatchEvent) -> None:
        if isinstance(event, WatchLost):
            self.lost += 1
            self._is_lost = True
        elif isinstance(event, NotifyEvent):
            self._heard.add(event.payload)
            self._current.acknowledge(event.notify_id, event.payload)

    async def step(self) -> None:
        if self._is_lost:
            await self._current.close()
            await self._watch()
        start = trio.current_time()
        self._number += 1
        payload = str(self._number).encode()
        reply = await self.ioctx.notify(self.name, payload, 3)
        self.slowest = max(self.slowest, trio.current_time() - start)
        answered = payload in reply.acks.values()
        assert not answered or payload in self._heard
        self.unanswered += not answered
        if answered:
            self.advanced()
        await trio.sleep(0.1)

    async def verify(self) -> None:
        """Nothing more may be missed now: the watch holds, or its loss has been told."""
        with trio.fail_after(60):
            await self._answered()
        await self._current.close()

    async def _answered(self) -> None:
        done = self.done
        while self.done == done:
            await self.step()
