"""Class `rbd` on a header object: snapshots, their protection and their limit."""

import errno
import uuid
from dataclasses import replace

from rbdfs.cls.rbd_types import (
    MAX_SNAP_ID,
    NO_SNAP,
    UNLIMITED,
    USER,
    Feature,
    OpFeature,
    Protection,
    SnapKind,
    SnapNamespace,
    SnapshotInfo,
    TrashSnapContent,
)
from rbdfs.entities import UTime
from rbdfs.local.classes.context import MethodContext
from rbdfs.local.classes.rbd_header import change_op_features, require_feature
from rbdfs.local.classes.stored import (
    PARENT,
    SNAPSHOT_PREFIX,
    StoredSnapshot,
    read_parent,
    read_snapshot,
    read_snapshots,
    snapshot_key,
    write_snapshot,
)
from rbdfs.local.classes.support import (
    Optional,
    Registry,
    failure,
    find_key,
    list_keys,
    read_key,
    require_exists,
    write_key,
)
from rbdfs.wire import U8, U64, encode_values

_REGISTRY = Registry("rbd")
METHODS = _REGISTRY.methods

_SNAP_LIMIT = "snap_limit"


def _require_snapshot(context: MethodContext, snap_id: int) -> None:
    if snap_id == NO_SNAP:
        raise failure(context, errno.EINVAL, "this is no snapshot")


@_REGISTRY.reads("get_snapcontext")
def _get_snapcontext(context: MethodContext) -> bytes:
    ids = [int(key, 16) for key in list_keys(context, SNAPSHOT_PREFIX)]
    return encode_values((U64, read_key(context, "snap_seq", U64)), (list[U64], ids[::-1]))


@_REGISTRY.reads("snapshot_get", U64)
def _snapshot_get(context: MethodContext, snap_id: int) -> bytes:
    _require_snapshot(context, snap_id)
    snap = read_snapshot(context, snap_id)
    info = SnapshotInfo(snap.id, snap.namespace, snap.name, snap.image_size, snap.timestamp, snap.child_count)
    return info.to_bytes()


@_REGISTRY.reads("get_snapshot_name", U64)
def _get_snapshot_name(context: MethodContext, snap_id: int) -> bytes:
    _require_snapshot(context, snap_id)
    return encode_values((str, read_snapshot(context, snap_id).name))


@_REGISTRY.reads("get_snapshot_timestamp", U64)
def _get_snapshot_timestamp(context: MethodContext, snap_id: int) -> bytes:
    _require_snapshot(context, snap_id)
    return encode_values((UTime, read_snapshot(context, snap_id).timestamp))


@_REGISTRY.writes("snapshot_add", str, U64, Optional(SnapNamespace, USER))
def _snapshot_add(context: MethodContext, name: str, snap_id: int, namespace: SnapNamespace) -> None:
    if namespace.kind > max(SnapKind) or snap_id > MAX_SNAP_ID:
        raise failure(context, errno.EINVAL, "this is no snapshot")
    if snap_id < read_key(context, "snap_seq", U64):
        raise failure(context, errno.ESTALE, f"snapshot id {snap_id} is older than the image knows")
    existing = read_snapshots(context)
    limit = find_key(context, _SNAP_LIMIT, U64, UNLIMITED)
    for count, other in enumerate(existing, 1):
        if count >= limit:
            raise failure(context, errno.EDQUOT, f"the image may have {limit} snapshots")
        if other.id == snap_id or (other.name == name and other.namespace == namespace):
            raise failure(context, errno.EEXIST, f"snapshot {name} exists")
    parent = read_parent(context)
    snap = StoredSnapshot(
        snap_id,
        name,
        read_key(context, "size", U64),
        flags=find_key(context, "flags", U64, 0),
        namespace=namespace,
        timestamp=UTime.from_ns(context.now),
        parent=parent,
    )
    if namespace.kind == SnapKind.TRASH:
        change_op_features(context, OpFeature.SNAP_TRASH, OpFeature.SNAP_TRASH)
    write_key(context, "snap_seq", U64, snap_id)
    write_snapshot(context, snap)


