"""A long sequence of class calls that any store must answer as a Ceph OSD does, and what an OSD answered.

`CALLS` are (object, step) in order; the same name is the same object. A step is a class call, or a WriteFull that puts
damaged bytes in place. `transcript.json` holds, for each, what an OSD of Ceph 16.2.15 answered, and how the object's
content, attributes and keys changed (recorded through librados). A value that is a time, a locker's address or a random
name differs from run to run; `comparable_*` make it the same.
"""

import hashlib
import json
import random
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rbdfs.cls import directory, lock, object_map, rbd
from rbdfs.cls.query import Query
from rbdfs.cls.rbd_types import (
    NO_SNAP,
    UNLIMITED,
    ChildImageSpec,
    DirectoryState,
    Feature,
    GroupSnapContent,
    ParentImageSpec,
    SnapKind,
    SnapNamespace,
    SnapshotInfo,
    TrashSpec,
)
from rbdfs.entities import EntityAddr, EntityName, UTime
from rbdfs.local.classes.stored import StoredSnapshot
from rbdfs.rados.ops import Call, WriteFull
from rbdfs.wire import U64, Cursor, encode_values

TRANSCRIPT = Path(__file__).with_name("transcript.json")

Step = Call | WriteFull
Item = tuple[str, Step]

EXCLUSIVE, SHARED, EPHEMERAL = lock.LockType.EXCLUSIVE, lock.LockType.SHARED, lock.LockType.EXCLUSIVE_EPHEMERAL


def raw(method: str, argument: bytes = b"") -> Call:
    return Call("rbd", method, argument)


def on(name: str, *steps: Query[Any] | Step) -> Iterator[Item]:
    for step in steps:
        yield name, step.step if isinstance(step, Query) else step


def missing() -> Iterator[Item]:
    """Every method on an object that is not there."""
    parent, child = ParentImageSpec(1, "", "x", 3), ChildImageSpec(1, "x", "")
    yield from on(
        "missing",
        *(
            rbd.get_size(),
            rbd.get_features(),
            rbd.get_snapcontext(),
            rbd.get_flags(),
            rbd.get_parent(),
            rbd.get_group(),
        ),
        *(rbd.get_op_features(), rbd.get_data_pool(), rbd.list_metadata(), raw("get_all_features")),
        *(directory.list_images(), directory.get_id(), lock.get_info("x"), lock.list_locks()),
        *(lock.assert_locked("x", EXCLUSIVE, "c"), directory.list_namespaces(), directory.list_trash()),
        *(object_map.load(), rbd.get_create_timestamp(), rbd.get_stripe_unit_count(), rbd.get_migration()),
    )
    writes = (
        *(rbd.set_size(1), rbd.set_features(4, 4), rbd.add_snapshot(4, "s"), rbd.remove_snapshot(4)),
        *(rbd.rename_snapshot(4, "s"), rbd.trash_snapshot(4), rbd.set_protection_status(4, 2)),
        *(rbd.set_snapshot_limit(3), rbd.set_snapshot_limit(UNLIMITED), rbd.set_flags(1, 1, 4)),
        *(rbd.set_op_features(1, 1), rbd.attach_parent(parent, 5), rbd.detach_parent(), rbd.attach_child(4, child)),
        *(rbd.detach_child(4, child), rbd.set_stripe_unit_count(4096, 2), rbd.set_access_timestamp()),
        *(rbd.set_modify_timestamp(), rbd.remove_metadata("k"), directory.set_id("abc")),
        *(directory.remove_image("a", "b"), directory.rename_image("a", "b", "c"), directory.remove_namespace("n")),
        *(directory.remove_trash("n"), directory.set_trash_state("n", 0, 1)),
        *(directory.set_state(DirectoryState.ADD_DISABLED), object_map.resize(4), object_map.update(0, 1, 1)),
        *(object_map.snap_add(), object_map.snap_remove(object_map.ObjectStates(3)), lock.unlock("x", "c")),
        *(lock.break_lock("x", EntityName(8, 1), "c"), lock.set_cookie("x", EXCLUSIVE, "c", "d")),
    )
    for number, step in enumerate(writes):
        yield from on(f"missing{number}", step)


