"""Class `rbd` on a header object: size, features, flags, timestamps, striping, metadata, group and migration.

| omap key                        | holds                                            |
|---------------------------------|--------------------------------------------------|
| size, order, features           | u64, u8, u64                                     |
| object_prefix                   | string                                           |
| snap_seq                        | u64: the newest snapshot id ever given           |
| create/access/modify_timestamp  | UTime                                            |
| flags, op_features              | u64; absent while 0                              |
| stripe_unit, stripe_count       | u64; absent without Feature.STRIPINGV2           |
| data_pool_id                    | s64; absent without Feature.DATA_POOL            |
| metadata_<key>                  | the value itself                                 |
| snapshot_<id>, parent, children | see `stored`, `rbd_snapshots`, `rbd_parents`     |
"""

import errno
from dataclasses import replace

from rbdfs.cls.rbd_types import (
    FEATURES_ALL,
    FEATURES_DISABLE_ONLY,
    FEATURES_INCOMPATIBLE,
    FEATURES_INTERNAL,
    FEATURES_MUTABLE,
    FEATURES_RW_INCOMPATIBLE,
    NO_SNAP,
    OP_FEATURES_ALL,
    Feature,
    GroupSpec,
)
from rbdfs.entities import UTime
from rbdfs.local.classes.context import MethodContext
from rbdfs.local.classes.stored import read_parent, read_snapshot, write_parent, write_snapshot
from rbdfs.local.classes.support import (
    Optional,
    Registry,
    failure,
    find_key,
    has_key,
    list_keys,
    read_key,
    require_exists,
    write_key,
)
from rbdfs.wire import S64, U8, U64, encode_values

_REGISTRY = Registry("rbd")
METHODS = _REGISTRY.methods

_METADATA = "metadata_"
_METADATA_PAGE = 64  # what an answer holds when the caller asks for 0


def require_feature(context: MethodContext, feature: Feature) -> None:
    """ENOEXEC unless the image has the feature."""
    if not has_feature(context, feature):
        raise failure(context, errno.ENOEXEC, f"the image lacks {feature.rbd_name}")


def has_feature(context: MethodContext, feature: Feature) -> bool:
    """Whether the image has the feature."""
    return bool(find_key(context, "features", U64, 0) & feature)


def change_op_features(context: MethodContext, op_features: int, mask: int) -> None:
    """Set or clear the OpFeature bits of the mask, and Feature.OPERATIONS with them."""
    features = read_key(context, "features", U64)
    old = find_key(context, "op_features", U64, 0)
    new = old & ~mask | op_features & mask
    if new == old:
        return
    if new:
        write_key(context, "op_features", U64, new)
        write_key(context, "features", U64, features | Feature.OPERATIONS)
    else:
        context.omap_remove("op_features")
        write_key(context, "features", U64, features & ~Feature.OPERATIONS)


@_REGISTRY.writes("create", U64, U8, U64, str, Optional(S64, -1))
def _create(
    context: MethodContext, size: int, order: int, features: int, object_prefix: str, data_pool_id: int
) -> None:
    if features & ~FEATURES_ALL:
        raise failure(context, errno.ENOSYS, f"features {features & ~FEATURES_ALL:#x} are unknown")
    if not object_prefix:
        raise failure(context, errno.EINVAL, "an object prefix is needed")
    if has_key(context, "object_prefix"):
        raise failure(context, errno.EEXIST, "the header exists")
    if features & Feature.OPERATIONS:
        raise failure(context, errno.EINVAL, "operations is an internal feature")
    if bool(features & Feature.DATA_POOL) != (data_pool_id != -1):
        raise failure(context, errno.EINVAL, "a data pool and the feature data-pool go together")
    now = encode_values((UTime, UTime.from_ns(context.now)))
    values = {
        "size": encode_values((U64, size)),
        "order": encode_values((U8, order)),
        "features": encode_values((U64, features)),
        "object_prefix": encode_values((str, object_prefix)),
        "snap_seq": encode_values((U64, 0)),
        "create_timestamp": now,
        "access_timestamp": now,
        "modify_timestamp": now,
    }
    if data_pool_id != -1:
        values["data_pool_id"] = encode_values((S64, data_pool_id))
    context.omap_set(values)


@_REGISTRY.reads("get_features", U64, Optional(bool, False))
def _get_features(context: MethodContext, _snap_id: int, read_only: bool) -> bytes:
    features = read_key(context, "features", U64)
    incompatible = features & (FEATURES_INCOMPATIBLE if read_only else FEATURES_RW_INCOMPATIBLE)
    return encode_values((U64, features), (U64, incompatible))


@_REGISTRY.writes("set_features", U64, U64)
def _set_features(context: MethodContext, features: int, mask: int) -> None:
    if mask & FEATURES_INTERNAL:
        raise failure(context, errno.EINVAL, "internal features cannot be changed")
    mask &= FEATURES_ALL
    if features & mask & ~FEATURES_MUTABLE or ~features & mask & ~(FEATURES_MUTABLE | FEATURES_DISABLE_ONLY):
        raise failure(context, errno.EINVAL, "these features cannot be changed")
    old = find_key(context, "features", U64, 0)
    write_key(context, "features", U64, old & ~mask | features & mask)


@_REGISTRY.reads("get_all_features")
def _get_all_features(_context: MethodContext) -> bytes:
    return encode_values((U64, FEATURES_ALL))