@_REGISTRY.writes("snapshot_rename", U64, str)
def _snapshot_rename(context: MethodContext, snap_id: int, name: str) -> None:
    for other in read_snapshots(context):
        if other.namespace.kind == SnapKind.USER and other.name == name:
            raise failure(context, errno.EEXIST, f"snapshot {name} exists")
    snap = read_snapshot(context, snap_id)
    if snap.namespace.kind != SnapKind.USER:
        raise failure(context, errno.EINVAL, "only a user's snapshot can be renamed")
    write_snapshot(context, replace(snap, name=name))


@_REGISTRY.writes("snapshot_remove", U64)
def _snapshot_remove(context: MethodContext, snap_id: int) -> None:
    snap = read_snapshot(context, snap_id)
    if snap.protection != Protection.UNPROTECTED:
        raise failure(context, errno.EBUSY, f"snapshot {snap.name} is protected")
    if snap.child_count:
        raise failure(context, errno.EBUSY, f"snapshot {snap.name} has children")
    context.omap_remove(snapshot_key(snap_id))
    others = [other for other in read_snapshots(context) if other.id != snap_id]
    parent = read_parent(context)
    snaps_have_parent = any(other.has_parent for other in others)
    head_has_parent = parent.spec.exists() and parent.head_overlap is not None
    if parent.spec.exists() and not head_has_parent and not snaps_have_parent:
        context.omap_remove(PARENT)
    unused = 0
    if not snaps_have_parent and not head_has_parent:
        unused |= OpFeature.CLONE_CHILD
    if not any(other.namespace.kind == SnapKind.TRASH for other in others):
        unused |= OpFeature.SNAP_TRASH
    if unused:
        change_op_features(context, 0, unused)


@_REGISTRY.writes("snapshot_trash_add", U64)
def _snapshot_trash_add(context: MethodContext, snap_id: int) -> None:
    snap = read_snapshot(context, snap_id)
    if snap.protection != Protection.UNPROTECTED:
        raise failure(context, errno.EBUSY, f"snapshot {snap.name} is protected")
    if snap.namespace.kind == SnapKind.TRASH:
        raise failure(context, errno.EEXIST, f"snapshot {snap.name} is in the trash")
    change_op_features(context, OpFeature.SNAP_TRASH, OpFeature.SNAP_TRASH)
    namespace = SnapNamespace(SnapKind.TRASH, TrashSnapContent(snap.name, snap.namespace.kind).to_bytes())
    write_snapshot(context, replace(snap, namespace=namespace, name=str(uuid.uuid4())))


@_REGISTRY.reads("get_protection_status", U64)
def _get_protection_status(context: MethodContext, snap_id: int) -> bytes:
    _require_snapshot(context, snap_id)
    snap = read_snapshot(context, snap_id)
    if snap.protection > max(Protection):
        raise failure(context, errno.EIO, f"snapshot {snap.name} has protection {snap.protection}")
    return encode_values((U8, snap.protection))


@_REGISTRY.writes("set_protection_status", U64, U8)
def _set_protection_status(context: MethodContext, snap_id: int, status: int) -> None:
    require_exists(context)
    require_feature(context, Feature.LAYERING)
    _require_snapshot(context, snap_id)
    if status > max(Protection):
        raise failure(context, errno.EINVAL, f"there is no protection {status}")
    write_snapshot(context, replace(read_snapshot(context, snap_id), protection=status))


@_REGISTRY.reads("snapshot_get_limit")
def _snapshot_get_limit(context: MethodContext) -> bytes:
    return encode_values((U64, find_key(context, _SNAP_LIMIT, U64, UNLIMITED)))


@_REGISTRY.writes("snapshot_set_limit", U64)
def _snapshot_set_limit(context: MethodContext, limit: int) -> None:
    if limit == UNLIMITED:
        require_exists(context)
        context.omap_remove(_SNAP_LIMIT)
        return
    if limit < len(list_keys(context, SNAPSHOT_PREFIX)):
        raise failure(context, errno.ERANGE, "the image has more snapshots already")
    write_key(context, _SNAP_LIMIT, U64, limit)