def header() -> Iterator[Item]:
    """What a header says when it is new, and how it changes."""
    yield from on(
        "header",
        *(rbd.create(1 << 24, 22, 0x1000, "p"), rbd.create(1 << 24, 22, 1, ""), rbd.create(1 << 24, 22, 0x100, "p")),
        *(rbd.create(1 << 24, 22, 1, "p", 3), rbd.create(1 << 24, 22, Feature.DATA_POOL, "p")),
        *(rbd.create(10 << 20, 22, 61, "rbd_data.x"), rbd.create(10 << 20, 22, 61, "rbd_data.x")),
    )
    yield from on("header2", rbd.create(10 << 20, 20, 61 | 2 | 128, "rbd_data.y", 7))
    for name in ("header", "header2"):
        yield from on(
            name,
            *(rbd.get_size(), rbd.get_size(3), rbd.get_features(), rbd.get_features(read_only=True), rbd.get_flags()),
            *(rbd.get_flags(9), rbd.get_op_features(), rbd.get_object_prefix(), rbd.get_data_pool()),
            *(rbd.get_stripe_unit_count(), rbd.get_create_timestamp(), rbd.get_access_timestamp()),
            rbd.get_modify_timestamp(),
            *(rbd.get_snapcontext(), rbd.get_snapshot(NO_SNAP), rbd.get_snapshot(3)),
            *(rbd.get_protection_status(NO_SNAP), rbd.get_protection_status(3), rbd.get_snapshot_limit()),
            *(rbd.get_parent(), rbd.get_parent_overlap(), rbd.get_parent_overlap(3), rbd.list_children(3)),
            *(rbd.list_metadata(), rbd.get_metadata("x"), rbd.get_group(), rbd.get_migration(), raw("get_size")),
            *(raw("get_features"), raw("get_all_features"), raw("metadata_list", b"\0")),
        )
    yield from on(
        "header2",
        *(rbd.set_stripe_unit_count(3000, 2), rbd.set_stripe_unit_count(1 << 21, 2), rbd.set_stripe_unit_count(0, 2)),
        *(rbd.set_stripe_unit_count(65536, 4), rbd.get_stripe_unit_count()),
    )
    yield from on(
        "header",
        *(rbd.set_stripe_unit_count(65536, 4), rbd.set_size(20 << 20), rbd.set_features(64, 64)),
        *(rbd.set_features(1, 1), rbd.set_features(0, 32), rbd.set_features(32, 32), rbd.set_features(256, 256)),
        *(rbd.set_features(0, 64 | 1 << 40), rbd.set_features(0, 1), rbd.get_features()),
        *(rbd.set_flags(3, 1), rbd.get_flags(), rbd.set_flags(2, 3), rbd.set_op_features(16, 16)),
        *(rbd.set_op_features(1, 1), rbd.set_op_features(2, 3), rbd.get_features(), rbd.set_op_features(0, 3)),
        *(rbd.get_features(), rbd.set_access_timestamp(), rbd.set_modify_timestamp()),
        *(rbd.set_metadata({"b": b"1", "a": b"", "ü": b"\xff"}), rbd.list_metadata(), rbd.list_metadata("a", 1)),
        *(rbd.list_metadata("", 0), rbd.get_metadata("b"), rbd.remove_metadata("b"), rbd.remove_metadata("b")),
        rbd.set_metadata({f"k{number:03}": b"x" * (number % 4) for number in range(70)}),
        *(rbd.list_metadata("", 1000), rbd.list_metadata("k010", 50), rbd.list_metadata("", 0)),
    )


