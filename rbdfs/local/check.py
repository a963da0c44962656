"""Verifying a store: every reference counted, every count referred to, nothing outside the file, all metadata readable.

A store that nobody has open is read as it lies there, whatever way it was left; one that a process owns is checked by
that process, beside its work, after a flush (`cluster.check_store` sees to it). Nothing is repaired.
"""

import sqlite3
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import trio

from rbdfs.errors import Corrupt, RbdfsError
from rbdfs.local import absentees, store
from rbdfs.local.blocks import BLOCK_BITS, BLOCK_SIZE, CHUNK, PAGE, PAGE_BITS, block_array
from rbdfs.local.database import HEAD_ROW, Database
from rbdfs.local.media import Media
from rbdfs.local.objects import loaded_ids
from rbdfs.local.omap import decode_key
from rbdfs.local.pools import family_of

_PLENTY = 1000  # findings; more would not help anybody

# What SQLite may hold in each column of `database`: it does not see to that itself.
_INTEGER, _BLOB, _TEXT, _MAYBE = ("integer",), ("blob",), ("text",), ("null",)
_STATE = {
    "size": _INTEGER + _MAYBE,
    "mtime": _INTEGER + _MAYBE,
    "blocks": _BLOB + _MAYBE,
    "xattrs": _BLOB + _MAYBE,
    "omap_header": _BLOB + _MAYBE,
    "has_omap": _INTEGER + _MAYBE,
}
_TYPES: dict[str, dict[str, tuple[str, ...]]] = {
    "pool": {"name": _TEXT, "snap_seq": _INTEGER, "used": _INTEGER, "objects": _INTEGER},
    "object": {
        "pool": _INTEGER,
        "namespace": _BLOB,
        "name": _BLOB,
        "version": _INTEGER,
        "snap_seq": _INTEGER,
        "boot": _INTEGER,
        **_STATE,
    },
    "clone": {"object": _INTEGER, "clone": _INTEGER, "snaps": _BLOB, "version": _INTEGER, **_STATE},
    "snapmap": {"pool": _INTEGER, "snap": _INTEGER, "object": _INTEGER},
    "omap": {"object": _INTEGER, "clone": _INTEGER, "key": _BLOB, "value": _BLOB},
    "page": {"free": _BLOB, "counts": _BLOB},
    "family": {"pool": _INTEGER, "namespace": _BLOB, "prefix": _BLOB, "blocks": _INTEGER},
    "removed_snap": {"pool": _INTEGER, "snap": _INTEGER},
    "blocklist": {"address": _TEXT, "until": _INTEGER},
}
_SETTINGS = ("boots", "clean", "last_unclean", "block_size")


@dataclass
class CheckReport:
    """What a check has seen, and what it has found wrong."""

    findings: list[str] = field(default_factory=list)
    pools: int = 0
    objects: int = 0
    clones: int = 0
    blocks: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


async def check_files(path: Path) -> CheckReport:
    """Check the files of a store; whoever has it open must have flushed, and may go on working."""
    return await trio.to_thread.run_sync(_check_files, path)  # reads everything: not in the event loop


def _check_files(path: Path) -> CheckReport:
    report = CheckReport()
    try:
        with closing(Database(path / store.METADATA)) as database:
            settings = database.settings()
            with closing(store.open_media(path, str(settings.get("fsid")), read_only=True)) as media:
                database.rows("BEGIN")  # one state of it all, whatever is committed meanwhile
                database.settings()  # begins here; the file only grows
                _Check(database, report, media.size).run()
                if settings.get("clean") and report.is_clean:
                    _check_free_blocks(database, media, report)
    except (RbdfsError, sqlite3.Error) as err:
        report.findings.append(str(err))
    return report


def _check_free_blocks(database: Database, media: Media, report: CheckReport) -> None:
    content = bytearray(BLOCK_SIZE)
    for number, counts in database.rows("SELECT number, counts FROM page ORDER BY number"):
        page = block_array(counts)
        start = number << PAGE_BITS
        for offset, length in media.data_ranges(start << BLOCK_BITS, min(start + PAGE << BLOCK_BITS, media.size)):
            for block in range(offset >> BLOCK_BITS, (offset + length - 1 >> BLOCK_BITS) + 1):
                if not page[block - start]:
                    media.read(block << BLOCK_BITS, content)
                    if any(content):
                        report.findings.append(f"block {block}: free, but not empty")
    (end,) = database.rows("SELECT ifnull(max(number) + 1, 0) FROM page")[0]
    for offset, length in media.data_ranges(end << PAGE_BITS << BLOCK_BITS, media.size):
        for block in range(offset >> BLOCK_BITS, (offset + length - 1 >> BLOCK_BITS) + 1):
            media.read(block << BLOCK_BITS, content)
            if block and any(content):
                report.findings.append(f"block {block}: behind all that is counted, but not empty")


