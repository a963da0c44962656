"""Bytes that live clusters of three releases gave: decoded, encoded again, cut at every byte, damaged.

`vectors/<release>.json` is what `record.py` beside this file recorded. `16.2-owner.json` is what librbd 16.2.15 said as
the owner of the lock, recorded through librados.
"""

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rbdfs.cls import directory, lock, notify, object_map, rbd
from rbdfs.cls.query import reader
from rbdfs.cls.rbd_types import ChildImageSpec, TrashSpec
from rbdfs.errors import WireError
from rbdfs.local.classes.stored import StoredParent, StoredSnapshot
from rbdfs.wire import U8, U64, Buffer, Cursor, encode_values

VECTORS: dict[str, bytes] = {
    f"{path.stem} {name}": bytes.fromhex(value)
    for path in sorted(Path(__file__).with_name("vectors").glob("*.json"))
    for name, value in json.loads(path.read_text()).items()
}


class Shape(NamedTuple):
    """How bytes are decoded and encoded again, and something that they say."""

    decode: Callable[[Buffer], Any]
    encode: Callable[[Any], bytes]
    says: Callable[[Any], bool]


def codec(hint: Any, says: Callable[[Any], bool]) -> Shape:
    return Shape(reader(hint), lambda value: encode_values((hint, value)), says)


def record(decode: Callable[[Buffer], Any], says: Callable[[Any], bool]) -> Shape:
    return Shape(decode, lambda value: value.to_bytes(), says)


def message(kind: type[notify.Message], **fields: Any) -> Shape:
    def says(value: Any) -> bool:
        return type(value) is kind and all(getattr(value, name) == wanted for name, wanted in fields.items())

    return Shape(notify.decode_message, lambda value: value.to_bytes(), says)


SHAPES = {
    "children_list": codec(list[ChildImageSpec], lambda value: value[0].pool_id == 1),
    "get_create_timestamp": record(rbd.get_create_timestamp().decode, lambda value: value.ns > 10**18),
    "get_features": Shape(
        rbd.get_features().decode,
        lambda value: encode_values((tuple[U64, U64], value)),
        lambda value: value[0] == 61 | 256,
    ),
    "get_object_prefix": codec(str, lambda value: value.startswith("rbd_data.")),
    "get_size": Shape(
        rbd.get_size().decode,
        lambda value: encode_values((tuple[U8, U64], value)),
        lambda value: value == (22, 10 << 20),
    ),
    "get_snapcontext": Shape(
        rbd.get_snapcontext().decode,
        lambda value: encode_values((U64, value.seq), (list[U64], value.snaps)),
        lambda value: value.snaps == (value.seq,),
    ),
    "image_group_get": record(rbd.get_group().decode, lambda value: value.group_id == ""),
    "list_locks": Shape(
        lock.list_locks().decode,
        lambda value: lock.ListLocksReply(value).to_bytes(),
        lambda value: value == ["rbd_lock"],
    ),
    "lock get_info": record(
        lock.get_info("").decode,
        lambda value: (
            [str(who.entity).partition(".")[0] for who in value.lockers] == ["client"]
            and [detail.address.host for detail in value.lockers.values()] == ["127.0.0.1"]
        ),
    ),
    "metadata_list": codec(dict[str, bytes], lambda value: value == {"key": b"value"}),
    "notify AcquiredLock": message(notify.AcquiredLock),
    "notify AsyncComplete": message(notify.AsyncComplete, result=0),
    "notify AsyncProgress": message(notify.AsyncProgress, offset=1, total=4),
    "notify HeaderUpdate": message(notify.HeaderUpdate),
    "notify MetadataUpdate": message(notify.MetadataUpdate, key="k", value="v"),
    "notify Quiesce": message(notify.Quiesce),
    "notify RebuildObjectMap": message(notify.RebuildObjectMap),
    "notify ReleasedLock": message(notify.ReleasedLock),
    "notify Rename": message(notify.Rename),
    "notify RequestLock": message(notify.RequestLock, force=False),
    "notify Resize": message(notify.Resize, size=16 << 20, allow_shrink=False),
    "notify SnapCreate": message(notify.SnapCreate, snap_name="a", flags=0),
    "notify SnapRemove": message(notify.SnapRemove, snap_name="b"),
    "notify Sparsify": message(notify.Sparsify, sparse_size=4096),
    "notify Unquiesce": message(notify.Unquiesce),
    "notify UpdateFeatures": message(notify.UpdateFeatures, features=16, enabled=False),
    "object map": Shape(
        object_map.ObjectStates.decode, lambda value: value.encode(), lambda value: list(value) == [3, 0, 0]
    ),
    "object_map_load": Shape(
        object_map.load().decode, lambda value: value.encode(with_crcs=False), lambda value: list(value) == [3, 0, 0]
    ),
    "parent_get": record(rbd.get_parent().decode, lambda value: value.snap_id < 100),
    "parent_overlap_get": codec(U64 | None, lambda value: value == 10 << 20),
    "parent_overlap_get none": codec(U64 | None, lambda value: value is None),
    "snapshot_get": record(rbd.get_snapshot(0).decode, lambda value: (value.name, value.child_count) == ("first", 1)),
    "stored child snapshot": codec(StoredSnapshot, lambda value: value.parent_overlap == 10 << 20),
    "stored lock": record(lock.LockInfo.from_bytes, lambda value: value.type == lock.LockType.EXCLUSIVE),
    "stored parent": codec(StoredParent, lambda value: value.head_overlap == 10 << 20),
    "stored snapshot": codec(StoredSnapshot, lambda value: (value.name, value.protection) == ("first", 2)),
    "trash_list": codec(dict[str, TrashSpec], lambda value: [spec.name for spec in value.values()] == ["thrown"]),
}


