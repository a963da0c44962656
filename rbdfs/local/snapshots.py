"""Self-managed snapshots of objects, by the rules of an OSD (`PrimaryLogPG::make_writeable`, `find_object_context`).

A write says by its snap context which snapshots exist. Where there are some that the object has not seen, its head is
kept as a clone for them before it changes. A snapshot's reader finds the oldest clone that is not older than the
snapshot; where the object has seen no newer context, that is the head.
"""

from rbdfs.errors import NotFound
from rbdfs.local import extents
from rbdfs.local.blocks import Blocks
from rbdfs.local.objects import Clone, State, StoredObject
from rbdfs.rados.ops import HEAD, CloneInfo, SnapContext, SnapId


def snaps_to_keep(obj: StoredObject, snapc: SnapContext, removed: set[int]) -> tuple[SnapId, ...]:
    """The snapshots (oldest first) for which the head must be kept before a write under this context."""
    if obj.head is None or snapc.seq <= obj.snap_seq:
        return ()
    return tuple(sorted(snap for snap in snapc.snaps if snap > obj.snap_seq and snap not in removed))


def keep_head(obj: StoredObject, snapc: SnapContext, snaps: tuple[SnapId, ...], ledger: Blocks) -> None:
    """Keep the head as a clone for these snapshots; its omap, if it has one, must be loaded."""
    head = obj.head
    assert head is not None
    state = State()
    state.size, state.mtime, state.xattrs = head.size, head.mtime, head.xattrs
    state.omap_header, state.has_omap = head.omap_header, head.has_omap
    state.blocks = head.blocks[:]
    state.omap = head.omap.copy() if head.omap is not None and head.has_omap else None
    for block in state.blocks:
        if block:
            ledger.retain(block)
    obj.clones.append(Clone(SnapId(snapc.seq), snaps, obj.version, state))
    obj.clones_changed = True


def find(obj: StoredObject, snap_id: SnapId) -> tuple[State | None, int]:
    """The state that a snapshot (or HEAD) sees, None where the object did not exist, and its version."""
    if snap_id == HEAD or snap_id > obj.snap_seq:
        return obj.head, obj.version
    for clone in obj.clones:
        if clone.clone_id >= snap_id:
            return (clone.state, clone.version) if snap_id in clone.snaps else (None, 0)
    return None, 0


def list_states(obj: StoredObject) -> list[CloneInfo]:
    """The clones, oldest first, and the head."""
    if obj.is_absent:
        raise NotFound(f"{obj.key.name}: no such object")
    found = []
    for index, clone in enumerate(obj.clones):
        newer = obj.clones[index + 1].state if index + 1 < len(obj.clones) else obj.head
        overlap = () if newer is None else extents.shared(clone.state, newer)
        found.append(CloneInfo(clone.clone_id, clone.snaps, clone.state.size, overlap))
    if obj.head is not None:
        found.append(CloneInfo(HEAD, (), obj.head.size, ()))
    return found


def trim(obj: StoredObject, snap_id: SnapId) -> list[State]:
    """Take a removed snapshot from the object's clones; gives the states that nobody sees any more."""
    gone = []
    for clone in obj.clones[:]:
        if snap_id not in clone.snaps:
            continue
        obj.clones_changed = True
        clone.snaps = tuple(snap for snap in clone.snaps if snap != snap_id)
        if not clone.snaps:
            obj.clones.remove(clone)
            obj.dropped_clones.append(clone.clone_id)
            gone.append(clone.state)
    return gone
