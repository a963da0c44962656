"""Owning a store: the lock, the engine, and the socket where other processes come in.

The lock is an flock, so it ends with the process however that ends. Whoever holds it may remove what a dead owner left
of a socket.
"""

import fcntl
import itertools
import os
import secrets
from contextlib import suppress
from pathlib import Path

import trio

from rbdfs.local import store
from rbdfs.local.engine import Client, Engine
from rbdfs.local.housekeeping import Housekeeping
from rbdfs.local.media import Media
from rbdfs.local.session import Session

_CLIENTS_PER_BOOT = 1 << 20


class Lock:
    """The lock of a store directory, held."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> "Lock | None":
        """Take the lock; None where another process has it."""
        try:
            descriptor = os.open(path / store.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            raise store.from_os_error(path / store.LOCK, err) from err
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        with suppress(OSError):  # a full disk; it is for a person who wonders
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
        return cls(descriptor)

    def release(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)


def lock_holder(path: Path) -> str:
    """Who holds the lock, as far as the lock file tells."""
    try:
        return f"process {(path / store.LOCK).read_text().strip() or '?'}"
    except OSError:
        return "another process"


class Owner:
    """An open store in this process, and the sessions of its clients."""

    def __init__(self, path: Path, lock: Lock, engine: Engine, nursery: trio.Nursery) -> None:
        self.path = path
        self.engine = engine
        self._lock = lock
        self._nursery = nursery
        self._ids = itertools.count(engine.boot * _CLIENTS_PER_BOOT + 1)
        self.housekeeping = Housekeeping(engine)
        nursery.start_soon(engine.journal.run)
        self._keeping = trio.CancelScope()
        self._kept = trio.Event()
        nursery.start_soon(self._keep_house)

    @classmethod
    def open(cls, path: Path, lock: Lock, nursery: trio.Nursery, media: Media | None = None) -> "Owner":
        """Open the store whose lock is held; its tasks run in the nursery."""
        return cls(path, lock, store.open_engine(path, media), nursery)

    async def _keep_house(self) -> None:
        try:
            with self._keeping:
                await self.housekeeping.run()
        finally:
            self._kept.set()

    def new_client(self) -> Client:
        """A client with a number and an address that nobody has or had."""
        return Client(next(self._ids), f"127.0.0.1:0/{secrets.randbits(32)}")

    def session(self, client: Client) -> Session:
        """A client's way to the engine."""
        return Session(self.path, self.engine, self.housekeeping, client)

    async def close(self) -> None:
        """Flush and close; the lock is free afterwards."""
        self._keeping.cancel()
        await self._kept.wait()
        try:
            await store.close_engine(self.engine)
        finally:
            self._lock.release()
