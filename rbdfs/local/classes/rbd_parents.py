"""Class `rbd` on parents and children: in a header object, and in rbd_children, where clones of version 1 are noted."""

import errno
from dataclasses import replace

from rbdfs.cls.rbd_types import NO_SNAP, ChildImageSpec, Feature, OpFeature, ParentImageSpec, SnapKind
from rbdfs.local.classes.context import MethodContext
from rbdfs.local.classes.rbd_header import change_op_features, has_feature, require_feature
from rbdfs.local.classes.stored import (
    PARENT,
    StoredParent,
    read_parent,
    read_snapshot,
    read_snapshots,
    write_parent,
    write_snapshot,
)
from rbdfs.local.classes.support import (
    Optional,
    Registry,
    failure,
    find_key,
    has_key,
    read_key,
    require_exists,
    write_key,
)
from rbdfs.wire import U64, encode_values

_REGISTRY = Registry("rbd")
METHODS = _REGISTRY.methods


@_REGISTRY.reads("parent_get")
def _parent_get(context: MethodContext) -> bytes:
    parent = StoredParent()
    if has_feature(context, Feature.LAYERING):
        if has_key(context, PARENT):
            parent = read_parent(context)
        else:
            for snap in read_snapshots(context):  # an OSD before Nautilus stored the parent in each snapshot
                if snap.parent.spec.exists():
                    parent = snap.parent
    return parent.spec.to_bytes()


@_REGISTRY.reads("parent_overlap_get", U64)
def _parent_overlap_get(context: MethodContext, snap_id: int) -> bytes:
    overlap = None
    if has_feature(context, Feature.LAYERING):
        if snap_id == NO_SNAP:
            overlap = read_parent(context).head_overlap
        else:
            snap = read_snapshot(context, snap_id)
            overlap = snap.parent_overlap
            if overlap is None and snap.parent.spec.exists():
                overlap = snap.parent.head_overlap
    return encode_values((U64 | None, overlap))


@_REGISTRY.writes("parent_attach", ParentImageSpec, U64, Optional(bool, False))
def _parent_attach(context: MethodContext, spec: ParentImageSpec, overlap: int, reattach: bool) -> None:
    require_exists(context)
    require_feature(context, Feature.LAYERING)
    if not spec.exists() or not overlap:
        raise failure(context, errno.EINVAL, "this is no parent")
    if has_key(context, PARENT) and not reattach:
        existing = read_parent(context)
        if existing.head_overlap is not None or existing.spec != spec:
            raise failure(context, errno.EEXIST, "the image has a parent")
    write_parent(context, StoredParent(spec, min(overlap, read_key(context, "size", U64))))


@_REGISTRY.writes("parent_detach")
def _parent_detach(context: MethodContext) -> None:
    require_exists(context)
    require_feature(context, Feature.LAYERING)
    parent: StoredParent = read_key(context, PARENT, StoredParent)
    if parent.head_overlap is None:
        raise failure(context, errno.ENOENT, "the image has no parent")
    children = [snap for snap in read_snapshots(context) if snap.has_parent]
    if has_feature(context, Feature.DEEP_FLATTEN):
        for snap in children:
            write_snapshot(context, replace(snap, parent=StoredParent(), parent_overlap=None))
        children = []
    if children:
        write_parent(context, replace(parent, head_overlap=None))  # the snapshots still show it
    else:
        context.omap_remove(PARENT)
        change_op_features(context, 0, OpFeature.CLONE_CHILD)


def _children_key(snap_id: int) -> str:
    return f"snap_children_{snap_id:016x}"


def _read_children(context: MethodContext, snap_id: int) -> list[ChildImageSpec]:
    children: list[ChildImageSpec] = find_key(context, _children_key(snap_id), list[ChildImageSpec], [])
    return children


@_REGISTRY.writes("child_attach", U64, ChildImageSpec)
def _child_attach(context: MethodContext, snap_id: int, child: ChildImageSpec) -> None:
    snap = read_snapshot(context, snap_id)
    if snap.namespace.kind == SnapKind.TRASH:
        raise failure(context, errno.ENOENT, f"snapshot {snap.name} is in the trash")
    children = _read_children(context, snap_id)
    if child in children:
        raise failure(context, errno.EEXIST, f"image {child.image_id} is a child already")
    children = sorted([*children, child], key=ChildImageSpec.sort_key)
    write_key(context, _children_key(snap_id), list[ChildImageSpec], children)
    write_snapshot(context, replace(snap, child_count=snap.child_count + 1))
    change_op_features(context, OpFeature.CLONE_PARENT, OpFeature.CLONE_PARENT)


@_REGISTRY.writes("child_detach", U64, ChildImageSpec)
def _child_detach(context: MethodContext, snap_id: int, child: ChildImageSpec) -> None:
    snap = read_snapshot(context, snap_id)
    children = _read_children(context, snap_id)
    if snap.child_count != len(children):
        raise failure(context, errno.EINVAL, f"snapshot {snap.name} counts {snap.child_count} children")
    if child not in children:
        raise failure(context, errno.ENOENT, f"image {child.image_id} is no child")
    children.remove(child)
    if children:
        write_key(context, _children_key(snap_id), list[ChildImageSpec], children)
    else:
        context.omap_remove(_children_key(snap_id))
    write_snapshot(context, replace(snap, child_count=snap.child_count - 1))
    if not any(other.child_count for other in read_snapshots(context)):
        change_op_features(context, 0, OpFeature.CLONE_PARENT)


@_REGISTRY.reads("children_list", U64)
def _children_list(context: MethodContext, snap_id: int) -> bytes:
    read_snapshot(context, snap_id)
    return context.omap_get(_children_key(snap_id))


# rbd_children: (pool, image, snapshot) of the parent -> the ids of its clones in this pool


def _v1_key(pool_id: int, image_id: str, snap_id: int) -> str:
    return encode_values((U64, pool_id), (str, image_id), (U64, snap_id)).decode("utf-8", "surrogateescape")


@_REGISTRY.writes("add_child", U64, str, U64, str)
def _add_child(context: MethodContext, pool_id: int, image_id: str, snap_id: int, child_id: str) -> None:
    key = _v1_key(pool_id, image_id, snap_id)
    children = find_key(context, key, set[str], set())
    if child_id in children:
        raise failure(context, errno.EEXIST, f"image {child_id} is a child already")
    write_key(context, key, set[str], children | {child_id})


@_REGISTRY.writes("remove_child", U64, str, U64, str)
def _remove_child(context: MethodContext, pool_id: int, image_id: str, snap_id: int, child_id: str) -> None:
    key = _v1_key(pool_id, image_id, snap_id)
    children = read_key(context, key, set[str])
    if child_id not in children:
        raise failure(context, errno.ENOENT, f"image {child_id} is no child")
    if children == {child_id}:
        context.omap_remove(key)
    else:
        write_key(context, key, set[str], children - {child_id})


@_REGISTRY.reads("get_children", U64, str, U64)
def _get_children(context: MethodContext, pool_id: int, image_id: str, snap_id: int) -> bytes:
    return encode_values((set[str], read_key(context, _v1_key(pool_id, image_id, snap_id), set[str])))
