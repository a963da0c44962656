"""Object classes on a live cluster: our client's calls get what librados' did, on every release.

And calls that chance makes up, to which an OSD and the local store's classes must answer alike, leaving the same keys.
"""

import random
from collections.abc import Callable
from typing import Any

import calls
import pytest
from ceph_cluster import CephCluster
from local.classes.class_calls import CALLS, Step, changes, comparable_output, comparable_state, read_transcript
from local.classes.memory import MemoryObject
from local.classes.test_transcript import run as run_locally

from rbdfs.cls import directory, lock, object_map, rbd
from rbdfs.cls.query import Query
from rbdfs.cls.rbd_types import NO_SNAP, ChildImageSpec, ParentImageSpec
from rbdfs.connect import CephAddress, ConnectFlags, open_cluster
from rbdfs.errors import NotFound, RbdfsError
from rbdfs.local.classes.registry import CLASSES
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Call, GetXattrs, ReadOp, WriteOp

pytestmark = pytest.mark.cluster


async def run(ioctx: IoCtx, name: str, step: Step) -> dict[str, object]:
    """What the store answers to a step, as the transcript says it."""
    writes = not isinstance(step, Call) or CLASSES[step.class_name][step.method].writes
    try:
        reply = await ioctx.operate(name, WriteOp([step]) if writes else ReadOp([step]))  # type: ignore[list-item]
    except RbdfsError as err:
        return {"result": -err.errno}
    return {"result": 0} if writes else {"result": 0, "output": comparable_output(step, bytes(reply.outputs[0]))}


async def state(ioctx: IoCtx, name: str) -> dict[str, str]:
    """An object as the transcript says it."""
    try:
        content = bytes(await calls.read(ioctx, name, 0, 0))
    except NotFound:
        return {}
    xattrs = (await ioctx.operate(name, ReadOp([GetXattrs()]))).outputs[0]
    return comparable_state(content, xattrs, {key: value async for key, value in calls.omap_items(ioctx, name)})


async def test_an_osd_answers_and_stores_as_the_local_classes_do(ceph_cluster: CephCluster) -> None:
    states: dict[str, dict[str, str]] = {}
    async with open_cluster(CephAddress(ConnectFlags(conf=str(ceph_cluster.conf)))) as cluster:
        ioctx = await cluster.open_pool("data", "calls")
        for number, ((name, step), recorded) in enumerate(zip(CALLS, read_transcript(), strict=True)):
            answer = await run(ioctx, name, step)
            if "output" not in answer:
                after = await state(ioctx, name)
                if changed := changes(states.get(name, {}), after):
                    answer["changes"] = changed
                states[name] = after
            assert answer == recorded, f"call {number}: {name}: {step}"


