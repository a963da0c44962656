"""A process that owns a store: `python owner_process.py DIRECTORY`. Does what its standard input says, line by line.

`write NAME TEXT`, `flush`, `leave`; answers each with `done` on its standard output, and `ready` first.
"""

import sys
from pathlib import Path

import calls
import trio

from rbdfs.local.cluster import open_store


async def main(path: Path) -> None:
    async with open_store(path, create=True) as cluster:
        if not await cluster.list_pools():
            await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        print("ready", flush=True)
        while line := (await trio.to_thread.run_sync(sys.stdin.readline)).split():
            match line:
                case ["write", name, text]:
                    await calls.write(ioctx, name, 0, text.encode())
                case ["flush"]:
                    await ioctx.flush()
                case ["leave"]:
                    break
            print("done", flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