def snapshots() -> Iterator[Item]:
    """Snapshots of that header."""
    group = SnapNamespace(SnapKind.GROUP, GroupSnapContent(1, "g", "s").to_bytes())
    yield from on(
        "header",
        *(rbd.add_snapshot(4, "s1"), rbd.add_snapshot(4, "s2"), rbd.add_snapshot(3, "s2"), rbd.add_snapshot(5, "s1")),
        *(rbd.add_snapshot(NO_SNAP, "s1"), rbd.add_snapshot(5, "s2"), rbd.add_snapshot(6, "g", group)),
        *(rbd.add_snapshot(7, "g", SnapNamespace(9)), raw("snapshot_add", encode_values((str, "zz"), (U64, 8)))),
        *(rbd.get_snapcontext(), rbd.get_snapshot(4), rbd.get_snapshot(6), rbd.get_size(4), rbd.get_flags(5)),
        *(raw("get_snapshot_name", struct.pack("<Q", 5)), raw("get_snapshot_timestamp", struct.pack("<Q", 5))),
        *(rbd.get_parent_overlap(5), rbd.set_flags(1, 1, 5), rbd.rename_snapshot(5, "s1"), rbd.rename_snapshot(5, "n")),
        *(rbd.rename_snapshot(5, "n"), rbd.rename_snapshot(6, "m"), rbd.rename_snapshot(99, "m")),
        *(rbd.set_protection_status(4, 2), rbd.get_protection_status(4), rbd.set_protection_status(4, 3)),
        *(rbd.set_protection_status(NO_SNAP, 1), rbd.set_protection_status(44, 1), rbd.remove_snapshot(4)),
        *(rbd.trash_snapshot(4), rbd.set_snapshot_limit(2), rbd.set_snapshot_limit(4), rbd.get_snapshot_limit()),
        *(rbd.add_snapshot(9, "over"), rbd.set_snapshot_limit(UNLIMITED), rbd.set_snapshot_limit(UNLIMITED)),
        rbd.get_snapshot_limit(),
    )
    one, two, three = ChildImageSpec(2, "cc", ""), ChildImageSpec(1, "zz", "ns"), ChildImageSpec(2, "aa", "ns")
    yield from on(
        "header",
        *(rbd.attach_child(4, one), rbd.attach_child(4, one), rbd.attach_child(4, two), rbd.attach_child(4, three)),
        *(rbd.attach_child(5, three), rbd.list_children(4), rbd.get_features(), rbd.set_protection_status(4, 0)),
        *(rbd.remove_snapshot(4), rbd.detach_child(4, one), rbd.detach_child(4, one), rbd.detach_child(4, three)),
        *(rbd.detach_child(4, two), rbd.get_features(), rbd.list_children(4), rbd.detach_child(5, three)),
        *(rbd.get_features(), rbd.trash_snapshot(5), rbd.trash_snapshot(5), rbd.get_features(), rbd.get_op_features()),
        *(rbd.rename_snapshot(5, "x"), rbd.attach_child(5, three), rbd.remove_snapshot(5), rbd.get_features()),
        *(rbd.remove_snapshot(5), rbd.remove_snapshot(4), rbd.get_snapcontext()),
    )


def parents() -> Iterator[Item]:
    """A header that becomes a clone, and is flattened; and rbd_children."""
    parent = ParentImageSpec(2, "ns", "pid", 9)
    yield from on(
        "header",
        *(rbd.attach_parent(parent, 0), rbd.attach_parent(ParentImageSpec(), 5), rbd.attach_parent(parent, 1 << 40)),
        *(rbd.attach_parent(parent, 1 << 20), rbd.attach_parent(parent, 1 << 21, reattach=True), rbd.get_parent()),
        *(rbd.get_parent_overlap(), rbd.add_snapshot(10, "p1"), rbd.get_parent_overlap(10), rbd.set_size(1 << 20)),
        *(rbd.get_parent_overlap(), rbd.set_size(1 << 30), rbd.get_parent_overlap(), rbd.detach_parent()),
        *(rbd.get_parent(), rbd.get_parent_overlap(), rbd.get_parent_overlap(10), rbd.detach_parent()),
        *(rbd.attach_parent(parent, 1 << 20), rbd.set_op_features(2, 2), rbd.add_snapshot(11, "p2")),
        *(rbd.detach_parent(), rbd.remove_snapshot(10), rbd.remove_snapshot(11), rbd.get_parent()),
    )
    yield from on(
        "deep",
        *(rbd.create(1 << 20, 22, 61, "q"), rbd.attach_parent(parent, 1 << 20), rbd.set_op_features(2, 2)),
        *(rbd.add_snapshot(11, "p2"), rbd.detach_parent(), rbd.get_features(), rbd.remove_snapshot(11)),
    )
    yield from on(
        "flat",
        *(rbd.create(1 << 20, 22, 4, "q"), rbd.attach_parent(parent, 1 << 20), rbd.detach_parent(), rbd.get_parent()),
        *(rbd.get_parent_overlap(), rbd.set_protection_status(4, 2), rbd.get_parent_overlap(7)),
    )
    spec = encode_values((U64, 2), (str, "parent"), (U64, 9))
    a, b, c = (spec + encode_values((str, child)) for child in "abc")
    yield from on(
        "children",
        *(raw("get_children", spec), raw("add_child", b), raw("add_child", a), raw("add_child", a)),
        *(raw("get_children", spec), raw("remove_child", c), raw("remove_child", a), raw("get_children", spec)),
        *(raw("remove_child", b), raw("get_children", spec)),
    )