@_REGISTRY.reads("get_size", U64)
def _get_size(context: MethodContext, snap_id: int) -> bytes:
    order = read_key(context, "order", U8)
    size = read_key(context, "size", U64) if snap_id == NO_SNAP else read_snapshot(context, snap_id).image_size
    return encode_values((U8, order), (U64, size))


@_REGISTRY.writes("set_size", U64)
def _set_size(context: MethodContext, size: int) -> None:
    old = read_key(context, "size", U64)
    write_key(context, "size", U64, size)
    if size < old:
        parent = read_parent(context)
        if parent.spec.exists() and (parent.head_overlap or 0) > size:
            write_parent(context, replace(parent, head_overlap=size))


@_REGISTRY.reads("get_object_prefix")
def _get_object_prefix(context: MethodContext) -> bytes:
    return encode_values((str, read_key(context, "object_prefix", str)))


@_REGISTRY.reads("get_data_pool")
def _get_data_pool(context: MethodContext) -> bytes:
    return encode_values((S64, find_key(context, "data_pool_id", S64, -1)))


@_REGISTRY.reads("get_stripe_unit_count")
def _get_stripe_unit_count(context: MethodContext) -> bytes:
    require_feature(context, Feature.STRIPINGV2)
    unit = find_key(context, "stripe_unit", U64)
    if unit is None:
        unit = 1 << read_key(context, "order", U8)
    return encode_values((U64, unit), (U64, find_key(context, "stripe_count", U64, 1)))


@_REGISTRY.writes("set_stripe_unit_count", U64, U64)
def _set_stripe_unit_count(context: MethodContext, unit: int, count: int) -> None:
    if not unit or not count:
        raise failure(context, errno.EINVAL, "stripe unit and count must not be 0")
    require_exists(context)
    require_feature(context, Feature.STRIPINGV2)
    if (1 << read_key(context, "order", U8)) % unit:
        raise failure(context, errno.EINVAL, "the stripe unit must divide the object size")
    context.omap_set({"stripe_unit": encode_values((U64, unit)), "stripe_count": encode_values((U64, count))})


@_REGISTRY.reads("get_flags", U64)
def _get_flags(context: MethodContext, snap_id: int) -> bytes:
    flags = find_key(context, "flags", U64, 0) if snap_id == NO_SNAP else read_snapshot(context, snap_id).flags
    return encode_values((U64, flags))


@_REGISTRY.writes("set_flags", U64, U64, Optional(U64, NO_SNAP))
def _set_flags(context: MethodContext, flags: int, mask: int, snap_id: int) -> None:
    if snap_id == NO_SNAP:
        old = find_key(context, "flags", U64, 0)
        write_key(context, "flags", U64, old & ~mask | flags & mask)
    else:
        snap = read_snapshot(context, snap_id)
        write_snapshot(context, replace(snap, flags=snap.flags & ~mask | flags & mask))


@_REGISTRY.reads("op_features_get")
def _op_features_get(context: MethodContext) -> bytes:
    return encode_values((U64, find_key(context, "op_features", U64, 0)))


@_REGISTRY.writes("op_features_set", U64, U64)
def _op_features_set(context: MethodContext, op_features: int, mask: int) -> None:
    if mask & ~OP_FEATURES_ALL:
        raise failure(context, errno.EINVAL, "these op features are unknown")
    change_op_features(context, op_features, mask)


def _declare_timestamps() -> None:
    for which in ("create", "access", "modify"):
        key = f"{which}_timestamp"

        def get(context: MethodContext, key: str = key) -> bytes:
            return encode_values((UTime, find_key(context, key, UTime, UTime())))

        def put(context: MethodContext, key: str = key) -> None:
            require_exists(context)
            write_key(context, key, UTime, UTime.from_ns(context.now))

        _REGISTRY.reads(f"get_{key}")(get)
        if which != "create":
            _REGISTRY.writes(f"set_{key}")(put)


_declare_timestamps()


@_REGISTRY.reads("metadata_list", str, U64)
def _metadata_list(context: MethodContext, start_after: str, max_return: int) -> bytes:
    pairs = list_keys(context, _METADATA, start_after, max_return or _METADATA_PAGE)
    return encode_values((dict[str, bytes], pairs))


@_REGISTRY.reads("metadata_get", str)
def _metadata_get(context: MethodContext, key: str) -> bytes:
    return encode_values((bytes, context.omap_get(_METADATA + key)))


@_REGISTRY.writes("metadata_set", dict[str, bytes])
def _metadata_set(context: MethodContext, values: dict[str, bytes]) -> None:
    context.omap_set({_METADATA + key: value for key, value in values.items()})


@_REGISTRY.writes("metadata_remove", str)
def _metadata_remove(context: MethodContext, key: str) -> None:
    require_exists(context)
    context.omap_remove(_METADATA + key)


@_REGISTRY.reads("image_group_get")
def _image_group_get(context: MethodContext) -> bytes:
    return encode_values((GroupSpec, find_key(context, "rbd_group_ref", GroupSpec, GroupSpec(-1, ""))))


@_REGISTRY.reads("migration_get")
def _migration_get(context: MethodContext) -> bytes:
    if not has_feature(context, Feature.MIGRATING):
        raise failure(context, errno.EINVAL, "no migration is under way")
    return context.omap_get("migration")
