"""Records vectors: what the classes of a live cluster answer and store, and what its `rbd` tells the lock owner.

    PYTHONPATH=.:tests python tests/cls/record.py 16.2 18.2 20.2        writes tests/cls/vectors/<release>.json

`rbd` of that release makes the images, and is what asks; our client looks, and owns the lock that is asked for.
"""

import json
import sys
from functools import partial
from pathlib import Path

import calls
import trio
from ceph_cluster import CephCluster, start_cluster
from interop.librbd import our_pool, rbd

from rbdfs.cls import directory, lock, object_map, rbd as rbd_calls
from rbdfs.cls.notify import Unknown, decode_message
from rbdfs.cls.query import Query, ask
from rbdfs.image.image import open_image
from rbdfs.image.names import header_object, id_object, object_map_object
from rbdfs.rados.api import IoCtx, NotifyEvent, Watch, WatchEvent

VECTORS = Path(__file__).with_name("vectors")


async def answers(ioctx: IoCtx, image_id: str, child_id: str) -> dict[str, bytes]:
    """What class methods answer, as it comes."""
    header, child = header_object(image_id), header_object(child_id)
    snap_id = (await ask(ioctx, header, rbd_calls.get_snapcontext())).snaps[0]
    queries: list[tuple[str, str, Query[object]]] = [
        ("children_list", header, rbd_calls.list_children(snap_id)),
        ("get_create_timestamp", header, rbd_calls.get_create_timestamp()),
        ("get_features", header, rbd_calls.get_features()),
        ("get_object_prefix", header, rbd_calls.get_object_prefix()),
        ("get_size", header, rbd_calls.get_size()),
        ("get_snapcontext", header, rbd_calls.get_snapcontext()),
        ("image_group_get", header, rbd_calls.get_group()),
        ("list_locks", header, lock.list_locks()),
        ("lock get_info", header, lock.get_info(lock.RBD_LOCK)),
        ("metadata_list", header, rbd_calls.list_metadata()),
        ("object_map_load", object_map_object(image_id), object_map.load()),
        ("parent_get", child, rbd_calls.get_parent()),
        ("parent_overlap_get", child, rbd_calls.get_parent_overlap()),
        ("parent_overlap_get none", header, rbd_calls.get_parent_overlap()),
        ("snapshot_get", header, rbd_calls.get_snapshot(snap_id)),
        ("trash_list", directory.TRASH, directory.list_trash()),
    ]
    return {
        name: await calls.execute(ioctx, target, query.step.class_name, query.step.method, query.step.argument)
        for name, target, query in queries
    }


async def stored(ioctx: IoCtx, image_id: str, child_id: str) -> dict[str, bytes]:
    """What is behind the answers."""
    found = {"object map": bytes(await calls.read(ioctx, object_map_object(image_id), 0, 0))}
    found["stored lock"] = await calls.get_xattr(ioctx, header_object(image_id), "lock.rbd_lock")
    async for key, value in calls.omap_items(ioctx, header_object(image_id)):
        if key.startswith("snapshot_"):
            found["stored snapshot"] = value
    async for key, value in calls.omap_items(ioctx, header_object(child_id)):
        if key.startswith("snapshot_"):
            found["stored child snapshot"] = value
        if key == "parent":
            found["stored parent"] = value
    return found


async def make_images(ceph: CephCluster) -> None:
    """An image with all that can be stored of it, a clone of it, and one in the trash."""
    for command in (
        "create data/vm --size 10M",
        "bench --io-type write --io-total 8192 --io-size 4096 data/vm",
        "snap create --no-progress data/vm@first",
        "snap protect data/vm@first",
        "clone --rbd-default-clone-format 2 data/vm@first data/child",
        "snap create --no-progress data/child@s",
        "image-meta set data/vm key value",
        "lock add data/vm cookie",
        "create data/thrown --size 1M",
        "trash mv data/thrown",
        "create data/asked --size 8M",
    ):
        await rbd(ceph, *command.split())


async def messages(ceph: CephCluster, ioctx: IoCtx) -> dict[str, bytes]:
    """What `rbd` tells the watchers while we own the lock of the image that it works on."""
    heard: dict[str, bytes] = {}
    watch: Watch | None = None

    def on_event(event: WatchEvent) -> None:
        assert isinstance(event, NotifyEvent)
        assert watch is not None
        watch.acknowledge(event.notify_id)
        message = decode_message(event.payload)
        kind = f"unknown {message.code}" if isinstance(message, Unknown) else type(message).__name__
        if event.notifier != ioctx.cluster.instance_id:
            heard.setdefault(f"notify {kind}", event.payload)

    async with open_image(ioctx, "asked") as image:
        watch = await ioctx.watch(header_object(image.image_id), on_event)
        await image.write(0, b"ours")
        for command in (
            "resize --no-progress --size 16M data/asked",
            "snap create --no-progress data/asked@a",
            "snap rename data/asked@a data/asked@b",
            "snap rm --no-progress data/asked@b",
            "image-meta set data/asked k v",
            "object-map rebuild --no-progress data/asked",
            "feature disable data/asked fast-diff",
            "sparsify --no-progress data/asked",
            "mv data/asked data/asked2",
            "bench --io-type write --io-total 4096 --io-size 4096 data/asked2",
        ):
            await image.write(0, b"ours again")  # takes the lock back where it was taken for the last one
            await rbd(ceph, *command.split())
        await watch.close()
    return heard


async def record(release: str) -> None:
    with start_cluster(release) as ceph:
        async with our_pool(ceph) as ioctx:
            await make_images(ceph)
            image_id = await ask(ioctx, id_object("vm"), directory.get_id())
            child_id = await ask(ioctx, id_object("child"), directory.get_id())
            found = await answers(ioctx, image_id, child_id)
            found |= await stored(ioctx, image_id, child_id)
            found |= await messages(ceph, ioctx)
    VECTORS.mkdir(exist_ok=True)
    text = json.dumps({name: value.hex() for name, value in found.items()}, indent=1, sort_keys=True)
    await trio.to_thread.run_sync(partial((VECTORS / f"{release}.json").write_text, text + "\n"))


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        trio.run(record, wanted)
