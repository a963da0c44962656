"""The methods of class `rbd` on a header object (`rbd_header.<image id>`), as steps and queries.

A function whose name says what it gets returns a `Query`; one that changes something returns a `Call`, a step of a
WriteOp. The other objects of a pool have files of their own: `directory` (rbd_directory, rbd_id.*, rbd_namespace,
rbd_trash) and `object_map`. Errors of the methods are named where a caller must tell them apart.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rbdfs.cls.query import Query, reader
from rbdfs.cls.rbd_types import (
    NO_SNAP,
    ChildImageSpec,
    GroupSpec,
    MigrationSpec,
    ParentImageSpec,
    SnapNamespace,
    SnapshotInfo,
)
from rbdfs.entities import UTime
from rbdfs.rados.ops import Call, SnapContext, SnapId
from rbdfs.wire import S64, U8, U64, Buffer, Cursor, encode_values


class ImageSize(NamedTuple):
    """Object order and size in bytes."""

    order: int
    size: int


class ImageFeatures(NamedTuple):
    """Features that are on, and those among them that a client which does not know them must not ignore."""

    features: int
    incompatible: int


class StripeUnitCount(NamedTuple):
    """Stripe unit in bytes, and stripe count in objects."""

    stripe_unit: int
    stripe_count: int


def call(method: str, *pairs: tuple[Any, Any]) -> Call:
    """A step that runs a method of class `rbd`, with (annotated type, value) pairs as its argument."""
    return Call("rbd", method, encode_values(*pairs))


# The image as a whole.


def create(size: int, order: int, features: int, object_prefix: str, data_pool_id: int = -1) -> Call:
    """Make a header; Exists where there is one."""
    return call("create", (U64, size), (U8, order), (U64, features), (str, object_prefix), (S64, data_pool_id))


def get_size(snap_id: int = NO_SNAP) -> Query[ImageSize]:
    """Object order, and size of the image or of a snapshot; NotFound without a header or that snapshot."""
    return Query(call("get_size", (U64, snap_id)), lambda data: ImageSize(*reader(tuple[U8, U64])(data)))


def set_size(size: int) -> Call:
    """Change the size of the image; shrinks the overlap with a parent, too."""
    return call("set_size", (U64, size))


def get_features(*, read_only: bool = False) -> Query[ImageFeatures]:
    """Features, and which of them are incompatible for a client that reads only, or reads and writes."""
    step = call("get_features", (U64, NO_SNAP), (bool, read_only))
    return Query(step, lambda data: ImageFeatures(*reader(tuple[U64, U64])(data)))


def set_features(features: int, mask: int) -> Call:
    """Turn the features of the mask on or off; InvalidArgument for those that cannot be changed."""
    return call("set_features", (U64, features), (U64, mask))


def get_flags(snap_id: int = NO_SNAP) -> Query[int]:
    """ImageFlag bits of the image or of a snapshot."""
    return Query(call("get_flags", (U64, snap_id)), reader(U64))


def set_flags(flags: int, mask: int, snap_id: int = NO_SNAP) -> Call:
    """Set or clear the ImageFlag bits of the mask."""
    return call("set_flags", (U64, flags), (U64, mask), (U64, snap_id))


def get_op_features() -> Query[int]:
    """OpFeature bits."""
    return Query(call("op_features_get"), reader(U64))


def set_op_features(op_features: int, mask: int) -> Call:
    """Set or clear the OpFeature bits of the mask; Feature.OPERATIONS follows."""
    return call("op_features_set", (U64, op_features), (U64, mask))


def get_object_prefix() -> Query[str]:
    """How the names of the data objects begin."""
    return Query(call("get_object_prefix"), reader(str))


def get_data_pool() -> Query[int]:
    """The pool of the data objects; -1 where it is the header's own."""
    return Query(call("get_data_pool"), reader(S64))


def get_stripe_unit_count() -> Query[StripeUnitCount]:
    """StripeUnitCount; UnknownResult (ENOEXEC) where the image lacks Feature.STRIPINGV2."""
    return Query(call("get_stripe_unit_count"), lambda data: StripeUnitCount(*reader(tuple[U64, U64])(data)))


def set_stripe_unit_count(unit: int, count: int) -> Call:
    """Set striping, once, when the image is made; InvalidArgument unless the unit divides the object size."""
    return call("set_stripe_unit_count", (U64, unit), (U64, count))


def get_create_timestamp() -> Query[UTime]:
    """When the image was made; zero where the header does not say."""
    return Query(call("get_create_timestamp"), UTime.from_bytes)


def get_access_timestamp() -> Query[UTime]:
    """When the image was last read, as far as clients say."""
    return Query(call("get_access_timestamp"), UTime.from_bytes)


def get_modify_timestamp() -> Query[UTime]:
    """When the image was last written, as far as clients say."""
    return Query(call("get_modify_timestamp"), UTime.from_bytes)


def set_access_timestamp() -> Call:
    """Say that the image is being read now, by the store's clock."""
    return call("set_access_timestamp")


