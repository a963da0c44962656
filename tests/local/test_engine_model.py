"""A store against a dictionary: random ops, with snapshots, sharing, an attached client and reopening."""

import copy
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import calls
import trio
from hypothesis import given, settings, strategies as st

from rbdfs.errors import NotFound
from rbdfs.local.cluster import check_store, open_store
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import (
    HEAD,
    Append,
    CloneRange,
    OmapRemoveKeys,
    OmapSet,
    Remove,
    Rollback,
    SetXattr,
    SnapContext,
    SnapId,
    Truncate,
    Write,
    WriteFull,
    WriteOp,
    Zero,
)

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # syncs cost nothing there
BLOCK = 65_536
NAMES = st.sampled_from(["a", "b", "c"])
OFFSETS = st.one_of(
    st.integers(0, 4 * BLOCK),
    st.builds(lambda block, by: max(0, block * BLOCK + by), st.integers(0, 4), st.sampled_from([-1, 0, 1, 4096])),
)
LENGTHS = st.one_of(st.integers(1, 2 * BLOCK), st.sampled_from([1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK]))
ACTIONS = st.one_of(
    st.tuples(st.just("write"), NAMES, OFFSETS, LENGTHS),
    st.tuples(st.just("write"), NAMES, OFFSETS, LENGTHS),
    st.tuples(st.just("two_writes"), NAMES, OFFSETS, LENGTHS),
    st.tuples(st.just("append"), NAMES, LENGTHS),
    st.tuples(st.just("replace"), NAMES, LENGTHS),
    st.tuples(st.just("zero"), NAMES, OFFSETS, LENGTHS),
    st.tuples(st.just("truncate"), NAMES, OFFSETS),
    st.tuples(st.just("attributes"), NAMES, st.sampled_from(["k", "l"]), st.integers(0, 2)),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("share"), NAMES, NAMES, OFFSETS, OFFSETS, LENGTHS),
    st.tuples(st.just("roll_back"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("forget"), st.integers(0, 3)),
    st.tuples(st.just("flush")),
    st.tuples(st.just("change_client")),
    st.tuples(st.just("reopen")),
)


@dataclass
class Thing:
    data: bytearray = field(default_factory=bytearray)
    omap: dict[str, bytes] = field(default_factory=dict)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data