def names() -> Iterator[Item]:
    """rbd_directory, rbd_id, rbd_namespace and rbd_trash."""
    add, rename, remove = directory.add_image, directory.rename_image, directory.remove_image
    ready, disabled = DirectoryState
    yield from on(
        "directory",
        *(add("a", "id1"), add("a", "id2"), add("b", "id1"), add("", "id1"), add("c", "i_d"), add("b", "id2")),
        *(directory.list_images(), directory.list_images("a", 1), directory.list_images("", 1)),
        *(directory.list_images("", 0), directory.get_image_id("a"), directory.get_image_id("z")),
        *(directory.get_image_name("id2"), directory.get_image_name("z"), rename("a", "b", "id1")),
        *(rename("a", "a", "id1"), rename("a", "c", "id2"), rename("z", "c", "id2"), rename("a", "", "id1")),
        *(rename("a", "c", "id1"), directory.list_images(), remove("c", "id2"), remove("z", "id2")),
        *(directory.assert_state(ready), directory.set_state(disabled), raw("dir_state_set", b"\7")),
        *(remove("c", "id1"), remove("b", "id2"), directory.set_state(disabled), directory.assert_state(ready)),
        *(directory.assert_state(disabled), directory.set_state(ready), directory.list_images()),
        *(add(f"n{number * 7 % 70:03}", f"x{number}") for number in range(70)),
        *(directory.list_images(), directory.list_images("n010", 66)),
    )
    yield from on("directory2", directory.assert_state(ready), directory.set_state(ready))
    yield from on(
        "id",
        *(directory.set_id("abc"), WriteFull(b""), directory.get_id(), directory.set_id("a-b"), directory.set_id("")),
        *(directory.set_id("abc"), directory.set_id("abd"), directory.get_id()),
    )
    yield from on(
        "namespaces",
        *(directory.add_namespace("x"), directory.add_namespace("x"), directory.add_namespace("a")),
        *(directory.list_namespaces(), directory.list_namespaces("a"), directory.list_namespaces("", 1)),
        *(directory.remove_namespace("q"), directory.remove_namespace("x"), directory.list_namespaces()),
    )
    spec = TrashSpec(0, "img", UTime(5, 6), UTime(7, 8), 0)
    yield from on(
        "trash",
        *(directory.add_trash("id9", spec), directory.add_trash("id9", spec), directory.list_trash()),
        *(directory.get_trash("id9"), directory.get_trash("z"), directory.set_trash_state("id9", 2, 1)),
        *(directory.set_trash_state("id9", 2, 0), directory.set_trash_state("id9", 2, 0), directory.get_trash("id9")),
        *(directory.remove_trash("z"), directory.remove_trash("id9"), directory.list_trash()),
    )


