"""Which data objects exist: the object map of an image whose exclusive lock we own.

The stored map is always ahead of the data: an object is marked EXISTS before it is first written, and PENDING before
it is removed, NONEXISTENT only afterwards. So whatever is interrupted, the map says of no existing object that it does
not exist. CLEAN is EXISTS without a change since the newest snapshot. In memory a state is one byte per object, so
that the data path looks it up with one index, and it changes when the stored map has changed.

Where the stored map turns out to be unusable, the image is flagged (`OBJECT_MAP_INVALID`) before anything else
happens, and `states` becomes None: every object may exist. Only an error that leaves the map as good as it was, such
as a full store, is passed on to the writer.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial

import trio

from rbdfs.cls import lock, object_map as cls_map
from rbdfs.cls.query import ask, change
from rbdfs.cls.rbd_types import ObjectState
from rbdfs.errors import (
    Busy,
    Corrupt,
    Exists,
    InvalidArgument,
    LockLost,
    NotFound,
    NotSupported,
    RbdfsError,
    StaleSnapId,
    VersionMismatch,
    WireError,
)
from rbdfs.image.names import object_map_object
from rbdfs.image.tasks import Completion
from rbdfs.rados.api import IoCtx, Outcome
from rbdfs.rados.ops import HEAD, Call, Reply, SnapId, WriteOp

NONEXISTENT, EXISTS, PENDING, CLEAN = (int(state) for state in ObjectState)

# Answers that mean: this map cannot be used any more.
_UNUSABLE = (NotFound, InvalidArgument, NotSupported, Corrupt, VersionMismatch, StaleSnapId, WireError)

_TO_PENDING = bytes(PENDING if state in (EXISTS, CLEAN) else state for state in range(256))
_PENDING_TO_NONEXISTENT = bytes(NONEXISTENT if state == PENDING else state for state in range(256))

_EXISTING = re.compile(rb"[^\0]+")

_MOST_AT_ONCE = 256 << 10  # objects in one op; librbd: object_map::UpdateRequest

OnReady = Callable[[RbdfsError | None], None]
Run = tuple[int, int]  # contiguous objects: first number, and the one after the last

ASSERT_LOCKED: Call = lock.assert_locked(lock.RBD_LOCK, lock.LockType.EXCLUSIVE, "")


async def load_states(ioctx: IoCtx, image_id: str, snap_id: SnapId = HEAD) -> bytearray:
    """A stored map, one byte per object; NotFound, Corrupt."""
    return bytearray((await ask(ioctx, object_map_object(image_id, snap_id), cls_map.load())).unpacked())


def existing_runs(states: bytes | bytearray, start: int = 0, end: int | None = None) -> list[Run]:
    """The objects that may exist."""
    end = len(states) if end is None else end
    return [match.span() for match in _EXISTING.finditer(states, start, end)]


def runs_of(numbers: Iterable[int]) -> Iterator[Run]:
    """Ascending numbers as runs."""
    start = end = -1
    for number in numbers:
        if number != end:
            if end > start:
                yield start, end
            start = number
        end = number + 1
    if end > start:
        yield start, end


def numbers_of(runs: Iterable[Run]) -> Iterable[int]:
    """The objects of the runs, one after the other."""
    return (number for start, end in runs for number in range(start, end))


class ObjectMap:
    """The map of an image as it is now; `open` before use, `close` before the exclusive lock is given up."""

    def __init__(
        self, ioctx: IoCtx, image_id: str, nursery: trio.Nursery, invalidate: Callable[[], Awaitable[None]]
    ) -> None:
        self.states: bytearray | None = None
        self._ioctx = ioctx
        self._name = object_map_object(image_id)
        self._image_id = image_id
        self._nursery = nursery
        self._invalidate = invalidate  # flags the image, on its header
        self._waiting: dict[int, list[OnReady]] = {}  # writes that wait until their object is marked
        self._unsent: set[int] = set()  # of these objects: to be marked with the next batch
        self._being_sent: set[int] = set()  # being marked; what is in neither set is held back by a removal
        self._removing: list[Run] = []

    # The whole map.

    async def open(self, count: int) -> None:
        """Lock the stored map and load it; an image of `count` objects."""
        await self._lock()
        try:
            states = await load_states(self._ioctx, self._image_id)
        except _UNUSABLE:
            await self._give_up()
            return
        if len(states) < count:  # librbd: object_map::RefreshRequest
            await self._give_up()
            return
        self.states = states

    async def close(self) -> None:
        """Give the stored map's lock back."""
        self.states = None
        with suppress(NotFound):
            await change(self._ioctx, self._name, lock.unlock(lock.RBD_LOCK, ""))

    async def _lock(self) -> None:
        """Whoever else has the map locked no longer owns the image: break that (`object_map::LockRequest`)."""
        while True:
            try:
                await change(self._ioctx, self._name, lock.lock(lock.RBD_LOCK, lock.LockType.EXCLUSIVE, ""))
            except Exists:
                return
            except Busy:
                info = await ask(self._ioctx, self._name, lock.get_info(lock.RBD_LOCK))
                for locker in info.lockers:
                    with suppress(NotFound):
                        await change(
                            self._ioctx, self._name, lock.break_lock(lock.RBD_LOCK, locker.entity, locker.cookie)
                        )
            else:
                return

    async def resize(self, count: int) -> None:
        """Make the map fit an image of so many objects; those cut off must not exist any more."""
        if (
            self.states is not None
            and await self._change(cls_map.resize(count))
            and (states := self.states) is not None
        ):
            if count < len(states):
                del states[count:]
            else:
                states += bytes(count - len(states))

    async def save(self, states: bytearray) -> None:
        """Replace the whole map."""
        if await self._change(cls_map.save(cls_map.ObjectStates.packing(states))):
            self.states = states

    async def change(self, step: Call) -> bool:
        """Do another step on the stored map; False where the map was given up."""
        return self.states is not None and await self._change(step)

    async def _change(self, step: Call) -> bool:
        """One step an op: a class method of an OSD does not see what earlier steps of its op have written."""
        try:
            await change(self._ioctx, self._name, ASSERT_LOCKED, step)
        except Busy as err:
            raise LockLost(f"{self._name}: the object map is locked by another client") from err
        except _UNUSABLE:
            await self._give_up()
            return False
        return True

    async def _give_up(self) -> None:
        await self._invalidate()
        self.states = None  # only now: a map that is not kept must be known to be wrong

    # Objects about to be written.

    def submit_exists(self, number: int, on_ready: OnReady) -> None:
        """Mark an object EXISTS, then call back; the states must show another state now."""
        waiting = self._waiting.get(number)
        if waiting is not None:
            waiting.append(on_ready)
            return
        self._waiting[number] = [on_ready]
        if not _is_within(number, self._removing):
            self._unsent.add(number)
            if not self._being_sent:
                self._send()

    def _send(self) -> None:
        """One batch at a time is under way, an op for each run in it; what comes meanwhile goes with the next one."""
        self._being_sent, self._unsent = self._unsent, set()
        for start, end in runs_of(sorted(self._being_sent)):
            op = WriteOp([ASSERT_LOCKED, cls_map.update(start, end, EXISTS)])
            self._ioctx.submit(self._name, op, partial(self._sent, range(start, end)))

    def _sent(self, numbers: range, outcome: Outcome) -> None:
        error: RbdfsError | None = None
        if isinstance(outcome, Reply):
            if self.states is not None:
                for number in numbers:
                    self.states[number] = EXISTS
        elif isinstance(outcome, _UNUSABLE):
            self._nursery.start_soon(self._give_up_and_go_on, numbers)
            return
        elif isinstance(outcome, Busy):
            error = LockLost(f"{self._name}: the object map is locked by another client")
        else:
            error = outcome
        self._done(numbers, error)

    async def _give_up_and_go_on(self, numbers: range) -> None:
        try:
            await self._give_up()
        except RbdfsError as err:
            self._done(numbers, err)
        else:
            self._done(numbers, None)

    def _done(self, numbers: Iterable[int], error: RbdfsError | None) -> None:
        self._being_sent.difference_update(numbers)
        if not self._being_sent:
            if self.states is None:  # nothing more to mark
                numbers = [*numbers, *self._unsent]
                self._unsent.clear()
            elif self._unsent:
                self._send()
        for number in numbers:
            for on_ready in self._waiting.pop(number):
                on_ready(error)

    async def mark_exists(self, number: int) -> None:
        """Mark an object EXISTS."""
        if self.states is None or self.states[number] == EXISTS:
            return
        ready: Completion[RbdfsError | None] = Completion()
        self.submit_exists(number, ready)
        error = await ready.wait()
        if error is not None:
            raise error

    # Objects about to be removed.

    async def begin_removal(self, start: int, end: int) -> list[Run]:
        """Mark what exists from `start` up to `end` PENDING, and say what that is.

        Writes to objects that are not marked EXISTS wait until `end_removal`, which must follow.
        """
        # Those that wait for another removal to end wait for this one then, and not this one for them.
        marks: list[Completion[RbdfsError | None]] = []
        for number in self._unsent | self._being_sent:
            if start <= number < end:
                marks.append(Completion())
                self._waiting[number].append(marks[-1])
        self._removing.append((start, end))
        try:
            for mark in marks:
                await mark.wait()  # one that fails is its writer's concern: the object is not written
            if self.states is None:
                return [(start, end)]
            runs = existing_runs(self.states, start, end)
            if runs:
                await self._mark(runs[0][0], runs[-1][1], PENDING, EXISTS, _TO_PENDING)
        except BaseException:
            self._let_go(start, end)
            raise
        return runs

    async def end_removal(self, start: int, end: int, *, removed: bool) -> None:
        """Mark what was PENDING as NONEXISTENT, if it is gone, and let waiting writes go on."""
        try:
            if removed and self.states is not None and (runs := existing_runs(self.states, start, end)):
                await self._mark(runs[0][0], runs[-1][1], NONEXISTENT, PENDING, _PENDING_TO_NONEXISTENT)
        finally:
            self._let_go(start, end)

    def _let_go(self, start: int, end: int) -> None:
        """Writes to objects that were being removed, and are not being removed by anybody else, go on."""
        self._removing.remove((start, end))
        self._unsent.update(
            number
            for number in self._waiting.keys() - self._being_sent
            if start <= number < end and not _is_within(number, self._removing)
        )
        if self._unsent and not self._being_sent:
            self._send()

    async def _mark(self, start: int, end: int, state: int, expected: int, table: bytes) -> None:
        for first in range(start, end, _MOST_AT_ONCE):
            last = min(first + _MOST_AT_ONCE, end)
            if self.states is None or not await self._change(cls_map.update(first, last, state, expected)):
                return
            if (states := self.states) is not None:
                states[first:last] = states[first:last].translate(table)


def _is_within(number: int, runs: list[Run]) -> bool:
    return any(start <= number < end for start, end in runs)
