"""A process to be killed: `python writer.py DIRECTORY ROUND`. Writes, flushes, and says what is flushed.

Every object holds one repeated byte pattern of its generation; `flushed N` on the standard output says that all
objects have reached generation N, durably. Snapshots, sharing and removals go on beside that.
"""

import sys
from pathlib import Path

import calls
import trio

from rbdfs.local.cluster import open_store
from rbdfs.rados.ops import CloneRange, SnapContext, WriteOp

OBJECTS = 8
LENGTH = 200_000


def pattern(number: int, generation: int) -> bytes:
    """What object `number` holds in a generation."""
    return b"%04d %010d|" % (number, generation) * (LENGTH // 16)


async def main(path: Path, first: int) -> None:
    async with open_store(path) as cluster:
        ioctx = await cluster.open_pool("rbd")
        generation, snapc = first, SnapContext()
        while True:
            generation += 1
            for number in range(OBJECTS):
                data = pattern(number, generation)
                for offset in range(0, len(data), 50_000):
                    await calls.write(ioctx, f"o.{number}", offset, data[offset : offset + 50_000], snapc)
            await ioctx.operate("copy", WriteOp([CloneRange(0, "o.0", 0, LENGTH)], snapc))
            await ioctx.flush()
            print("flushed", generation, flush=True)
            if snapc.snaps:
                await ioctx.remove_snap_id(snapc.snaps[0])
            snap_id = await ioctx.create_snap_id()
            snapc = SnapContext(snap_id, (snap_id,))
            await calls.remove(ioctx, "copy", snapc)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