def object_maps() -> Iterator[Item]:
    """A map that grows, shrinks and changes; and damaged ones."""
    resize, update, load = object_map.resize, object_map.update, object_map.load()
    removed = object_map.ObjectStates(20)
    removed.fill(3, 9, 1)
    removed.fill(9, 12, 3)
    chance = random.Random(7)
    states = object_map.ObjectStates(40_000)
    for number in range(len(states)):
        states[number] = chance.randrange(4)
    yield from on(
        "map",
        *(resize(300_000_000), resize(10), load, update(2, 5, 1), update(9, 10, 1), update(9, 11, 1), update(5, 5, 1)),
        *(update(0, 10, 2, 1), update(2, 4, 0, 2), load, resize(8), update(8, 10, 0), resize(7), resize(5000, 1)),
        *(resize(100_000), update(0, 100_000, 3, 0), update(16380, 32770, 1, 1), load, object_map.snap_add()),
        *(object_map.snap_add(), update(3, 4, 1, 3), object_map.snap_remove(removed), load, object_map.save(states)),
    )
    for _ in range(12):
        start = chance.randrange(40_000)
        end = min(40_000, start + chance.choice([1, 2, 5, 100, 20_000]))
        yield from on("map", update(start, end, chance.randrange(4), chance.choice([None, 0, 1, 2, 3])))
    yield from on(
        "map",
        *(object_map.snap_remove(states), object_map.snap_add(), resize(39_999), load, resize(39_998, states[39_998])),
        *(raw("object_map_save", b"\0\0"), raw("object_map_update", b"\0\0")),
    )
    for place in (3, 30, 18 + 10_000 + 6, 18 + 10_000 + 13, 18 + 10_000 + 14):  # header, states, the footer's CRCs
        damaged = bytearray(states.encode())
        damaged[place] ^= 0x40
        yield from on(
            f"damaged{place}",
            *(WriteFull(bytes(damaged)), load, update(20, 30, 1), update(39_000, 39_010, 1), resize(50_000)),
        )


def data_objects() -> Iterator[Item]:
    """Copying up."""

    def sparse(extents: dict[int, int], data: bytes) -> Call:
        return raw("sparse_copyup", encode_values((dict[U64, U64], extents), (bytes, data)))

    yield from on("copyup", raw("copyup", b"abc"), raw("copyup", b"xyzz"))
    yield from on("copyup2", raw("copyup"))
    yield from on("sparse", sparse({}, b""))
    yield from on("sparse2", sparse({4: 2, 10: 3}, b"12345"), sparse({0: 1}, b"1"))
    yield from on("sparse3", sparse({0: 5}, b"1"))


def locks() -> Iterator[Item]:
    """Class lock; the calling client is one and the same throughout."""
    name, tag = lock.RBD_LOCK, lock.INTERNAL_TAG
    yield from on(
        "locked",
        lock.lock(name, EXCLUSIVE, "auto 1", tag, "d"),
        *(
            lock.lock(name, EXCLUSIVE, cookie, tag_)
            for cookie, tag_ in (("auto 1", tag), ("auto 2", tag), ("auto 1", "x"))
        ),
        lock.lock(name, SHARED, "auto 2", tag),
        *(lock.lock(name, EXCLUSIVE, "auto 1", tag, flags=flags) for flags in (1, 2, 3)),
        lock.lock(name, EXCLUSIVE, "auto 3", tag, flags=2),
        *(lock.lock("", EXCLUSIVE, "c"), lock.lock("q", lock.LockType.NONE, "c")),
        *(lock.get_info(name), lock.get_info("zz"), lock.get_info(""), lock.list_locks()),
        lock.assert_locked(name, EXCLUSIVE, "auto 1", tag),
        *(lock.assert_locked(name, SHARED, "auto 1", tag), lock.assert_locked(name, EXCLUSIVE, "auto 2", tag)),
        *(
            lock.assert_locked(name, EXCLUSIVE, "auto 1", ""),
            lock.assert_locked(name, lock.LockType.NONE, "auto 1", ""),
        ),
        *(lock.assert_locked("", EXCLUSIVE, "auto 1"), lock.assert_locked("none", EXCLUSIVE, "auto 1")),
        lock.assert_locked(name, EPHEMERAL, "auto 1", tag),
        lock.set_cookie(name, EXCLUSIVE, "auto 1", "auto 5", tag),
        lock.set_cookie(name, EXCLUSIVE, "auto 1", "auto 6", tag),
        lock.set_cookie(name, EXCLUSIVE, "auto 5", "auto 5", tag),
        *(lock.get_info(name), lock.unlock(name, "auto 1"), lock.unlock("zz", "auto 1"), lock.unlock(name, "auto 5")),
        *(lock.get_info(name), lock.list_locks(), lock.lock("s", SHARED, "b", "t"), lock.lock("s", SHARED, "a", "t")),
        *(lock.lock("s", SHARED, "c", "u"), lock.lock("s", EXCLUSIVE, "c", "t"), lock.get_info("s")),
        *(lock.break_lock("s", EntityName(8, 1), "a"), lock.unlock("s", "a"), lock.unlock("s", "a")),
        *(lock.get_info("s"), lock.set_cookie("s", SHARED, "b", "b", "t")),
        lock.lock("s", SHARED, "d", "t", "x", duration_ns=3600 * 10**9),
        lock.get_info("s"),
    )
    yield from on(
        "ephemeral",
        *(lock.lock("e", EPHEMERAL, "c"), lock.lock("e", EXCLUSIVE, "d"), lock.lock("e", EPHEMERAL, "d")),
        *(lock.get_info("e"), lock.assert_locked("e", EPHEMERAL, "c"), lock.unlock("e", "c"), lock.get_info("e")),
    )