def shape_of(vector: str) -> Shape:
    return SHAPES[vector.partition(" ")[2]]


def test_every_shape_has_a_vector() -> None:
    assert {name.partition(" ")[2] for name in VECTORS} == SHAPES.keys()


@pytest.mark.parametrize("name", VECTORS)
def test_bytes_of_a_live_cluster_decode_and_encode_to_the_same(name: str) -> None:
    data, shape = VECTORS[name], shape_of(name)
    value = shape.decode(data)
    assert shape.says(value), value
    assert shape.encode(value) == data


@pytest.mark.parametrize("name", VECTORS)
def test_bytes_cut_short_are_refused(name: str) -> None:
    data, shape = VECTORS[name], shape_of(name)
    for end in range(1 if " notify " in name else 0, len(data)):  # an empty message is one, too
        with pytest.raises(WireError):
            shape.decode(data[:end])


@pytest.mark.parametrize("name", VECTORS)
def test_damaged_bytes_are_refused_or_mean_something_else(name: str) -> None:
    data, shape, chance = VECTORS[name], shape_of(name), random.Random(name)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(chance.randrange(1, 5)):
            damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        with contextlib.suppress(WireError):
            shape.decode(bytes(damaged))


def test_bytes_that_a_newer_release_adds_are_skipped() -> None:
    data = bytearray(VECTORS["16.2 snapshot_get"])
    data[0] += 1
    data[2:6] = (len(data) - 6 + 4).to_bytes(4, "little")
    assert rbd.get_snapshot(0).decode(data + b"more").name == "first"


def test_a_structure_that_needs_a_newer_release_is_refused() -> None:
    data = bytearray(VECTORS["16.2 snapshot_get"])
    data[0:2] = b"\2\2"
    with pytest.raises(WireError, match="needs version 2"):
        rbd.get_snapshot(0).decode(data)


def test_a_snapshot_of_an_osd_before_nautilus_holds_its_parent() -> None:
    old = encode_values((U64, 4), (str, "old"), (U64, 1 << 20), (U64, 61))
    parent = encode_values((U64, 3), (str, "abc"), (U64, 9), (U64, 4096))
    old += b"\1\1" + len(parent).to_bytes(4, "little") + parent + b"\2"
    snap = StoredSnapshot.decode(Cursor(b"\3\1" + len(old).to_bytes(4, "little") + old))
    assert (snap.name, snap.protection, snap.has_parent) == ("old", 2, True)
    assert (snap.parent.spec.pool_id, snap.parent.spec.image_id, snap.parent.head_overlap) == (3, "abc", 4096)


def test_directory_answers_are_strings_of_strings() -> None:
    answer = encode_values((dict[str, str], {"vm": "abc", "ü\udcff": "def"}))
    assert directory.list_images().decode(answer) == {"vm": "abc", "ü\udcff": "def"}
