"""An image against a bytearray: random operations by two clients that take turns as owner of the lock.

After each operation the size agrees; every few, and at the end, so do all bytes of the image and of its snapshots, the
object map agrees with the objects that exist, and what is not zero lies in the data extents.
"""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import calls
import trio
from hypothesis import strategies as st

from rbdfs.errors import NotFound
from rbdfs.image import directory, snapshots
from rbdfs.image.features import DEFAULT_FEATURES, Feature
from rbdfs.image.image import Image, open_image
from rbdfs.image.object_map import CLEAN, EXISTS, NONEXISTENT, load_states
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import HEAD, SnapId

MOST = 300_000  # bytes; objects are small, so that this is many of them
DISCARD_UNIT = 65536
NAMES = ["a", "b", "c"]

Operation = tuple[int, tuple[object, ...]]  # by which handle, its name and arguments

places = st.integers(0, MOST)
# Ends and beginnings of blocks and objects are where the mistakes are.
edges = st.builds(lambda unit, number, shift: max(0, unit * number + shift) % MOST, st.sampled_from([4096, 65536]),
                  st.integers(0, 40), st.integers(-2, 2))  # fmt: skip
positions = st.one_of(places, edges)
lengths = st.one_of(st.integers(1, 500), st.integers(1, MOST), st.sampled_from([4096, 8192, 65536]))

operations = st.one_of(
    st.tuples(st.sampled_from(["write", "write", "zero", "discard", "copy"]), positions, lengths),
    st.tuples(st.just("resize"), positions),
    st.tuples(st.sampled_from(["snap", "remove", "rollback"]), st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(["reopen", "flush", "check", "burst"])),
)
sequences = st.lists(st.tuples(st.integers(0, 1), operations), max_size=30)
layouts = st.sampled_from(
    [
        {"order": 16},
        {"order": 14},
        {"order": 16, "features": Feature.LAYERING},
        {"order": 16, "features": DEFAULT_FEATURES & ~(Feature.FAST_DIFF | Feature.OBJECT_MAP)},
        {"order": 16, "stripe_unit": 4096, "stripe_count": 3},
        {"order": 15, "stripe_unit": 8192, "stripe_count": 5},
    ]
)


@dataclass
class Model:
    """What the image must hold."""

    content: bytearray = field(default_factory=lambda: bytearray(200_000))
    snaps: dict[str, bytes] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        if len(self.content) < offset + len(data):
            self.resize(offset + len(data))
        self.content[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.content))
        if offset < end:
            self.content[offset:end] = bytes(end - offset)

    def resize(self, size: int) -> None:
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))