PARTS = (missing, header, snapshots, parents, names, object_maps, data_objects, locks)
CALLS: list[Item] = [item for part in PARTS for item in part()]


def comparable_output(step: Step, output: bytes) -> str:
    """What a call gave, as the transcript holds it."""
    assert isinstance(step, Call)
    if step.method == "get_info":
        return comparable_value(lock.ATTRIBUTE_PREFIX, output)
    if step.method == "snapshot_get":
        info = replace(SnapshotInfo.from_bytes(output), timestamp=UTime())
        if info.namespace.kind == SnapKind.TRASH:
            info.name = "random"
        return info.to_bytes().hex()
    if "timestamp" in step.method:
        return _is_set(output)
    return _short(output)


def comparable_state(content: bytes | None, xattrs: Mapping[str, bytes], omap: Mapping[str, bytes]) -> dict[str, str]:
    """An object as the transcript holds it; nothing, where it is missing."""
    if content is None:
        return {}
    parts = [("content", "", content)]
    parts += [("xattr", key, value) for key, value in xattrs.items()]
    parts += [("omap", key, value) for key, value in omap.items()]
    return {f"{kind} {key}": comparable_value(key, value) for kind, key, value in parts}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """What the transcript says of a write: what is new or different, and (None) what is gone."""
    changed: dict[str, str | None] = {key: value for key, value in after.items() if before.get(key) != value}
    return changed | {key: None for key in before if key not in after}


def comparable_value(key: str, value: bytes) -> str:
    """A stored value, as the transcript holds it."""
    if key.endswith("_timestamp"):
        return _is_set(value)
    if key.startswith("snapshot_"):
        snap = replace(StoredSnapshot.decode(Cursor(value)), timestamp=UTime())
        if snap.namespace.kind == SnapKind.TRASH:
            snap = replace(snap, name="random")
        out = bytearray()
        snap.encode(out)
        return out.hex()
    if key.startswith(lock.ATTRIBUTE_PREFIX):
        info = lock.LockInfo.from_bytes(value)
        for locker in info.lockers.values():
            locker.address = EntityAddr(locker.address.type, "192.0.2.1")
            locker.expiration = UTime(1 if locker.expiration.ns else 0)
        info.lockers = {lock.LockerId(EntityName(8, 1), who.cookie): detail for who, detail in info.lockers.items()}
        return info.to_bytes().hex()
    return _short(value)


def _is_set(value: bytes) -> str:
    assert len(value) == 8
    return "set" if any(value) else "unset"


def _short(value: bytes) -> str:
    return value.hex() if len(value) <= 256 else f"{len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()}"


def read_transcript() -> list[dict[str, Any]]:
    """What an OSD answered to each of CALLS: result, output, changes."""
    transcript: list[dict[str, Any]] = json.loads(TRANSCRIPT.read_text())
    return transcript
