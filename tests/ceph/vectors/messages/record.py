"""Records RELEASE.json anew.

    PYTHONPATH=.:tests python tests/ceph/vectors/messages/record.py RELEASE ...

Starts a cluster of each release, does each kind of op once with our client, and keeps what travelled.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import trio
from ceph_cluster import start_cluster

from rbdfs.ceph.cluster import CephCluster, connect
from rbdfs.ceph.config import Flags, load
from rbdfs.ceph.ioctx import CephIoCtx
from rbdfs.ceph.messages import MessageType
from rbdfs.ceph.msgr2.connection import Connection, OnMessage
from rbdfs.errors import RbdfsError
from rbdfs.rados.api import NotifyEvent, WatchEvent
from rbdfs.rados.ops import (
    Append,
    Buffer,
    Call,
    Create,
    GetXattr,
    GetXattrs,
    ListSnaps,
    ListWatchers,
    MapExtents,
    OmapGetByKeys,
    OmapGetHeader,
    OmapGetKeys,
    OmapGetValues,
    OmapSet,
    OmapSetHeader,
    Read,
    ReadOp,
    Remove,
    SetAllocHint,
    SetXattr,
    SnapContext,
    SparseRead,
    Stat,
    Write,
    WriteOp,
)


class Recorder:
    """Keeps the first message of each kind and label."""

    def __init__(self) -> None:
        self.label = ""
        self.vectors: dict[str, dict[str, str]] = {}

    def keep(self, direction: str, kind: int, front: Buffer, data: bytes) -> None:
        """Keep a message."""
        name = f"{MessageType(kind).name.lower()} {self.label}".strip()
        if kind == MessageType.WATCH_NOTIFY:
            name += f" {front[1]}"
        if name in self.vectors or (self.label == "inc" and kind != MessageType.OSD_MAP):
            return
        self.vectors[name] = {"direction": direction, "front": bytes(front).hex()}
        if data and kind != MessageType.MON_COMMAND_ACK:  # the output of a command is JSON, and long
            self.vectors[name]["data"] = data.hex()

    def attach(self, send: Callable[..., None], run: Callable[..., object]) -> tuple[Callable[..., None], object]:
        """Connection's methods, recording."""

        def recording_send(
            connection: Connection, kind: int, front: Buffer, data: Sequence[Buffer] = (), **kw: int
        ) -> None:
            self.keep("sent", kind, front, b"".join(data))
            send(connection, kind, front, data, **kw)

        def recording_run(connection: Connection, on_message: OnMessage) -> object:
            def record(kind: int, tid: int, version: int, front: memoryview, data: Buffer) -> None:
                self.keep("received", kind, front, bytes(data))
                on_message(kind, tid, version, front, data)

            return run(connection, record)

        return recording_send, recording_run


async def exercise(cluster: CephCluster, recorder: Recorder) -> None:
    """Each kind of op once."""
    ioctx = await cluster.open_pool("data")

    async def do(label: str, name: str, op: ReadOp | WriteOp, handle: CephIoCtx = ioctx) -> None:
        recorder.label = label
        try:
            await handle.operate(name, op)
        except RbdfsError as err:
            print(f"{label}: {err}")
        recorder.label = ""

    name = "vector"
    await do("write", name, WriteOp([Write(0, b"hello")]))
    changes = [SetXattr("color", b"blue"), OmapSet({"one": b"1", "two": b"2"}), OmapSetHeader(b"head")]
    await do("compound_write", name, WriteOp([*changes, SetAllocHint(4 << 20, 4 << 20), Append(b" world")]))
    await do("read", name, ReadOp([Read(0, 100)]))
    await do("missing", "no such object", ReadOp([Read(0, 100)]))
    data = [GetXattrs(), Stat(), Read(0, 5), SparseRead(0, 100), MapExtents(0, 100)]
    omap = [OmapGetKeys("", 10), OmapGetValues("", 1), OmapGetByKeys(["two"]), OmapGetHeader(), GetXattr("color")]
    await do("compound_read", name, ReadOp([*data, *omap]))
    snap_id = await ioctx.create_snap_id()
    await do("snap_write", name, WriteOp([Write(1, b"E")], SnapContext(snap_id, (snap_id,))))
    await do("list_snaps", name, ReadOp([ListSnaps()]))
    await do("namespace", name, WriteOp([Create(True)]), ioctx.with_namespace("space"))
    await do("call", "lock", WriteOp([Call("lock", "nonesuch", b"")]))

    def on_event(event: WatchEvent) -> None:
        if isinstance(event, NotifyEvent):
            watch.acknowledge(event.notify_id, b"answer")

    recorder.label = "watch"
    watch = await ioctx.watch(name, on_event)
    await do("list_watchers", name, ReadOp([ListWatchers()]))
    recorder.label = "notify"
    await ioctx.notify(name, b"question")
    await do("disconnect", name, WriteOp([Remove()]))
    recorder.label = "disconnect"
    await trio.sleep(0.5)
    recorder.label = "list"
    assert [found async for found in ioctx.with_namespace("space").list_objects()] == [name]
    recorder.label = ""
    await ioctx.usage()
    await cluster.monitors.command("osd dump", format="json")
    await cluster.list_pools()
    recorder.label = "inc"
    await cluster.create_pool("passing")
    await cluster.remove_pool("passing")


async def record(conf: Path) -> dict[str, dict[str, str]]:
    """Everything that travelled."""
    recorder = Recorder()
    send, run = recorder.attach(Connection.send, Connection.run)
    with mock.patch.multiple(Connection, send=send, run=run):
        async with connect(load(Flags(conf=str(conf)), {})) as cluster:
            await exercise(cluster, recorder)
    return recorder.vectors


def main() -> None:
    """Record the releases that are asked for."""
    for release in sys.argv[1:]:
        with start_cluster(release) as cluster:
            while not cluster.json("df")["pools"] or not cluster.json("df")["pools"][0]["stats"]["max_avail"]:
                time.sleep(0.5)
            cluster.ceph("config", "set", "client", "rbd_default_order", "20")
            vectors = trio.run(record, cluster.conf)
        path = Path(__file__).with_name(f"{release}.json")
        path.write_text(json.dumps(vectors, indent=1, sort_keys=True) + "\n")
        print(f"{path}: {len(vectors)} messages")


if __name__ == "__main__":
    main()
