"""The owner's engine: carries out ops on the objects of one store, in the trio thread, one after the other.

An op runs from its first step to its reply without an await, which is what makes it atomic and ordered. Two kinds may
go to a thread: a read that the page cache cannot answer, and then the blocks that it reads stay as they are until it is
done, whatever later ops do; and large overwrites that come side by side, and then what else comes for their object
waits. What ops change is in memory first (`objects`, `blocks`), and durable with the next commit (`journal`).

The ops that matter, one read and one write of bytes that are there, have a path of their own (`direct`); every other
op is a draft (`draft`, `steps`).
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import trio

from rbdfs.errors import (
    Blocklisted,
    InvalidArgument,
    NoSpace,
    PoolNotFound,
    QuotaExceeded,
    RbdfsError,
    StoreFailure,
)
from rbdfs.local import snapshots, steps
from rbdfs.local.absentees import Process
from rbdfs.local.batch import Batch
from rbdfs.local.blocks import BLOCK_BITS, BLOCK_SIZE, Blocks
from rbdfs.local.cache import ObjectCache
from rbdfs.local.database import Database
from rbdfs.local.direct import Direct
from rbdfs.local.draft import ColdBlock, Draft
from rbdfs.local.extents import Piece, block_at, pieces
from rbdfs.local.journal import Generation, Journal
from rbdfs.local.media import Media
from rbdfs.local.objects import ObjectKey, State, StoredObject, load_omap
from rbdfs.local.offload import Offload
from rbdfs.local.omap import Omap
from rbdfs.local.pools import Families, Pool
from rbdfs.local.preallocation import Preallocation
from rbdfs.local.reserve import Reserve
from rbdfs.local.watches import Watches
from rbdfs.local.write_behind import WriteBehind
from rbdfs.rados.api import OnComplete, Outcome
from rbdfs.rados.ops import HEAD, Call, PoolId, Read, ReadOp, Reply, SparseRead, Write, WriteOp

log = logging.getLogger(__name__)

_MARKED_OBJECTS = 4096  # commit early: what waits stays in memory, and the batch is made in one go (about 10 ms)
_UNSETTLED_BLOCKS = 1 << 16
_READERS = 16  # threads: as deep as a queue usually gets
# Bytes: while the thread writes that many, the next ones are read from the kernel, or from a socket. One of `_PROBE`
# such writes goes there even if it is alone, which costs it the way there and back, a tenth of its time.
_LARGE = 512 << 10
_PROBE = 64
_ANSWERED_FIRST = 128 << 10  # bytes that take as long to write as a process takes to wake up


class Client:
    """Somebody who submits ops: this process, or one that is attached."""

    def __init__(self, instance_id: int, address: str) -> None:
        self.instance_id = instance_id
        self.address = address
        self.entity = f"client.{instance_id}"
        self.process: Process | None = None  # of one that is attached
        self.refusal: RbdfsError | None = None  # why none of its ops is carried out
        self.heard = float("inf")  # when, by trio's clock; this process is always heard

    def fence(self) -> None:
        """Carry out no more of its ops."""
        self.refusal = Blocklisted(f"{self.entity} at {self.address} is blocklisted")


def _reach(reached: trio.Event, *, patient: bool) -> None:
    reached.set()


class Engine:
    """The objects of an open store. Made by `store.open_engine`; `journal.run` must be running."""

    def __init__(
        self, fsid: str, database: Database, media: Media, reserve: Reserve, boot: int, last_unclean: int
    ) -> None:
        self.fsid = fsid
        self.database = database
        self.media = media
        self.boot = boot
        self.journal = Journal(media, database, reserve, self._take)
        free = dict(database.rows("SELECT number, free FROM page"))
        self._reserve = reserve
        self.blocks = Blocks(free, self._load_page, self._grow_file, reserve.grants_block)
        self.families = Families(database)
        self.pools: dict[int, Pool] = {}
        self.last_pool_id = PoolId(0)
        self.dirty_pools: set[Pool] = set()
        self.extra = Batch()  # rows of the next batch that no object has
        self.watches = Watches(self.journal.changed)
        self.readers = Offload("rbdfs-read", _READERS)
        self.writer = Offload("rbdfs-write", 1)
        self._large_writes = 0
        self._write_behind = WriteBehind(media)
        self.preallocation = Preallocation(media, self.blocks)
        self._direct = Direct(media, self.blocks, self.preallocation, self.readers, self.journal)
        self.objects = ObjectCache(database, boot, last_unclean, self._zero_tails, self._on_marked)
        self._waiting: set[StoredObject] = set()  # those whose ops wait
        self._version = boot << 40  # no version is given twice, even where the last ones were lost

    # Ops.

    def submit(
        self, client: Client, pool: Pool, namespace: str, name: str, op: ReadOp | WriteOp, on_complete: OnComplete
    ) -> None:
        """Do one op on one object; `on_complete` is called before this returns, or from a thread's report."""
        try:
            if client.refusal is not None:
                raise client.refusal
            if pool.is_removed:
                raise PoolNotFound(f"{pool.name}: no such pool")
            key = ObjectKey(pool.id, namespace, name)
            obj = self.objects.find(key)
        except RbdfsError as err:
            on_complete(err)
            return
        obj.used = True
        if obj.waiting is None and not obj.writing:
            if (cold := self._carry_out(client, pool, obj, op, on_complete)) is not None:
                self._wait(obj, partial(self._carry_out, client, pool, obj, op, on_complete))
                self._warm_up(obj, cold)
        elif obj.waiting is not None or not self._follow(obj, op, on_complete):
            self._wait(obj, partial(self._carry_out, client, pool, obj, op, on_complete))
        if self.writer.done:  # tell its submitters now, who may have more, and not when the event loop is idle
            self.writer.report()

    def _carry_out(
        self,
        client: Client,
        pool: Pool,
        obj: StoredObject,
        op: ReadOp | WriteOp,
        on_complete: OnComplete,
        *,
        patient: bool = False,
    ) -> int | None:
        """Do an op; None.

        Unless `patient`, one that must copy a block which is not in the page cache does nothing, and gives that block.
        """
        outcome: Outcome | None
        try:
            if type(op) is ReadOp:
                outcome = self._run_read(client, pool, obj, op, on_complete)
                if outcome is None:
                    return None
            else:
                outcome = self._run_write(client, pool, obj, op, patient, on_complete)  # type: ignore[arg-type]
                if outcome is None:
                    return None
                if len(op.steps) == 1 and type(step := op.steps[0]) is Write and len(step.data) >= _LARGE and obj.head:
                    self._write_behind.wrote(pieces(obj.head.blocks, step.offset, step.offset + len(step.data)))
        except RbdfsError as err:
            outcome = err
        except ColdBlock as cold:
            return cold.block
        except Exception:
            log.exception("op on %s", obj.key.name)
            outcome = StoreFailure(f"{obj.key.name}: internal error, see the log")
        on_complete(outcome)
        return None

    # Objects whose ops wait: for a block to come from the disk, or for the thread that writes.

    def _wait(self, obj: StoredObject, job: Callable[..., int | None]) -> None:
        if obj.waiting is None:
            obj.waiting = deque()
        obj.waiting.append(job)
        self._waiting.add(obj)

    def _warm_up(self, obj: StoredObject, block: int) -> None:
        """Have a thread bring a block into the page cache, then go on with the ops on the object, in order."""
        self.blocks.pin([block])

        def work() -> None:
            self.media.read(block << BLOCK_BITS, bytearray(BLOCK_SIZE))

        def done(error: Exception | None) -> None:
            self.blocks.unpin([block])
            self._go_on(obj)  # after an error, too: the op meets it itself

        self.readers.submit(work, done)

    def _go_on(self, obj: StoredObject) -> None:
        waiting, patient = obj.waiting, True
        while waiting:
            cold = waiting[0](patient=patient)
            if cold is not None:
                self._warm_up(obj, cold)
                return
            waiting.popleft()
            if obj.writing:  # its report goes on
                obj.waiting = waiting or None
                return
            patient = False
        obj.waiting = None
        self._waiting.discard(obj)

    async def settle(self) -> None:
        """Wait until the ops that wait now are done."""
        for obj in list(self._waiting):
            if obj.waiting is not None or obj.writing:
                reached = trio.Event()
                self._wait(obj, partial(_reach, reached))
                await reached.wait()

    # Overwrites in a thread. It does them in order, so more of them may follow on the same object; all else waits.

    def _is_worth_a_thread(self) -> bool:
        """Whether a large write may find others at its side; now and then one is sent ahead to see."""
        self._large_writes += 1
        return self.writer.is_busy or self._large_writes % _PROBE == 0

    def _follow(self, obj: StoredObject, op: ReadOp | WriteOp, on_complete: OnComplete) -> bool:
        """Have an op on an object that the thread writes to done there, too; False where it must wait."""
        if type(op) is not WriteOp or self.journal.failure is not None:
            return False
        head, step = obj.head, op.steps[0]
        if len(op.steps) > 1 or type(step) is not Write or head is None or op.snapc.seq > obj.snap_seq:
            return False
        plan = self._direct.plan_overwrite(head, step)
        if plan is not None:
            self._write_in_thread(obj, head, step, plan, on_complete)
        return plan is not None

    def _write_in_thread(
        self, obj: StoredObject, head: State, step: Write, plan: list[Piece], on_complete: OnComplete
    ) -> None:
        def done(error: RbdfsError | None) -> None:
            obj.writing -= 1
            if error is None:
                self._touch(obj, head)
            is_last = not obj.writing
            if is_last and obj.waiting is None:
                obj.waiting = deque()  # what `on_complete` submits is for `_go_on` to start
            on_complete(error or Reply([None], obj.version))
            if is_last:
                self._go_on(obj)

        self._direct.write_in_thread(step, plan, self.writer, done)
        self._write_behind.reset()
        obj.writing += 1
        self._waiting.add(obj)

    def _overwrite_much(
        self, obj: StoredObject, head: State, step: Write, plan: list[Piece], on_complete: OnComplete
    ) -> Reply | None:
        """A write that takes long: others go on meanwhile, where that can be; None where `on_complete` is told."""
        if len(step.data) >= _LARGE and self._is_worth_a_thread():
            self._write_in_thread(obj, head, step, plan, on_complete)
            return None
        if obj.waiting is None and self._direct.has_room_to_write(plan):
            self._answer_and_write(obj, head, step, plan, on_complete)
            return None
        self._direct.write(step, plan)
        self._touch(obj, head)
        return Reply([None], obj.version)

    # Overwrites that are answered first. Whoever waits for the answer goes on while the bytes go to the page cache.

    def _answer_and_write(
        self, obj: StoredObject, head: State, step: Write, plan: list[Piece], on_complete: OnComplete
    ) -> None:
        """Overwrite after telling that it is done; only where it cannot fail for want of room.

        Nothing comes between: other ops on the object wait, as `on_complete` may submit some. An error, which can only
        be the disk's, ends the store, so that the next flush fails.
        """
        self._touch(obj, head)
        obj.waiting = deque()
        obj.writing += 1  # for those that would share these blocks
        on_complete(Reply([None], obj.version))
        try:
            self._direct.write(step, plan)
            if len(step.data) >= _LARGE:
                self._write_behind.wrote(plan)
        except Exception as err:
            self.journal.fail(err if isinstance(err, StoreFailure) else StoreFailure(f"{obj.key.name}: {err}"))
        obj.writing -= 1
        self._go_on(obj)

    # The two kinds of op.

    def _run_read(
        self, client: Client, pool: Pool, obj: StoredObject, op: ReadOp, on_complete: OnComplete
    ) -> Outcome | None:
        """Do a ReadOp; None where a thread does it."""
        if op.snap_id == HEAD:
            state, version = obj.head, obj.version
        else:
            state, version = snapshots.find(obj, op.snap_id)
        if len(op.steps) == 1:
            step = op.steps[0]
            if type(step) is Read and state is not None:
                return self._direct.read(state, version, step, on_complete)
            if type(step) is SparseRead and state is not None:
                return self._direct.sparse_read(state, version, step, on_complete)
        draft = Draft(self.media, self.blocks, pool, obj, state)
        run = steps.Run(self, client, draft, version, time.time_ns(), op.snap_id)
        return Reply([self._handler(steps.READ_STEPS, step)(run, step) for step in op.steps], version)

    def _run_write(
        self, client: Client, pool: Pool, obj: StoredObject, op: WriteOp, patient: bool, on_complete: OnComplete
    ) -> Reply | None:
        """Do a WriteOp; None where a thread does it."""
        if self.journal.failure is not None:
            raise self.journal.failure
        wanted = op.steps
        head = obj.head
        if len(wanted) == 1 and type(wanted[0]) is Write and head is not None and op.snapc.seq <= obj.snap_seq:
            step = wanted[0]
            plan = self._direct.plan_overwrite(head, step) if len(step.data) >= _ANSWERED_FIRST else None
            if plan is not None:
                return self._overwrite_much(obj, head, step, plan, on_complete)
            if self._direct.overwrite(head, step):
                self._touch(obj, head)
                return Reply([None], obj.version)
            if self._direct.copy_and_write(pool, head, step, patient=patient):
                self._touch(obj, head)
                self.dirty_pools.add(pool)
                self.objects.mark(obj)
                return Reply([None], obj.version)
        # What frees room, and the metadata that goes with it, must find some on a full disk.
        in_reserve = op.full_try or all(type(step) is Call for step in wanted)
        try:
            return self._run_draft(client, pool, obj, op, patient=patient, in_reserve=in_reserve)
        except NoSpace as err:
            if not in_reserve or isinstance(err, QuotaExceeded) or not self._reserve.give_up():
                raise
        finally:
            if in_reserve and not self._reserve.is_intact:
                self.journal.hurry()  # blocks that it replaces, or took in vain, come back with a commit
        return self._run_draft(client, pool, obj, op, patient=patient, in_reserve=True)

    def _run_draft(
        self, client: Client, pool: Pool, obj: StoredObject, op: WriteOp, *, patient: bool, in_reserve: bool
    ) -> Reply:
        head, wanted = obj.head, op.steps
        draft = Draft(self.media, self.blocks, pool, obj, head)
        keep = snapshots.snaps_to_keep(obj, op.snapc, pool.removed_snaps)
        draft.patient, draft.in_reserve = patient, in_reserve
        draft.in_place = not keep and bool(wanted) and steps.may_overwrite_in_place(wanted)
        run = steps.Run(self, client, draft, obj.version, time.time_ns(), HEAD, op.snapc, is_write=True)
        try:
            outputs = [self._handler(steps.WRITE_STEPS, step)(run, step) for step in wanted]
            if keep and draft.changed and head is not None and head.has_omap:
                self.omap(obj, head)
        except BaseException:
            draft.drop()
            raise
        finally:
            if draft.wrote_data:
                self.journal.data_dirty = True
        if draft.changed:
            try:
                self._apply(run, pool, keep)
            except BaseException as err:  # half of it may be in memory: none of it must become durable
                self.journal.failure = StoreFailure(f"{obj.key.name}: {err}")
                raise
        return Reply(outputs, obj.version)

    @staticmethod
    def _handler(table: dict[type, steps.Step], step: object) -> steps.Step:
        handler = table.get(type(step))
        if handler is None:
            raise InvalidArgument(f"{type(step).__name__} is not a step of such an op")
        return handler

    def _touch(self, obj: StoredObject, head: State) -> None:
        head.mtime = time.time_ns()
        self._version += 1
        obj.version = self._version
        obj.touched = True

    # Applying a draft.

    def _apply(self, run: steps.Run, pool: Pool, keep: tuple[int, ...]) -> None:
        """Make the draft what the object is."""
        draft, obj = run.draft, run.draft.obj
        old = obj.head
        if keep:
            snapshots.keep_head(obj, run.snapc, keep, self.blocks)  # type: ignore[arg-type]
        before = 0 if old is None else old.allocated
        if draft.exists:
            new = old or State()
            new.size, new.blocks, new.mtime = draft.size, draft.blocks, run.now
            new.xattrs, new.omap_header = draft.xattrs, draft.omap_header
            self._apply_omap(draft, obj, new)
            obj.head = new
        else:
            obj.omap_dropped |= old is not None and old.may_have_stored_omap
            obj.head = None
        after = 0 if obj.head is None else obj.head.allocated
        draft.settle()
        if after != before:
            self.families.add(obj.key.pool, obj.key.namespace, obj.key.name, after - before)
        existed, exists = old is not None, obj.head is not None
        pool.objects += exists - existed
        self.dirty_pools.add(pool)
        self._version += 1
        obj.version = self._version
        obj.snap_seq = 0 if obj.is_absent else max(obj.snap_seq, run.snapc.seq)
        self.objects.mark(obj)
        if existed and not exists:
            self.watches.lose_object(obj.key)

    def _apply_omap(self, draft: Draft, obj: StoredObject, new: State) -> None:
        if draft.omap_cleared:
            new.omap = Omap({}, is_new=True)
        elif not draft.omap_changes:
            return
        elif not new.has_omap:
            new.omap = new.omap or Omap({}, is_new=True)
        omap = self.omap(obj, new)
        omap.apply(draft.omap_changes)
        new.has_omap = bool(omap.pairs)

    # What the cache of objects, the journal and the blocks ask for.

    def omap(self, obj: StoredObject, state: State) -> Omap:
        """The omap of a state that has one."""
        return state.omap or load_omap(self.database, obj, state)

    def _on_marked(self) -> None:
        self.journal.changed()
        if self.objects.marked > _MARKED_OBJECTS or self.blocks.unsettled > _UNSETTLED_BLOCKS:
            self.journal.hurry()

    def _zero_tails(self, obj: StoredObject) -> None:
        """Zero what an unclean end may have left behind the ends of the object's states (see `draft`)."""
        for state in [obj.head, *(clone.state for clone in obj.clones)]:
            if state is not None and (within := state.size % BLOCK_SIZE):
                block = block_at(state.blocks, state.size >> BLOCK_BITS)
                if block:
                    self.media.zero((block << BLOCK_BITS) + within, BLOCK_SIZE - within)
                    self.journal.data_dirty = True

    def _take(self) -> Generation | None:
        """All metadata that has changed, as the next generation."""
        if self.preallocation.expire():
            self.journal.changed()  # for another look
        has_changed = bool(self.objects.marked or self.dirty_pools or self.extra or self.blocks.is_dirty)
        if (setting := self.watches.take(trio.current_time(), with_others=has_changed)) is not None:
            self.extra.settings.append(("watches", setting))
        elif not has_changed:
            return None
        batch, self.extra = self.extra, Batch()
        on_durable = self.objects.take(batch)
        for pool in self.dirty_pools:
            if self.pools.get(pool.id) is pool:
                batch.pools.append((pool.id, pool.name, pool.snap_seq, pool.used, pool.objects))
        self.dirty_pools = set()
        self.families.put(batch)
        return Generation(batch, self.blocks.take(batch), on_durable)

    def _load_page(self, number: int) -> bytes | None:
        row = self.database.row("SELECT counts FROM page WHERE number = ?", (number,))
        return None if row is None else row[0]

    def _grow_file(self, blocks: int) -> None:
        self.media.resize(max(blocks << BLOCK_BITS, self.media.size))
        self.journal.data_dirty = True

    def end_threads(self) -> None:
        """The engine does no more ops."""
        self.readers.close()
        self.writer.close()
        self._write_behind.close()