class Run:
    """One sequence of operations, done to the model and to the image alike."""

    def __init__(self, ioctxs: list[IoCtx], chance: random.Random, nursery: trio.Nursery) -> None:
        self.ioctxs = ioctxs
        self.chance = chance
        self.nursery = nursery
        self.model = Model()
        self.images: list[Image] = []
        self.closing: dict[Image, tuple[trio.Event, trio.Event]] = {}

    async def open(self, index: int) -> Image:
        image: Image = await self.nursery.start(self.hold, self.ioctxs[index])
        return image

    async def hold(self, ioctx: IoCtx, task_status: trio.TaskStatus[Image]) -> None:
        wanted, done = trio.Event(), trio.Event()
        async with open_image(ioctx, "vm") as image:
            self.closing[image] = wanted, done
            task_status.started(image)
            await wanted.wait()
        done.set()

    async def close(self, image: Image) -> None:
        wanted, done = self.closing.pop(image)
        wanted.set()
        await done.wait()

    async def step(self, index: int, name: str, *arguments: object) -> None:
        image, model = self.images[index], self.model
        do: Callable[..., Awaitable[None]] = getattr(self, f"do_{name}")
        await do(image, *arguments)
        with trio.fail_after(10):  # the other client hears of a new size by notify
            while [other.size for other in self.images] != [len(model.content)] * 2:  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def do_write(self, image: Image, offset: int, length: int) -> None:
        data = self.chance.randbytes(length)
        await image.write(offset, data)
        self.model.write(offset, data)

    async def do_burst(self, image: Image) -> None:
        """Writes to one another's neighbourhood, all under way at once."""
        base = self.chance.randrange(MOST)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                data = self.chance.randbytes(3000)
                nursery.start_soon(image.write, base + number * 3000, data)
                self.model.write(base + number * 3000, data)

    async def do_zero(self, image: Image, offset: int, length: int) -> None:
        await image.write_zeroes(offset, length)
        self.model.zero(offset, length)

    async def do_discard(self, image: Image, offset: int, length: int) -> None:
        await image.discard(offset, length)
        start = -(-offset // DISCARD_UNIT) * DISCARD_UNIT
        end = offset + length
        if end < len(self.model.content):
            end -= end % DISCARD_UNIT
        self.model.zero(start, end - start)

    async def do_copy(self, image: Image, offset: int, length: int) -> None:
        """From the other handle's view of the image, behind itself."""
        source = self.images[1 - self.images.index(image)]
        target = offset + length
        copied = await image.copy_range(source, offset, target, length)
        data = bytes(self.model.content[offset : offset + length])
        assert copied == len(data)
        if data:
            self.model.write(target, data)

    async def do_resize(self, image: Image, size: int) -> None:
        await image.resize(size)
        self.model.resize(size)

    async def do_snap(self, image: Image, name: str) -> None:
        if name not in self.model.snaps:
            await snapshots.create(image, name)
            self.model.snaps[name] = bytes(self.model.content)

    async def do_remove(self, image: Image, name: str) -> None:
        if name in self.model.snaps:
            await snapshots.remove(image, name)
            del self.model.snaps[name]

    async def do_rollback(self, image: Image, name: str) -> None:
        if name in self.model.snaps:
            await snapshots.rollback(image, name)
            self.model.content = bytearray(self.model.snaps[name])

    async def do_flush(self, image: Image) -> None:
        await image.flush()

    async def do_reopen(self, image: Image) -> None:
        index = self.images.index(image)
        await self.close(image)
        self.images[index] = await self.open(index)

    async def do_check(self, image: Image) -> None:
        assert await image.read(0, 1 << 30) == self.model.content
        await check_extents(image, self.model.content)
        await check_map(image)
        for name, content in self.model.snaps.items():
            async with open_image(image.ioctx, "vm", snap_name=name) as snap:
                assert await snap.read(0, 1 << 30) == content
                await check_extents(snap, content)
                await check_map(snap)


async def check_extents(image: Image, content: bytes | bytearray) -> None:
    extents = await image.data_extents(0, image.size)
    rest = bytearray(content)
    for offset, length in extents:
        rest[offset : offset + length] = bytes(length)
    assert not any(rest), "data outside the extents"
    first = next(iter(extents), None)
    assert await image.seek_data(0) == (first[0] if first else None)
    if first is not None:
        assert await image.seek_hole(first[0]) == sum(first)


async def check_map(image: Image) -> None:
    if not image.header.features & Feature.OBJECT_MAP:
        return
    snap_id: SnapId = image.snap.id if image.snap else HEAD
    assert not image.header.flags
    states = await load_states(image.ioctx, image.image_id, snap_id)
    assert len(states) == image.header.striping.object_count(image.size)
    if image.object_map is not None:
        assert image.object_map.states == states
    older = [snap.id for snap in image.header.all_snaps if snap.id < snap_id]
    for number, state in enumerate(states):
        stored = await stored_bytes(image, number, snap_id)
        assert state in (NONEXISTENT, EXISTS, CLEAN)
        assert (state == NONEXISTENT) == (stored is None)
        if state == CLEAN:
            assert older
            assert stored == await stored_bytes(image, number, older[-1])


async def stored_bytes(image: Image, number: int, snap_id: SnapId) -> bytes | None:
    try:
        return bytes(await calls.read(image.path.data, image.path.object_name(number), 0, 0, snap_id))
    except NotFound:
        return None


async def run_sequence(
    ioctxs: list[IoCtx],
    layout: dict[str, int],
    sequence: list[Operation],
    seed: int,
    make_run: Callable[..., Run] = Run,
) -> None:
    """Do the operations to a new image, open by two clients, and remove it."""
    async with trio.open_nursery() as nursery:
        run = make_run(ioctxs, random.Random(seed), nursery)
        await directory.create(ioctxs[0], "vm", len(run.model.content), **layout)
        run.images = [await run.open(0), await run.open(1)]
        for index, (name, *arguments) in sequence:
            await run.step(index, str(name), *arguments)
        await run.step(0, "check")
        for image in run.images:
            await run.close(image)
        async with open_image(ioctxs[1], "vm") as image:
            assert await image.read(0, 1 << 30) == run.model.content
            await snapshots.purge(image)
        await directory.remove(ioctxs[0], "vm")
        assert await existing_objects(ioctxs[0]) == ["rbd_directory"]


async def existing_objects(ioctx: IoCtx) -> list[str]:
    """What the pool holds; an OSD lists removed objects, too, until it has trimmed their snapshots."""
    found = []
    async for name in ioctx.list_objects():
        with suppress(NotFound):
            await calls.stat(ioctx, name)
            found.append(name)
    return found