class _Check:
    """One run over the tables of a store."""

    def __init__(self, database: Database, report: CheckReport, file_size: int) -> None:
        self._database = database
        self._report = report
        self._end = file_size >> BLOCK_BITS
        self._references: dict[int, array[int]] = {}
        self._used: Counter[int] = Counter()  # per pool
        self._heads: Counter[int] = Counter()  # per pool
        self._families: Counter[tuple[int, bytes, bytes]] = Counter()
        self._snaps: set[tuple[int, int, int]] = set()

    def run(self) -> None:
        for (verdict,) in self._database.rows("PRAGMA integrity_check(10)"):
            if verdict != "ok":
                self._found(f"metadata: {verdict}")
        self._check_types()
        self._refer(0, 1, "the file's header")
        for check in (
            self._check_settings,
            self._check_objects,
            self._check_clones,
            self._check_omaps,
            self._check_counts,
            self._check_sums,
            self._check_snap_ids,
        ):
            try:
                check()
            except Exception as err:  # values of a kind that was found before, mostly: on with the rest
                self._found(f"metadata: cannot be read on: {err}")

    def _check_types(self) -> None:
        for table, columns in _TYPES.items():
            for column, kinds in columns.items():
                among = ", ".join(f"'{kind}'" for kind in kinds)
                for (count,) in self._each(f"SELECT count(*) FROM {table} WHERE typeof({column}) NOT IN ({among})"):
                    if count:
                        self._found(f"metadata: {count} rows of {table} have a {column} that cannot be")

    def _check_settings(self) -> None:
        settings = self._database.settings()
        for key in _SETTINGS:
            if not isinstance(settings.get(key), int):
                self._found(f"metadata: setting {key} is {settings.get(key)!r}")
        try:
            absentees.unpack(settings.get("watches"))
        except Corrupt as err:
            self._found(str(err))
        if settings.get("block_size") != BLOCK_SIZE:
            self._found(f"metadata: blocks of {settings.get('block_size')} bytes")

    def _check_snap_ids(self) -> None:
        """No snap id that is in use, or was, may be given again."""
        known = "SELECT pool, snap FROM snapmap UNION SELECT pool, snap FROM removed_snap"
        newest_ids = f"SELECT pool AS number, max(snap) AS newest FROM ({known}) GROUP BY pool"
        for name, seq, newest in self._each(
            f"SELECT name, snap_seq, newest FROM pool JOIN ({newest_ids}) ON number = id WHERE newest > snap_seq"
        ):
            self._found(f"pool {name}: snapshot {newest} was made, and {seq} counts as the newest")

    def _found(self, finding: str) -> None:
        if len(self._report.findings) < _PLENTY:
            self._report.findings.append(finding)
        elif len(self._report.findings) == _PLENTY:
            self._report.findings.append("and more")

    def _check_objects(self) -> None:
        pools = {number for (number,) in self._each("SELECT id FROM pool")}
        self._report.pools = len(pools)
        columns = "pool, namespace, name, version, snap_seq, size, blocks, xattrs, has_omap"
        for pool, namespace, name, version, snap_seq, size, blocks, xattrs, has_omap in self._each(
            f"SELECT {columns} FROM object"
        ):
            what = f"object {pool}/{decode_key(name)}"
            if pool not in pools:
                self._found(f"{what}: its pool does not exist")
            if not isinstance(version, int) or not isinstance(snap_seq, int):
                self._found(f"{what}: unreadable metadata")
            if size is None:
                if blocks or has_omap:
                    self._found(f"{what}: has no head, but what belongs to one")
                continue
            self._report.objects += 1
            self._heads[pool] += 1
            allocated = self._check_state(what, pool, size, blocks, xattrs)
            if allocated:
                self._families[pool, namespace, family_of(decode_key(name)).encode("utf-8", "surrogateescape")] += (
                    allocated
                )

    def _check_clones(self) -> None:
        rows = self._each(
            "SELECT object, clone, snaps, clone.size, clone.blocks, clone.xattrs, pool, name, object.snap_seq"
            " FROM clone LEFT JOIN object ON object.id = clone.object ORDER BY object, clone"
        )
        for row_id, clone, snaps, size, blocks, xattrs, pool, name, snap_seq in rows:
            if pool is None:
                self._found(f"clone {clone} of object row {row_id}: its object does not exist")
                pool, name, snap_seq = -1, b"?", clone
            what = f"object {pool}/{decode_key(name)}, clone {clone}"
            self._report.clones += 1
            self._check_state(what, pool, size, blocks, xattrs)
            try:
                ids = loaded_ids(snaps)
            except Exception:
                self._found(f"{what}: unreadable snapshot ids")
                continue
            if not ids or list(ids) != sorted(set(ids)) or ids[-1] > clone or clone > snap_seq:
                self._found(f"{what}: its snapshots {ids} and the context {snap_seq} do not fit")
            self._snaps.update((pool, snap, row_id) for snap in ids)
        stored = set(self._each("SELECT pool, snap, object FROM snapmap"))
        for pool, snap, row_id in sorted(self._snaps ^ stored):
            self._found(f"snapshot {snap} of pool {pool}: object row {row_id} is not listed as it should be")

    def _check_state(self, what: str, pool: int, size: Any, blocks: Any, xattrs: Any) -> int:
        """Check one state and refer to its blocks; gives how many it has."""
        try:
            numbers = block_array(blocks)
            if xattrs is not None and not isinstance(msgpack.unpackb(xattrs, unicode_errors="surrogateescape"), dict):
                raise ValueError("attributes")
            if size < 0:
                raise ValueError("size")
        except Exception:
            self._found(f"{what}: unreadable metadata")
            return 0
        if len(numbers) > size + BLOCK_SIZE - 1 >> BLOCK_BITS:
            self._found(f"{what}: has blocks behind its end at {size}")
        for block in numbers:
            if block and self._refer(block, 1, what) == 1:
                self._used[pool] += 1
        return len(numbers) - numbers.count(0)

    def _refer(self, block: int, times: int, what: str) -> int:
        page = self._references.get(block >> PAGE_BITS)
        if page is None:
            page = self._references[block >> PAGE_BITS] = block_array(bytes(4 * PAGE))
        page[block % PAGE] += times
        if block >= self._end:
            self._found(f"{what}: block {block} is outside the data file")
        if block == 0 and page[0] > 1:
            self._found(f"{what}: refers to the file's header")
        return page[block % PAGE]

    def _check_omaps(self) -> None:
        holders = {(row_id, HEAD_ROW) for (row_id,) in self._each("SELECT id FROM object WHERE has_omap")}
        holders |= set(self._each("SELECT object, clone FROM clone WHERE has_omap"))
        stored = set(self._each("SELECT DISTINCT object, clone FROM omap"))
        for row_id, clone in sorted(stored - holders):
            self._found(f"omap of object row {row_id}, state {clone}: nobody has it")
        for row_id, clone in sorted(holders - stored):
            self._found(f"omap of object row {row_id}, state {clone}: missing")

    def _check_counts(self) -> None:
        seen = set()
        for number, free, stored in self._each("SELECT number, free, counts FROM page ORDER BY number"):
            seen.add(number)
            if len(stored) != 4 * PAGE:
                self._found(f"page {number} of the block counts: unreadable")
                continue
            counts = block_array(stored)
            if bytes(counts[start : start + CHUNK].count(0) for start in range(0, PAGE, CHUNK)) != free:
                self._found(f"page {number} of the block counts: its free blocks are miscounted")
            references = self._references.get(number) or block_array(bytes(4 * PAGE))
            self._report.blocks += PAGE - counts.count(0)
            if counts != references:
                self._compare(number << PAGE_BITS, counts, references)
        for number in sorted(self._references.keys() - seen):
            self._found(f"page {number} of the block counts: missing, though its blocks are in use")

    def _compare(self, first: int, counts: "array[int]", references: "array[int]") -> None:
        for index, (count, wanted) in enumerate(zip(counts, references, strict=True)):
            if count and not wanted:
                self._found(f"block {first + index}: leaked, counted {count} times and referred to by nothing")
            elif count < wanted:
                self._found(f"block {first + index}: overlap, {wanted} states refer to it and {count} are counted")
            elif count > wanted:
                self._found(f"block {first + index}: counted {count} times, {wanted} states refer to it")

    def _check_sums(self) -> None:
        for number, name, used, objects in self._each("SELECT id, name, used, objects FROM pool"):
            if used != self._used[number]:
                self._found(f"pool {name}: {self._used[number]} blocks in use, {used} counted")
            if objects != self._heads[number]:
                self._found(f"pool {name}: {self._heads[number]} objects, {objects} counted")
        stored = {
            (pool, namespace, prefix): blocks
            for pool, namespace, prefix, blocks in self._each("SELECT pool, namespace, prefix, blocks FROM family")
        }
        for key in stored.keys() | self._families.keys():
            if stored.get(key, 0) != self._families[key]:
                self._found(f"objects {key[2]!r}: {self._families[key]} blocks, {stored.get(key, 0)} counted")

    def _each(self, sql: str) -> Iterator[Any]:
        try:
            yield from self._database.cursor(sql)
        except sqlite3.Error as err:
            self._found(f"metadata: {err}")