def meaning(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    """An answer or a state; of object maps without the bits that an OSD leaves behind the last data object."""
    names = {"content ", "output"} & set(found) if kind == "map" else ()
    return found | {name: list(object_map.ObjectStates.decode(bytes.fromhex(found[name]))) for name in names}


def made_up(chance: random.Random) -> dict[str, list[Callable[[], Query[Any] | Step]]]:
    """Calls with arguments that often, but not always, make sense; by the kind of object that they are for."""

    def snap() -> int:
        return chance.choice((1, 2, 3, 4, 5, 6, NO_SNAP))

    def bits() -> int:
        return chance.choice((0, 1, 2, 3, 4, 8, 24, 32, 61, 128, 256, 4096))

    def size() -> int:
        return chance.choice((0, 1, 4096, 1 << 20, 1 << 30))

    def text() -> str:
        return chance.choice(("", "a", "b", "c", "ü", "a/b"))

    def child() -> ChildImageSpec:
        return ChildImageSpec(chance.randrange(2), chance.choice("xy"), chance.choice(("", "n")))

    def parent() -> ParentImageSpec:
        return ParentImageSpec(chance.choice((-1, 1, 2)), "", chance.choice(("", "p")), snap())

    def objects() -> object_map.ObjectStates:
        states = object_map.ObjectStates(chance.randrange(40))
        for number in range(len(states)):
            states[number] = chance.randrange(4)
        return states

    def lock_type() -> lock.LockType:
        return chance.choice((lock.LockType.NONE, lock.LockType.EXCLUSIVE, lock.LockType.SHARED))

    def locking() -> Step:
        flags = chance.choice((0, 0, 1, 2, 3))
        return lock.lock(text(), lock_type(), chance.choice("xyz"), text(), text(), flags=flags)

    return {
        "header": [
            lambda: rbd.create(1 << 22, 22, bits() | 1, "prefix"),
            lambda: rbd.get_size(snap()),
            lambda: rbd.set_size(size()),
            lambda: rbd.get_features(read_only=chance.random() < 0.5),
            lambda: rbd.set_features(bits(), bits()),
            lambda: rbd.get_flags(snap()),
            lambda: rbd.set_flags(bits(), bits(), snap()),
            lambda: rbd.get_op_features(),
            lambda: rbd.set_op_features(bits(), bits()),
            lambda: rbd.get_snapcontext(),
            *[lambda: rbd.add_snapshot(chance.randrange(8), text())] * 5,
            lambda: rbd.get_snapshot(snap()),
            lambda: rbd.remove_snapshot(snap()),
            lambda: rbd.rename_snapshot(snap(), text()),
            lambda: rbd.trash_snapshot(snap()),
            lambda: rbd.get_protection_status(snap()),
            lambda: rbd.set_protection_status(snap(), chance.randrange(4)),
            lambda: rbd.set_snapshot_limit(chance.choice((0, 1, 3, 100))),
            lambda: rbd.get_snapshot_limit(),
            lambda: rbd.get_parent(),
            lambda: rbd.get_parent_overlap(snap()),
            lambda: rbd.attach_parent(parent(), size(), reattach=chance.random() < 0.3),
            lambda: rbd.detach_parent(),
            *[lambda: rbd.attach_child(snap(), child())] * 2,
            *[lambda: rbd.detach_child(snap(), child())] * 2,
            lambda: rbd.list_children(snap()),
            lambda: rbd.set_metadata({text(): text().encode(), text(): b"\xff"}),
            lambda: rbd.remove_metadata(text()),
            lambda: rbd.list_metadata(text(), chance.randrange(4)),
            lambda: rbd.set_stripe_unit_count(chance.choice((0, 4096, 5000)), chance.randrange(3)),
            lambda: rbd.get_stripe_unit_count(),
        ],
        "directory": [
            *[lambda: directory.add_image(text(), chance.choice("123"))] * 3,
            lambda: directory.remove_image(text(), chance.choice("123")),
            lambda: directory.rename_image(text(), text(), chance.choice("123")),
            lambda: directory.list_images(text(), chance.randrange(4)),
            lambda: directory.get_image_id(text()),
            lambda: directory.get_image_name(chance.choice("123")),
            lambda: directory.set_state(chance.choice(list(directory.DirectoryState))),
            lambda: directory.assert_state(chance.choice(list(directory.DirectoryState))),
        ],
        "map": [
            lambda: object_map.resize(chance.randrange(60), chance.randrange(4)),
            *[
                lambda: object_map.update(
                    chance.randrange(30), chance.randrange(60), chance.randrange(4), chance.choice((None, 0, 1, 2, 3))
                )
            ]
            * 3,
            lambda: object_map.load(),
            lambda: object_map.save(objects()),
            lambda: object_map.snap_add(),
            lambda: object_map.snap_remove(objects()),
        ],
        "locked": [
            *[locking] * 3,
            lambda: lock.unlock(text(), chance.choice("xyz")),
            lambda: lock.get_info(text()),
            lambda: lock.list_locks(),
            lambda: lock.assert_locked(text(), lock_type(), chance.choice("xyz"), text()),
            lambda: lock.set_cookie(text(), lock_type(), chance.choice("xyz"), chance.choice("xyz"), text()),
        ],
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_an_osd_and_the_local_classes_agree_on_what_chance_makes_up(ceph_cluster: CephCluster, seed: int) -> None:
    chance = random.Random(seed)
    async with open_cluster(CephAddress(ConnectFlags(conf=str(ceph_cluster.conf)))) as cluster:
        ioctx = await cluster.open_pool("data", f"made-up-{seed}")
        for kind, choices in made_up(chance).items():
            local = MemoryObject(kind)
            for number in range(150):
                made = chance.choice(choices)()
                step = made.step if isinstance(made, Query) else made
                answer = await run(ioctx, kind, step)
                result, output = run_locally(local, step)
                here: dict[str, object] = {"result": result}
                if output is not None:
                    here["output"] = comparable_output(step, output)
                assert meaning(kind, answer) == meaning(kind, here), (kind, number, step)
                if "output" not in answer:
                    after = await state(ioctx, kind)
                    assert meaning(kind, after) == meaning(kind, comparable_state(*local.state())), (kind, number, step)
