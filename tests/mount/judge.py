"""`rbd` as the judge of images that the mount has changed: both must say the same of them."""

import json
import mmap
from functools import partial
from pathlib import Path
from typing import Any

import trio
from ceph_cluster import CephCluster

from rbdfs.image.features import Feature
from rbdfs.image.header import read_header
from rbdfs.image.image import open_image
from rbdfs.image.lookup import lookup
from rbdfs.image.transfer import export_file
from rbdfs.image.usage import disk_usage
from rbdfs.rados.api import IoCtx

_COMPARED_BYTES = 1 << 29  # larger images are not read as a whole
_COMPARED_SNAPS = 5  # of many, the newest


class Judge:
    """Compares images of a pool or namespace with what `rbd` of the cluster's release sees."""

    def __init__(self, ceph: CephCluster, pool: str, work: Path) -> None:
        self._ceph = ceph
        self._pool = pool
        self._work = work

    async def images(self) -> list[str]:
        """The names that `rbd ls` shows."""
        return list(await self._json("ls", self._pool))

    async def compare(self, ioctx: IoCtx, name: str, *, has_crashed: bool = False) -> None:
        """Everything about an image; a writer that was killed may leave an object map that is ahead of the data."""
        spec = f"{self._pool}/{name}"
        header = await read_header(ioctx, await lookup(ioctx, name))
        snaps = [snap.name for snap in header.snaps]
        assert [snap["name"] for snap in await self._json("snap", "ls", spec)] == snaps, spec
        if not has_crashed:
            if header.features & Feature.OBJECT_MAP:
                for suffix in ("", *(f"@{snap}" for snap in snaps[-_COMPARED_SNAPS:])):
                    await trio.to_thread.run_sync(self._ceph.check_object_map, spec + suffix)
            if header.size:  # librbd ends with a failed assertion where it compares nothing (DiffIterate)
                rows = (await self._json("du", spec))["images"]
                theirs = [(row.get("snapshot"), row["provisioned_size"], row["used_size"]) for row in rows]
                ours = [(row.snap_name, row.provisioned, row.used) for row in await disk_usage(ioctx, name)]
                assert theirs == ours, spec
        info = await self._json("info", spec)
        assert (info["size"], info["flags"]) == (header.size, []), spec
        if 0 < header.size <= _COMPARED_BYTES:
            for snap in ("", *snaps[-_COMPARED_SNAPS:]):
                await self._compare_bytes(ioctx, name, snap)

    async def _compare_bytes(self, ioctx: IoCtx, name: str, snap: str) -> None:
        """The exports are the same to the byte, and there is nothing where `rbd diff` sees nothing."""
        spec = f"{self._pool}/{name}" + (f"@{snap}" if snap else "")
        ours, theirs = self._work / "exported-by-us", self._work / "exported-by-rbd"
        try:
            async with open_image(ioctx, name, snap_name=snap, read_only=True) as image:
                await export_file(image, ours)
            await self._rbd("export", "--no-progress", spec, str(theirs))
            await trio.run_process(["cmp", str(ours), str(theirs)])
            extents = [(extent["offset"], extent["length"]) for extent in await self._json("diff", spec)]
            assert not await trio.to_thread.run_sync(has_data_outside, theirs, extents), spec
        finally:
            ours.unlink(missing_ok=True)
            theirs.unlink(missing_ok=True)

    async def _rbd(self, *arguments: str) -> str:
        return await trio.to_thread.run_sync(partial(self._ceph.rbd, *arguments))

    async def _json(self, *arguments: str) -> Any:
        return json.loads(await self._rbd(*arguments, "--format", "json"))


def has_data_outside(path: Path, extents: list[tuple[int, int]]) -> bool:
    """Whether a file has a byte other than zero outside these extents, which are in order."""
    size = path.stat().st_size
    if not size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position = 0
        for offset, length in [*extents, (size, 0)]:
            gap = content[position:offset]
            if gap.count(0) != len(gap):
                return True
            position = offset + length
    return False