def set_modify_timestamp() -> Call:
    """Say that the image is being written now, by the store's clock."""
    return call("set_modify_timestamp")


# Snapshots.


def _snap_context(data: Buffer) -> SnapContext:
    cursor = Cursor(data)
    seq = cursor.u64()
    return SnapContext(seq, tuple(SnapId(cursor.u64()) for _ in range(cursor.count())))


def get_snapcontext() -> Query[SnapContext]:
    """The snapshot context that writes to the data objects must carry."""
    return Query(call("get_snapcontext"), _snap_context)


def get_snapshot(snap_id: int) -> Query[SnapshotInfo]:
    """A snapshot; NotFound where the header does not know it."""
    return Query(call("snapshot_get", (U64, snap_id)), SnapshotInfo.from_bytes)


def add_snapshot(snap_id: int, name: str, namespace: SnapNamespace | None = None) -> Call:
    """Record the image as it is now; StaleSnapId where a newer id is known already, Exists where the name is taken."""
    return call("snapshot_add", (str, name), (U64, snap_id), (SnapNamespace, namespace or SnapNamespace()))


def remove_snapshot(snap_id: int) -> Call:
    """Forget a snapshot; Busy where it is protected or has children."""
    return call("snapshot_remove", (U64, snap_id))


def rename_snapshot(snap_id: int, name: str) -> Call:
    """Rename a snapshot of kind USER; Exists where the name is taken."""
    return call("snapshot_rename", (U64, snap_id), (str, name))


def trash_snapshot(snap_id: int) -> Call:
    """Move a snapshot that has clones to the trash, where it waits for the last of them to go."""
    return call("snapshot_trash_add", (U64, snap_id))


def get_protection_status(snap_id: int) -> Query[int]:
    """The Protection of a snapshot."""
    return Query(call("get_protection_status", (U64, snap_id)), reader(U8))


def set_protection_status(snap_id: int, status: int) -> Call:
    """Change the Protection of a snapshot; UnknownResult (ENOEXEC) where the image lacks Feature.LAYERING."""
    return call("set_protection_status", (U64, snap_id), (U8, status))


def get_snapshot_limit() -> Query[int]:
    """How many snapshots the image may have, or UNLIMITED."""
    return Query(call("snapshot_get_limit"), reader(U64))


def set_snapshot_limit(limit: int) -> Call:
    """Allow so many snapshots; VersionMismatch (ERANGE) where there are more already."""
    return call("snapshot_set_limit", (U64, limit))


# Parent and children.


def get_parent() -> Query[ParentImageSpec]:
    """The snapshot that this image, or any of its snapshots, is a clone of."""
    return Query(call("parent_get"), ParentImageSpec.from_bytes)


def get_parent_overlap(snap_id: int = NO_SNAP) -> Query[int | None]:
    """How many bytes of the image, or of a snapshot, the parent may show through; None without a parent."""
    return Query(call("parent_overlap_get", (U64, snap_id)), reader(U64 | None))


def attach_parent(parent: ParentImageSpec, overlap: int, *, reattach: bool = False) -> Call:
    """Make the image a clone; Exists where it has a parent."""
    return call("parent_attach", (ParentImageSpec, parent), (U64, overlap), (bool, reattach))


def detach_parent() -> Call:
    """Cut the tie to the parent."""
    return call("parent_detach")


def attach_child(snap_id: int, child: ChildImageSpec) -> Call:
    """Note a clone (v2) of a snapshot of this image."""
    return call("child_attach", (U64, snap_id), (ChildImageSpec, child))


def detach_child(snap_id: int, child: ChildImageSpec) -> Call:
    """Forget a clone (v2) of a snapshot of this image."""
    return call("child_detach", (U64, snap_id), (ChildImageSpec, child))


def list_children(snap_id: int) -> Query[list[ChildImageSpec]]:
    """The clones (v2) of a snapshot; NotFound where it has none."""
    return Query(call("children_list", (U64, snap_id)), reader(list[ChildImageSpec]))


# Metadata, groups and migration.


def list_metadata(start_after: str = "", max_return: int = 64) -> Query[dict[str, bytes]]:
    """Pairs whose key is after `start_after`."""
    return Query(call("metadata_list", (str, start_after), (U64, max_return)), reader(dict[str, bytes]))


def get_metadata(key: str) -> Query[bytes]:
    """One value; NotFound."""
    return Query(call("metadata_get", (str, key)), reader(bytes))


def set_metadata(values: Mapping[str, bytes]) -> Call:
    """Set pairs."""
    return call("metadata_set", (dict[str, bytes], dict(values)))


def remove_metadata(key: str) -> Call:
    """Remove a pair; no error where there is none."""
    return call("metadata_remove", (str, key))


def get_group() -> Query[GroupSpec]:
    """The consistency group that the image belongs to; an empty group id where there is none."""
    return Query(call("image_group_get"), GroupSpec.from_bytes)


def get_migration() -> Query[MigrationSpec]:
    """The migration under way; InvalidArgument where there is none."""
    return Query(call("migration_get"), MigrationSpec.from_bytes)
