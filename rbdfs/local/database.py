"""The metadata of a store: one SQLite database in WAL mode, with two connections.

The reader belongs to the event loop and sees what is committed. The writer is used by one thread at a time, for whole
batches. A store keeps its format's version; an unknown one is refused by its number.

Names and omap keys are blobs, so their order is byte order and any bytes will do. What the columns mean:

    store     key, value         format, fsid, block_size; boots: how often it was opened; clean: closed in order;
                                 last_unclean: the newest boot that did not end in order; last_pool_id: the newest;
                                 watches: of attached clients (`absentees`)
    pool      id, name, snap_seq (newest snap id made), used (blocks), objects (heads)
    object    id, pool, namespace, name, version, snap_seq (newest snap context seen), boot (that wrote this row);
              the head: size (NULL: there is none), mtime (ns), blocks, xattrs, omap_header, has_omap
    clone     object, clone (its id), snaps (ids that see it, oldest first), version; then as a head
    snapmap   pool, snap, object: which objects have a clone that a snapshot sees
    omap      object, clone (HEAD_ROW: the head), key, value
    page      number, free (per chunk of 64 blocks how many are free), counts (references per block, u32)
    family    pool, namespace, prefix: blocks of the heads whose names begin so, up to the last dot
    removed_snap, blocklist

`blocks` is an array of u32: at index n the block of the data file that holds bytes n * 64 KiB of the object, 0 for a
hole, trailing holes left out.
"""

import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rbdfs.errors import Corrupt, InvalidArgument, NoSpace, NotSupported, StoreFailure
from rbdfs.local.batch import STATEMENTS, Batch, Row

FORMAT = 1
HEAD_ROW = -1

_SCHEMA = """
CREATE TABLE store (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE pool (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, snap_seq INTEGER, used INTEGER,
    objects INTEGER);
CREATE TABLE object (id INTEGER PRIMARY KEY, pool INTEGER, namespace BLOB, name BLOB, version INTEGER,
    snap_seq INTEGER, boot INTEGER, size INTEGER, mtime INTEGER, blocks BLOB, xattrs BLOB, omap_header BLOB,
    has_omap INTEGER, UNIQUE (pool, namespace, name));
CREATE TABLE clone (object INTEGER, clone INTEGER, snaps BLOB, version INTEGER, size INTEGER, mtime INTEGER,
    blocks BLOB, xattrs BLOB, omap_header BLOB, has_omap INTEGER, PRIMARY KEY (object, clone)) WITHOUT ROWID;
CREATE TABLE snapmap (pool INTEGER, snap INTEGER, object INTEGER, PRIMARY KEY (pool, snap, object)) WITHOUT ROWID;
CREATE INDEX snapmap_object ON snapmap (object);
CREATE TABLE omap (object INTEGER, clone INTEGER, key BLOB, value BLOB, PRIMARY KEY (object, clone, key))
    WITHOUT ROWID;
CREATE TABLE page (number INTEGER PRIMARY KEY, free BLOB, counts BLOB);
CREATE TABLE family (pool INTEGER, namespace BLOB, prefix BLOB, blocks INTEGER,
    PRIMARY KEY (pool, namespace, prefix)) WITHOUT ROWID;
CREATE TABLE removed_snap (pool INTEGER, snap INTEGER, PRIMARY KEY (pool, snap)) WITHOUT ROWID;
CREATE TABLE blocklist (address TEXT PRIMARY KEY, until INTEGER) WITHOUT ROWID;
"""


class Database:
    """Both connections to one store's metadata."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._translated("open"):
            self._reader = _connect(path)
            self._writer = _connect(path)
            self._writer.execute("PRAGMA synchronous = FULL")
        try:
            self._check_format()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def create(path: Path, block_size: int) -> None:
        """Make an empty store's metadata, with a new fsid."""
        with closing(_connect(path, "rwc")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            settings: dict[str, Any] = {
                "format": FORMAT,
                "fsid": str(uuid.uuid4()),
                "block_size": block_size,
                "boots": 0,
                "clean": 1,
                "last_unclean": 0,
            }
            connection.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.executemany("INSERT INTO store VALUES (?,?)", settings.items())
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close both connections; the last one folds the WAL into the database."""
        self._reader.close()
        self._writer.close()

    def rows(self, sql: str, parameters: Iterable[Any] = ()) -> list[Any]:
        """All rows of a query, as committed."""
        with self._translated("read"):
            return self._reader.execute(sql, tuple(parameters)).fetchall()

    def cursor(self, sql: str) -> Iterator[Row]:
        """The rows of a query, one by one, as committed; SQLite's own errors."""
        return iter(self._reader.execute(sql))

    def row(self, sql: str, parameters: tuple[Any, ...]) -> Row | None:
        """The first row of a query, as committed."""
        try:
            found: Row | None = self._reader.execute(sql, parameters).fetchone()
        except sqlite3.Error as err:
            raise self._failure("read", err) from err
        return found

    def settings(self) -> dict[str, Any]:
        """The table `store`."""
        return dict(self.rows("SELECT key, value FROM store"))

    def commit(self, batch: Batch) -> None:
        """Write a batch durably: all of it or, with an error, nothing."""
        with self._translated("commit"):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                for name, sql in STATEMENTS.items():
                    if rows := getattr(batch, name):
                        self._writer.executemany(sql, rows)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _check_format(self) -> None:
        try:
            found = self.settings().get("format")
        except (Corrupt, StoreFailure) as err:
            raise InvalidArgument(f"{self.path.parent}: not a store of rbdfs: {err}") from err
        if found != FORMAT:
            raise NotSupported(f"{self.path.parent}: store format {found}; this rbdfs knows format {FORMAT}")

    @contextmanager
    def _translated(self, act: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as err:
            raise self._failure(act, err) from err

    def _failure(self, act: str, err: sqlite3.Error) -> Exception:
        code = getattr(err, "sqlite_errorcode", 0) & 0xFF
        kind = {
            sqlite3.SQLITE_FULL: NoSpace,
            sqlite3.SQLITE_CORRUPT: Corrupt,
            sqlite3.SQLITE_NOTADB: Corrupt,
        }.get(code, StoreFailure)
        return kind(f"{self.path}: {act}: {err}")


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    # The writer moves between threads, but is used by one at a time.
    address = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA mmap_size = 0")
    return connection
