"""When changes become durable: one ordered sequence of commits, each the metadata of one generation.

A commit is: data synced, then its batch committed, then the blocks that it freed punched and given back. It is run in
a thread; what changes meanwhile belongs to the next one. It happens when somebody flushes, some seconds after the
first change otherwise, and early when too much has gathered. Flushes that arrive together share a commit; one that
finds only overwritten blocks costs one sync and no commit.

Where there is no room for a commit, nothing of it is lost: its batch waits, in order, for the next attempt. Where the
reserve is gone, every flush tries to have it back, even with nothing to commit: until then no data gets a fresh block.
After a failed sync nobody can know what is on the medium, so every later flush fails, and so does every write.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import trio

from rbdfs.errors import NoSpace, RbdfsError, StoreFailure
from rbdfs.local.batch import Batch
from rbdfs.local.blocks import BLOCK_BITS, Settlement
from rbdfs.local.database import Database
from rbdfs.local.media import Media
from rbdfs.local.reserve import Reserve

log = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds from a change to its commit where nobody flushes


class Generation(NamedTuple):
    """What one commit makes durable; `on_durable` is called in the event loop afterwards."""

    batch: Batch
    settlement: Settlement
    on_durable: Callable[[], None]


class _Flush:
    """Those who wait for the next commit."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.error: RbdfsError | None = None


class Journal:
    """Commits what `take` gives: the next generation, or None where no metadata has changed."""

    def __init__(
        self, media: Media, database: Database, reserve: Reserve, take: Callable[[], Generation | None]
    ) -> None:
        self._media = media
        self._reserve = reserve
        self._database = database
        self._take = take
        self._backlog: list[Generation] = []  # taken, not durable yet
        self._next = _Flush()
        self._dirty = trio.Event()
        self._urgent = trio.Event()
        self.data_dirty = False  # the data file has changed since the last sync
        self.failure: RbdfsError | None = None  # for good

    def changed(self) -> None:
        """Metadata has changed: it will be committed."""
        self._dirty.set()

    def hurry(self) -> None:
        """Too much has gathered: commit now."""
        self._dirty.set()
        self._urgent.set()

    def fail(self, error: RbdfsError) -> None:
        """Something is lost that was taken: nothing more is made durable, and whoever flushes is told."""
        self.failure = error
        log.error("store failed, no further writes: %s", error)

    async def flush(self) -> None:
        """Make durable what was done before this call."""
        if self.failure is not None:
            raise self.failure
        flush = self._next
        self.hurry()
        await flush.event.wait()
        if flush.error is not None:
            raise flush.error

    async def run(self) -> None:
        """Commit for ever; a task of the engine."""
        try:
            await self._run()
        finally:  # nobody must wait for what nobody does
            self.failure = self.failure or StoreFailure("the store is closed")
            self._next.error = self.failure
            self._next.event.set()

    async def _run(self) -> None:
        while True:
            await self._dirty.wait()
            with trio.move_on_after(INTERVAL):
                await self._urgent.wait()
            self._dirty, self._urgent = trio.Event(), trio.Event()
            flush, self._next = self._next, _Flush()
            flush.error = StoreFailure("the engine stopped in a commit")  # until it has been done
            try:
                await self._commit()
                flush.error = None
            except RbdfsError as err:
                flush.error = err
                if not isinstance(err, NoSpace):
                    self.fail(err)
                elif self._backlog:
                    log.warning("changes wait for room: %s", err)
                    self._dirty.set()
            finally:
                flush.event.set()

    async def _commit(self) -> None:
        if self.failure is not None:
            raise self.failure
        if (generation := self._take()) is not None:
            self._backlog.append(generation)
        data_dirty, self.data_dirty = self.data_dirty, False
        if not (self._backlog or data_dirty) and self._reserve.is_intact:
            return
        durable: list[Generation] = []
        try:
            # A sync takes milliseconds to seconds: worth the hop. Not to be abandoned: it decides what is durable.
            await trio.to_thread.run_sync(self._make_durable, data_dirty, self._backlog, durable)
        finally:
            self._backlog = self._backlog[len(durable) :]
            for done in durable:
                done.settlement.settle()
                done.on_durable()

    def _make_durable(self, data_dirty: bool, generations: list[Generation], durable: list[Generation]) -> None:
        if data_dirty:
            self._media.sync()
        for generation in generations:
            self._reserve.commit(self._media, self._database, generation.batch)
            durable.append(generation)
            for block, count in generation.settlement.freed_runs():
                try:
                    self._media.zero(block << BLOCK_BITS, count << BLOCK_BITS)
                except NoSpace as err:
                    generation.settlement.keep(block, count)
                    log.warning("freed blocks are kept back: %s", err)
        self._reserve.restore()

    @property
    def is_stuck(self) -> bool:
        """Whether changes are taken that could not be committed."""
        return bool(self._backlog) or isinstance(self.failure, StoreFailure)
