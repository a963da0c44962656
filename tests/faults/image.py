"""An image under load: what its writer says is in it, librbd finds there, and its object map is right."""

import random
from collections.abc import Callable, Coroutine
from functools import partial

import trio
from ceph_cluster import CephCluster
from faults.load import Task

from rbdfs.ceph.ioctx import CephIoCtx
from rbdfs.image import directory, snapshots
from rbdfs.image.image import Image, open_image


class Written(Task):
    """Writes and zeroes side by side in the quarters of an image, and now and then a snapshot."""

    SIZE, ORDER = 4 << 20, 18
    QUARTER = SIZE // 4

    def __init__(self, ioctx: CephIoCtx, name: str, seed: int, daemons: CephCluster) -> None:
        super().__init__(ioctx, name)
        self._random = random.Random(f"{name} {seed}")
        self._daemons = daemons
        self._content = bytearray(self.SIZE)
        self._snapshots: dict[str, bytes] = {}  # name -> content
        self._steps = 0

    async def run(self) -> None:
        """Keep the image open, and write, until told to stop."""
        await directory.create(self.ioctx, self.name, self.SIZE, order=self.ORDER)
        async with open_image(self.ioctx, self.name) as image:
            while not self.stopping:
                await self._step(image)

    async def _step(self, image: Image) -> None:
        self._steps += 1
        async with trio.open_nursery() as nursery:
            for quarter in range(4):
                nursery.start_soon(self._timed, self._act(image, quarter * self.QUARTER))
        if self._steps % 40 == 0:
            await self._timed(partial(self._snapshot, image))

    async def _timed(self, act: Callable[[], Coroutine[None, None, None]]) -> None:
        start = trio.current_time()
        await act()
        self.slowest = max(self.slowest, trio.current_time() - start)
        self.advanced()

    def _act(self, image: Image, start: int) -> Callable[[], Coroutine[None, None, None]]:
        rng = self._random
        length = rng.choice((512, 4096, 4096, 70000, 300000))  # the last two touch more than one object
        offset = start + rng.randrange(self.QUARTER - length)
        kind = rng.random()
        if kind < 0.3:
            return partial(self._compare, image, offset, bytes(self._content[offset : offset + length]))
        data = bytes(length) if kind < 0.45 else rng.randbytes(length)
        self._content[offset : offset + length] = data
        return partial(image.write, offset, data) if any(data) else partial(image.write_zeroes, offset, length)

    async def _compare(self, image: Image, offset: int, expected: bytes) -> None:
        assert await image.read(offset, len(expected)) == expected, f"{self.name}: wrong bytes at {offset}"

    async def _snapshot(self, image: Image) -> None:
        name = f"snap{self._steps}"
        await snapshots.create(image, name)
        self._snapshots[name] = bytes(self._content)
        if len(self._snapshots) > 2:
            oldest = next(iter(self._snapshots))
            del self._snapshots[oldest]
            await snapshots.remove(image, oldest)

    async def verify(self) -> None:
        for snap_name, content in {"": bytes(self._content), **self._snapshots}.items():
            async with open_image(self.ioctx, self.name, snap_name=snap_name, read_only=True) as image:
                await self._compare(image, 0, content)
            await trio.to_thread.run_sync(self._compare_with_librbd, snap_name, content)

    def _compare_with_librbd(self, snap_name: str, content: bytes) -> None:
        spec = f"data/{self.name}" + (f"@{snap_name}" if snap_name else "")
        path = self._daemons.directory / "exported"
        path.unlink(missing_ok=True)
        self._daemons.rbd("export", "--no-progress", spec, str(path))
        assert path.read_bytes() == content, f"{spec}: librbd finds something else"
        self._daemons.check_object_map(spec)
