"""The metadata changes between two commits, as rows: what goes into one SQLite transaction.

A batch is made in the event loop, in one piece, and written by a thread; it shares nothing with what changes meanwhile.
An object appears in it at most once, so the lists need no order among themselves but deletions first.
"""

from dataclasses import dataclass, field, fields
from typing import Any

Row = tuple[Any, ...]

# Carried out in this order.
STATEMENTS = {
    "delete_objects": "DELETE FROM object WHERE id = ?",
    "delete_clones": "DELETE FROM clone WHERE object = ?",
    "delete_snaps": "DELETE FROM snapmap WHERE object = ?",
    "delete_omaps": "DELETE FROM omap WHERE object = ? AND clone = ?",
    "delete_pairs": "DELETE FROM omap WHERE object = ? AND clone = ? AND key = ?",
    "delete_pools": "DELETE FROM pool WHERE id = ?",
    "delete_removed": "DELETE FROM removed_snap WHERE pool = ?",
    "delete_families": "DELETE FROM family WHERE pool = ? AND namespace = ? AND prefix = ?",
    "objects": "INSERT OR REPLACE INTO object VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
    "clones": "INSERT OR REPLACE INTO clone VALUES (?,?,?,?,?,?,?,?,?,?)",
    "snaps": "INSERT OR REPLACE INTO snapmap VALUES (?,?,?)",
    "pairs": "INSERT OR REPLACE INTO omap VALUES (?,?,?,?)",
    "pages": "INSERT OR REPLACE INTO page VALUES (?,?,?)",
    "pools": "INSERT OR REPLACE INTO pool VALUES (?,?,?,?,?)",
    "families": "INSERT OR REPLACE INTO family VALUES (?,?,?,?)",
    "removed": "INSERT OR IGNORE INTO removed_snap VALUES (?,?)",
    "blocklist": "INSERT OR REPLACE INTO blocklist VALUES (?,?)",
    "settings": "INSERT OR REPLACE INTO store VALUES (?,?)",
}


@dataclass(slots=True)
class Batch:
    """Rows per statement; see `STATEMENTS`."""

    delete_objects: list[Row] = field(default_factory=list)
    delete_clones: list[Row] = field(default_factory=list)
    delete_snaps: list[Row] = field(default_factory=list)
    delete_omaps: list[Row] = field(default_factory=list)
    delete_pairs: list[Row] = field(default_factory=list)
    delete_pools: list[Row] = field(default_factory=list)
    delete_removed: list[Row] = field(default_factory=list)
    delete_families: list[Row] = field(default_factory=list)
    objects: list[Row] = field(default_factory=list)
    clones: list[Row] = field(default_factory=list)
    snaps: list[Row] = field(default_factory=list)
    pairs: list[Row] = field(default_factory=list)
    pages: list[Row] = field(default_factory=list)
    pools: list[Row] = field(default_factory=list)
    families: list[Row] = field(default_factory=list)
    removed: list[Row] = field(default_factory=list)
    blocklist: list[Row] = field(default_factory=list)
    settings: list[Row] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))


assert list(STATEMENTS) == [each.name for each in fields(Batch)]
