"""Objects as the engine holds them in memory: the head and its clones, loaded together, kept while they fit.

An object that does not exist is held too, as an absent one, so that reading a hole of an image costs no query twice.
What always holds: an object with changes that are not durable yet is in memory; whoever is not in memory is what the
database says.
"""

import struct
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack

from rbdfs.errors import Corrupt
from rbdfs.local.batch import Batch, Row
from rbdfs.local.blocks import block_array, stored_array
from rbdfs.local.database import HEAD_ROW, Database
from rbdfs.local.omap import Omap, decode_key, encode_key
from rbdfs.rados.ops import SnapId

_SNAP_ID = struct.Struct("<Q")


class ObjectKey(NamedTuple):
    """Which object."""

    pool: int
    namespace: str
    name: str


class State:
    """What an object is now or was once."""

    __slots__ = ("blocks", "copies", "has_omap", "mtime", "omap", "omap_header", "size", "xattrs")

    def __init__(self) -> None:
        self.size = 0
        self.mtime = 0
        self.blocks: array[int] = array("I")  # at an index the block of the data file, 0 for a hole
        self.copies = 0  # first block of the chunk that the last copy went to; at 0 there is none
        self.xattrs: dict[str, bytes] = {}  # replaced, never changed
        self.omap_header = b""
        self.has_omap = False
        self.omap: Omap | None = None  # None where not loaded, or where there is none

    @property
    def allocated(self) -> int:
        """How many blocks the state refers to."""
        return len(self.blocks) - self.blocks.count(0)

    @property
    def may_have_stored_omap(self) -> bool:
        """Whether rows of an omap may be stored for it: all that was in it may have been removed since."""
        return self.has_omap or self.omap is not None


class Clone:
    """A state that snapshots see."""

    __slots__ = ("clone_id", "snaps", "state", "version")

    def __init__(self, clone_id: SnapId, snaps: tuple[SnapId, ...], version: int, state: State) -> None:
        self.clone_id = clone_id
        self.snaps = snaps  # oldest first
        self.version = version
        self.state = state


class StoredObject:
    """An object, or that there is none."""

    __slots__ = (
        "clones",
        "clones_changed",
        "committing",
        "dirty",
        "dropped_clones",
        "head",
        "key",
        "omap_dropped",
        "row_id",
        "snap_seq",
        "touched",
        "used",
        "version",
        "waiting",
        "writing",
    )

    def __init__(self, key: ObjectKey) -> None:
        self.key = key
        self.row_id = 0  # 0: not in the database
        self.head: State | None = None
        self.clones: list[Clone] = []  # oldest first
        self.snap_seq = 0  # the newest snap context seen
        self.version = 0
        # How it stands to the database.
        self.dirty = False
        self.committing = 0  # commits under way that it is part of
        self.touched = False  # mtime and version differ from the stored ones: written when there is another reason
        self.clones_changed = False
        self.dropped_clones: list[SnapId] = []  # whose omap is still stored
        self.omap_dropped = False  # the omap of an earlier head is still stored
        # How it stands to the engine.
        self.waiting: deque[Callable[..., int | None]] | None = None  # ops, while one waits for the disk
        self.writing = 0  # overwrites that the writing thread has not reported yet
        self.used = True  # since the cache was last swept

    @property
    def is_absent(self) -> bool:
        """Whether there is neither a head nor a clone."""
        return self.head is None and not self.clones


def load(database: Database, key: ObjectKey) -> tuple[StoredObject, int]:
    """Read an object from the database (an absent one where there is none), and the boot that wrote it."""
    loaded = StoredObject(key)
    row = database.row(
        "SELECT id, version, snap_seq, boot, size, mtime, blocks, xattrs, omap_header, has_omap FROM object"
        " WHERE pool = ? AND namespace = ? AND name = ?",
        (key.pool, encode_key(key.namespace), encode_key(key.name)),
    )
    if row is None:
        return loaded, 0
    loaded.row_id, loaded.version, loaded.snap_seq, boot = row[:4]
    if row[4] is not None:
        loaded.head = _state(row[4:], key)
    if loaded.snap_seq or loaded.head is None:
        loaded.clones = [
            Clone(SnapId(clone), _snaps(snaps, key), version, _state(rest, key))
            for clone, snaps, version, *rest in database.rows(
                "SELECT clone, snaps, version, size, mtime, blocks, xattrs, omap_header, has_omap FROM clone"
                " WHERE object = ? ORDER BY clone",
                (loaded.row_id,),
            )
        ]
    return loaded, boot