class Pair:
    """A store and the dictionary beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.things: dict[str, Thing] = {}
        self.snaps: dict[SnapId, dict[str, Thing]] = {}
        self.seq = 0
        self.turn = 0
        self.clients: list[IoCtx] = []
        self.stack = AsyncExitStack()

    async def open(self) -> None:
        for create in (True, False):
            cluster = await self.stack.enter_async_context(open_store(self.path, create=create))
            if not await cluster.list_pools():
                await cluster.create_pool("rbd")
            self.clients.append(await cluster.open_pool("rbd"))

    async def close(self) -> None:
        await self.stack.aclose()
        self.clients = []
        report = await check_store(self.path)
        assert report.findings == []

    async def op(self, name: str, *steps: object) -> None:
        snapc = SnapContext(self.seq, tuple(sorted(self.snaps, reverse=True)))
        await self.clients[0].operate(name, WriteOp(list(steps), snapc))  # type: ignore[arg-type]

    def content(self, length: int) -> bytes:
        self.turn += 1
        return (b"%07d|" % self.turn * (length // 8 + 1))[:length]

    def snap(self, index: int) -> SnapId | None:
        return sorted(self.snaps)[index] if index < len(self.snaps) else None

    # What happens.

    async def write(self, name: str, offset: int, length: int) -> None:
        data = self.content(length)
        self.things.setdefault(name, Thing()).write(offset, data)
        await self.op(name, Write(offset, data))

    async def two_writes(self, name: str, offset: int, length: int) -> None:
        first, second = self.content(length), self.content(100)
        thing = self.things.setdefault(name, Thing())
        thing.write(offset, first)
        thing.write(offset // 2, second)
        await self.op(name, Write(offset, first), Write(offset // 2, second))

    async def append(self, name: str, length: int) -> None:
        thing = self.things.setdefault(name, Thing())
        data = self.content(length)
        thing.write(len(thing.data), data)
        await self.op(name, Append(data))

    async def replace(self, name: str, length: int) -> None:
        data = self.content(length)
        self.things.setdefault(name, Thing()).data[:] = data
        await self.op(name, WriteFull(data))

    async def zero(self, name: str, offset: int, length: int) -> None:
        if name in self.things:
            data = self.things[name].data
            end = max(offset, min(offset + length, len(data)))
            data[offset:end] = bytes(end - offset)
        await self.op(name, Zero(offset, length))

    async def truncate(self, name: str, size: int) -> None:
        if name in self.things:
            data = self.things[name].data
            del data[size:]
            data.extend(bytes(size - len(data)))
        await self.op(name, Truncate(size))

    async def attributes(self, name: str, key: str, action: int) -> None:
        thing = self.things.setdefault(name, Thing())
        value = self.content(8)
        if action == 0 and key in thing.omap:
            del thing.omap[key]
            await self.op(name, OmapRemoveKeys([key]))
        else:
            thing.omap[key] = thing.xattrs[key] = value
            await self.op(name, OmapSet({key: value}), SetXattr(key, value))

    async def remove(self, name: str) -> None:
        if self.things.pop(name, None) is not None:
            await self.op(name, Remove())

    async def share(self, name: str, source: str, offset: int, source_offset: int, length: int) -> None:
        taken = bytes(self.things.get(source, Thing()).data[source_offset : source_offset + length])
        self.things.setdefault(name, Thing()).write(offset, taken.ljust(length, b"\0"))
        await self.op(name, CloneRange(offset, source, source_offset, length))

    async def roll_back(self, name: str, index: int) -> None:
        if (snap := self.snap(index)) is not None:
            self.things.pop(name, None)
            if name in self.snaps[snap]:
                self.things[name] = copy.deepcopy(self.snaps[snap][name])
            await self.op(name, Rollback(snap))

    async def snapshot(self) -> None:
        if len(self.snaps) < 4:
            snap = await self.clients[0].create_snap_id()
            self.seq = snap
            self.snaps[snap] = copy.deepcopy(self.things)

    async def forget(self, index: int) -> None:
        if (snap := self.snap(index)) is not None:
            del self.snaps[snap]
            await self.clients[0].remove_snap_id(snap)

    async def flush(self) -> None:
        await self.clients[0].flush()

    async def change_client(self) -> None:
        self.clients.reverse()

    async def reopen(self) -> None:
        await self.close()
        await self.open()

    # Whether they agree.

    async def compare(self) -> None:
        for ioctx in self.clients:
            assert {name async for name in ioctx.list_objects()} == set(self.things)
            for name in ("a", "b", "c"):
                for snap, things in [(HEAD, self.things), *self.snaps.items()]:
                    await self.compare_one(ioctx, name, snap, things.get(name))

    async def compare_one(self, ioctx: IoCtx, name: str, snap: SnapId, thing: Thing | None) -> None:
        try:
            data = bytes(await calls.read(ioctx, name, 0, 0, snap))
        except NotFound:
            assert thing is None
            return
        assert thing is not None
        assert data == thing.data
        if snap == HEAD:
            assert {key: value async for key, value in calls.omap_items(ioctx, name)} == thing.omap
            for key, value in thing.xattrs.items():
                assert await calls.get_xattr(ioctx, name, key) == value


@settings(max_examples=25, deadline=None)
@given(actions=st.lists(ACTIONS, min_size=5, max_size=40))
def test_store_does_what_a_dictionary_would(actions: list[tuple[object, ...]]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
            pair = Pair(Path(directory) / "store")
            try:
                await pair.open()
                for act, *arguments in actions:
                    await getattr(pair, str(act))(*arguments)
                await pair.compare()
                await pair.reopen()
                await pair.compare()
            finally:
                await pair.close()

    trio.run(main)
