"""A writer to be killed: writes block after block of an image, and prints each number once its write is complete.

    python writer.py CONF IMAGE BLOCKS

Write number n puts n, repeated, into block (n * 7) % BLOCKS. What it fails with, it prints, and ends.
"""

import os
import sys

import trio

from rbdfs.connect import CephAddress, ConnectFlags, open_cluster
from rbdfs.errors import RbdfsError
from rbdfs.image.image import open_image

BLOCK = 64 << 10


def block_of(number: int, blocks: int) -> int:
    return number * 7 % blocks


def content(number: int) -> bytes:
    return number.to_bytes(8, "little") * (BLOCK // 8)


async def main(conf: str, name: str, blocks: int) -> None:
    async with open_cluster(CephAddress(ConnectFlags(conf=conf))) as cluster:
        ioctx = await cluster.open_pool("data")
        async with open_image(ioctx, name) as image:
            for number in range(1, 1 << 40):
                try:
                    await image.write(block_of(number, blocks) * BLOCK, content(number))
                except RbdfsError as err:
                    print(type(err).__name__, flush=True)
                    os._exit(0)  # nothing is left to be tidied up: the store has shut us out
                print(number, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
