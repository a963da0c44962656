"""The way of reads and writes from an open image to its data objects.

A read, or a write that may go at once, of one object is one submitted op and no task. A write goes at once where the
gate is open: we own the exclusive lock (or the image has none), the header is current, and nobody has paused writes.
Otherwise it queues behind a single task (`_pump`) that sees to all of that and then starts what has queued, in order.
A write to an object that the object map does not show as existing waits for the map in between.

| gate   | means                                                                          |
|--------|--------------------------------------------------------------------------------|
| open   | writes go at once; `_in_flight` counts them                                     |
| shut   | writes queue; the pump opens it again, as soon as it can                       |
| paused | shut, by whoever needs the image at rest (a snapshot, a resize, a release)     |

What always holds: under `paused` no write is in flight, none spans it, and the next one carries the snap context and
the size that were set meanwhile. Every callback is called exactly once.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import trio

from rbdfs.errors import NoSpace, NotFound, RbdfsError, StoreFailure
from rbdfs.image.joins import OnRead, OnWrite, ReadJoin, WriteJoin, finish_read, zeroes
from rbdfs.image.object_map import EXISTS, NONEXISTENT, ObjectMap
from rbdfs.image.striping import Striping
from rbdfs.rados.api import IoCtx, OnComplete, Outcome
from rbdfs.rados.ops import Buffer, Read, ReadOp, Reply, SetAllocHint, SnapContext, SnapId, Write, WriteOp, WriteStep

_TAKE_BACK_SECONDS = 5.0  # how long a writer that is to hear of a full store waits for its image to be made smaller


@dataclass(slots=True, eq=False)
class _Queued:
    """A write that could not go at once."""

    offset: int
    data: Buffer
    on_complete: OnWrite
    grown_from: int | None = None  # the size before the image was made larger for it

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class DataPath:
    """Reads and writes of one image or snapshot."""

    def __init__(
        self,
        data: IoCtx,
        prefix: str,
        striping: Striping,
        nursery: trio.Nursery,
        *,
        snap_id: SnapId,
        prepare: Callable[[], Awaitable[None]],
        grow: Callable[[int], Awaitable[None]],
        take_back: Callable[[int, int, int], Awaitable[None]],
    ) -> None:
        # fixed for life
        self.data = data
        self.striping = striping
        self.snap_id = snap_id
        self._nursery = nursery
        self._prepare = prepare  # owns the lock and has a current header when it returns
        self._grow = grow
        self._take_back = take_back
        self._submit: Callable[[str, ReadOp | WriteOp, OnComplete], None] = data.submit
        self._name = f"{prefix}.%016x"
        self._order = striping.order
        self._mask = striping.object_size - 1
        self._object_size = striping.object_size if striping.is_simple else 0  # 0: every access is compound
        hint: WriteStep = SetAllocHint(striping.object_size, striping.object_size)
        self._hints = (hint,) if data.cluster.properties.needs_alloc_hint else ()
        self._is_durable = data.cluster.properties.durable_on_completion
        # refreshed
        self.size = 0
        self.kept = 0  # how far a write past the end that fails must not take it back
        self.snapc = SnapContext()
        self.object_map: ObjectMap | None = None
        # moving
        self.is_open = False
        self._pauses = 0
        self._resumed = trio.Event()
        self._in_flight = 0
        self._at_rest: trio.Event | None = None
        self._queue: deque[_Queued] = deque()
        self._is_pumping = False
        self._is_closed = False
        self._broken: RbdfsError | None = None
        self._tasks = 0  # pumping and flushing
        self._tasks_done = trio.Event()
        self._slow: set[object] = set()  # writes that have not reached the store yet, or not all of them
        self._waiters: list[tuple[set[object], trio.Event]] = []

    def set_size(self, size: int) -> None:
        """The image, or the snapshot, is that large now."""
        self.size = size
        self.kept = min(self.kept, size)

    def keep(self, end: int) -> None:
        """What is there up to here was written, or asked for."""
        self.kept = max(self.kept, end)

    def object_name(self, number: int) -> str:
        """The name of a data object."""
        return self._name % number

    async def operate(self, number: int, op: ReadOp | WriteOp) -> Reply:
        """Do one op on a data object, awaited; a writer of several steps is inside `writing` or `paused`."""
        if self._broken is not None:
            raise self._broken
        return await self.data.operate(self._name % number, op)

    # Reading.

    def submit_read(self, offset: int, length: int, on_complete: OnRead) -> None:
        """Read; see `Image.submit_read`."""
        end = offset + length
        if end > self.size:
            end = self.size
            length = end - offset
        if length <= 0:
            on_complete([])
            return
        number = offset >> self._order
        within = offset & self._mask
        if within + length > self._object_size:
            self._submit_striped_read(offset, length, on_complete)
            return
        object_map = self.object_map
        if object_map is not None:
            states = object_map.states
            if states is not None and not states[number]:
                on_complete([zeroes(length)])
                return
        self._submit(
            self._name % number,
            ReadOp((Read(within, length),), self.snap_id),
            partial(finish_read, length, on_complete),
        )

    def _submit_striped_read(self, offset: int, length: int, on_complete: OnRead) -> None:
        extents = self.striping.object_extents(offset, length)
        join = ReadJoin(extents, length, on_complete)
        states = self.object_map.states if self.object_map is not None else None
        for index, (number, within, size, _) in enumerate(extents):
            if states is not None and states[number] == NONEXISTENT:
                join.finish(index, NotFound(""))
            else:
                op = ReadOp((Read(within, size),), self.snap_id)
                self._submit(self._name % number, op, partial(join.finish, index))

    # Writing.

    def submit_write(self, offset: int, data: Buffer, on_complete: OnWrite) -> None:
        """Write; see `Image.submit_write`."""
        length = len(data)
        if self.is_open and 0 < length <= self.size - offset:
            number = offset >> self._order
            within = offset & self._mask
            if within + length <= self._object_size:
                object_map = self.object_map
                states = object_map.states if object_map is not None else None
                if states is None or states[number] == EXISTS:
                    write = Write(within, data)
                    self._in_flight += 1
                    self._submit(
                        self._name % number,
                        WriteOp((write,) if states is not None else (*self._hints, write), self.snapc),
                        partial(self._finish_write, on_complete, offset + length),
                    )
                    return
            self._start(offset, data, on_complete)
        elif self._is_closed:
            on_complete(StoreFailure("the image has been closed"))
        elif length:
            self._slow.add(queued := _Queued(offset, data, on_complete))
            self._queue.append(queued)
            if not self._is_pumping:
                self._is_pumping = True
                self._tasks += 1
                self._nursery.start_soon(self._pump)
        else:
            on_complete(None)

    def _finish_write(self, on_complete: OnWrite, end: int, outcome: Outcome) -> None:
        self._in_flight -= 1
        if not self._in_flight and self._at_rest is not None:
            self._at_rest.set()
        if isinstance(outcome, Reply):
            if end > self.kept:
                self.kept = end
            on_complete(None)
        else:
            on_complete(outcome)

    def _start(self, offset: int, data: Buffer, on_complete: OnWrite) -> None:
        """Start a write through the open gate: of several objects, or of one that may have to be marked first."""
        extents = self.striping.object_extents(offset, len(data))
        self._in_flight += 1
        join = WriteJoin(len(extents), partial(self._finish_started, on_complete, offset + len(data)))
        self._slow.add(join)
        view = memoryview(data)
        for number, within, _, parts in extents:
            if len(parts) == 1:
                start, size = parts[0]
                piece: Buffer = view[start : start + size]
            else:
                piece = b"".join([view[start : start + size] for start, size in parts])
            self._write_object(number, within, piece, join.finish)

    def _finish_started(self, on_complete: OnWrite, end: int, join: WriteJoin, error: RbdfsError | None) -> None:
        self._no_longer_slow(join)
        self._in_flight -= 1
        if not self._in_flight and self._at_rest is not None:
            self._at_rest.set()
        if error is None:
            self.keep(end)
        on_complete(error)

    def _write_object(self, number: int, within: int, piece: Buffer, on_complete: OnComplete) -> None:
        op = WriteOp((Write(within, piece),), self.snapc)
        object_map = self.object_map
        if object_map is None or object_map.states is None:
            op.steps = (*self._hints, *op.steps)
        elif object_map.states[number] != EXISTS:
            if object_map.states[number] == NONEXISTENT:
                op.steps = (*self._hints, *op.steps)
            object_map.submit_exists(number, partial(self._write_marked, self._name % number, op, on_complete))
            return
        self._submit(self._name % number, op, on_complete)

    def _write_marked(self, name: str, op: WriteOp, on_complete: OnComplete, error: RbdfsError | None) -> None:
        if error is not None:
            on_complete(error)
        else:
            self._submit(name, op, on_complete)

    # The gate.

    def shut(self) -> None:
        """Let later writes wait until the image has been prepared again."""
        self.is_open = False

    async def _pass_gate(self) -> None:
        """Wait until writes may go; the gate is then open."""
        while not self.is_open:
            if self._pauses:
                await self._resumed.wait()
                continue
            await self._prepare()
            self.is_open = not self._pauses

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Count a compound change of data as one write."""
        await self._pass_gate()
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight and self._at_rest is not None:
                self._at_rest.set()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """No write is in flight inside."""
        self._pauses += 1
        self.is_open = False
        try:
            await self.wait_for_rest()
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._resumed.set()
                self._resumed = trio.Event()

    async def wait_for_rest(self) -> None:
        """Wait until no write is in flight; only under `paused` does it stay so."""
        while self._in_flight:
            if self._at_rest is None:
                self._at_rest = trio.Event()
            await self._at_rest.wait()
            self._at_rest = None

    async def _pump(self) -> None:
        """Start what has queued, in order."""
        try:
            while self._queue:
                try:
                    await self._pass_gate()
                except RbdfsError as err:
                    self._fail_queue(err)
                    continue
                end = max(queued.end for queued in self._queue)
                if end > self.size:
                    await self._grow_for_queue(end)
                    continue
                self._start_queued()
        finally:
            self._is_pumping = False
            self._fail_queue(StoreFailure("the image has been closed"))
            self._task_done()

    async def _grow_for_queue(self, end: int) -> None:
        before = self.size
        try:
            await self._grow(end)
        except RbdfsError as err:
            self._fail_queue(err, beyond=self.size)
            return
        for queued in self._queue:
            if queued.end > before and queued.grown_from is None:
                queued.grown_from = before

    def _task_done(self) -> None:
        self._tasks -= 1
        if not self._tasks:
            self._tasks_done.set()
            self._tasks_done = trio.Event()

    def _start_queued(self) -> None:
        while self._queue and self.is_open and self._queue[0].end <= self.size:
            queued = self._queue.popleft()
            on_complete = queued.on_complete if queued.grown_from is None else partial(self._finish_growing, queued)
            self._start(queued.offset, queued.data, on_complete)
            self._no_longer_slow(queued)

    def _finish_growing(self, queued: _Queued, error: RbdfsError | None) -> None:
        if isinstance(error, NoSpace):
            self._tasks += 1
            self._nursery.start_soon(self._fail_growing, queued, error)
        else:
            queued.on_complete(error)

    async def _fail_growing(self, queued: _Queued, error: RbdfsError) -> None:
        """A write past the end that finds no room leaves the file as long as it was, here as anywhere."""
        assert queued.grown_from is not None
        try:
            with trio.move_on_after(_TAKE_BACK_SECONDS), suppress(RbdfsError):  # the writer is told of the first one
                await self._take_back(queued.grown_from, queued.offset, len(queued.data))
        finally:
            queued.on_complete(error)
            self._task_done()

    def _fail_queue(self, error: RbdfsError, beyond: int = -1) -> None:
        failed = [queued for queued in self._queue if queued.end > beyond]
        self._queue = deque(queued for queued in self._queue if queued.end <= beyond)
        for queued in failed:
            self._no_longer_slow(queued)
            queued.on_complete(error)

    # Flushing.

    def submit_flush(self, on_complete: OnWrite) -> None:
        """Make durable what was written before."""
        if self._is_durable and not self._in_flight and not self._queue:
            on_complete(None)
        elif self._is_closed:
            on_complete(StoreFailure("the image has been closed"))
        else:
            self._tasks += 1
            self._nursery.start_soon(self._flush_for, on_complete)

    async def _flush_for(self, on_complete: OnWrite) -> None:
        error: RbdfsError | None = StoreFailure("the image has been closed")
        try:
            await self.flush()
            error = None
        except RbdfsError as err:
            error = err
        finally:
            on_complete(error)
            self._task_done()

    async def flush(self) -> None:
        """Make durable what was written before."""
        await self.settle()
        await self.data.flush()

    async def flush_at_rest(self) -> None:
        """The same for who has paused writes: what queues behind the pause comes after it, and is not waited for."""
        assert self._pauses
        await self.data.flush()

    async def settle(self) -> None:
        """Wait until what was written before has reached the store, whose reads then see it."""
        if self._slow:
            waiting = (set(self._slow), trio.Event())
            self._waiters.append(waiting)
            try:
                await waiting[1].wait()
            finally:
                self._waiters.remove(waiting)

    def _no_longer_slow(self, write: object) -> None:
        self._slow.discard(write)
        for writes, done in self._waiters:
            writes.discard(write)
            if not writes:
                done.set()

    def break_off(self, error: RbdfsError) -> None:
        """From now on everything fails: what is no longer there must not read as zeroes."""

        def fail(_name: str, _op: ReadOp | WriteOp, on_complete: OnComplete) -> None:
            on_complete(error)

        self._submit, self._broken = fail, error
        self.object_map = None
        self.shut()

    async def close(self) -> None:
        """Wait until everything that was submitted is done; refuse what comes later."""
        while self._in_flight or self._tasks:
            if self._tasks:
                await self._tasks_done.wait()
            else:
                await self.wait_for_rest()
        self._is_closed = True
        self.is_open = False