def load_key(database: Database, row_id: int) -> ObjectKey | None:
    """Which object a row is about."""
    row = database.row("SELECT pool, namespace, name FROM object WHERE id = ?", (row_id,))
    return None if row is None else ObjectKey(row[0], decode_key(row[1]), decode_key(row[2]))


def load_omap(database: Database, obj: StoredObject, state: State) -> Omap:
    """The omap of a state of an object that has one."""
    clone = next((clone.clone_id for clone in obj.clones if clone.state is state), HEAD_ROW)
    rows = database.rows("SELECT key, value FROM omap WHERE object = ? AND clone = ?", (obj.row_id, clone))
    state.omap = Omap(dict(rows), is_new=False)
    return state.omap


def put(batch: Batch, obj: StoredObject, boot: int) -> None:
    """Put what changed of an object into a batch; its row id must be set."""
    row_id, key = obj.row_id, obj.key
    if obj.omap_dropped:
        batch.delete_omaps.append((row_id, HEAD_ROW))
        obj.omap_dropped = False
    batch.delete_omaps.extend((row_id, clone_id) for clone_id in obj.dropped_clones)
    obj.dropped_clones = []
    obj.touched = False
    if obj.clones_changed:
        batch.delete_clones.append((row_id,))
        batch.delete_snaps.append((row_id,))
        obj.clones_changed = False
        for clone in obj.clones:
            batch.clones.append(
                (row_id, clone.clone_id, stored_ids(clone.snaps), clone.version, *_state_row(clone.state))
            )
            batch.snaps.extend((key.pool, snap, row_id) for snap in clone.snaps)
            _put_omap(batch, row_id, clone.clone_id, clone.state)
    if obj.is_absent:
        batch.delete_objects.append((row_id,))
        return
    state = (None,) * 6 if obj.head is None else _state_row(obj.head)
    if obj.head is not None:
        _put_omap(batch, row_id, HEAD_ROW, obj.head)
    names = (encode_key(key.namespace), encode_key(key.name))
    batch.objects.append((row_id, key.pool, *names, obj.version, obj.snap_seq, boot, *state))


def _put_omap(batch: Batch, row_id: int, clone: int, state: State) -> None:
    omap = state.omap
    if omap is None or not (omap.changes or omap.is_new):
        return
    if omap.is_new:
        batch.delete_omaps.append((row_id, clone))
    for pair_key, value in omap.changes.items():
        if value is not None:
            batch.pairs.append((row_id, clone, pair_key, value))
        elif not omap.is_new:
            batch.delete_pairs.append((row_id, clone, pair_key))
    omap.changes = {}
    omap.is_new = False


def _state_row(state: State) -> Row:
    blocks = state.blocks
    while blocks and not blocks[-1]:
        blocks.pop()
    xattrs = msgpack.packb(state.xattrs, unicode_errors="surrogateescape") if state.xattrs else None
    return (state.size, state.mtime, stored_array(blocks), xattrs, state.omap_header, int(state.has_omap))


def _state(row: Sequence[Any], key: ObjectKey) -> State:
    state = State()
    try:
        size, mtime, blocks, xattrs, omap_header, has_omap = row
        state.size, state.mtime, state.omap_header, state.has_omap = int(size), int(mtime), omap_header, bool(has_omap)
        state.blocks = block_array(blocks)
        if xattrs is not None:
            state.xattrs = msgpack.unpackb(xattrs, unicode_errors="surrogateescape")
    except (TypeError, ValueError, msgpack.UnpackException) as err:
        raise Corrupt(f"object {key.name}: unreadable metadata: {err}") from err
    return state


def _snaps(stored: bytes, key: ObjectKey) -> tuple[SnapId, ...]:
    try:
        return loaded_ids(stored)
    except (TypeError, struct.error) as err:
        raise Corrupt(f"object {key.name}: unreadable snapshot ids: {err}") from err


def stored_ids(ids: tuple[SnapId, ...]) -> bytes:
    """Snap ids as they are stored."""
    return b"".join(map(_SNAP_ID.pack, ids))


def loaded_ids(stored: bytes) -> tuple[SnapId, ...]:
    """Stored snap ids."""
    return tuple(SnapId(snap_id) for (snap_id,) in _SNAP_ID.iter_unpack(stored))
