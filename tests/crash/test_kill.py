"""A real process is killed at any moment: what it had flushed is there, and the store is clean."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import calls
import trio
from crash.writer import OBJECTS, pattern

from rbdfs.local.cluster import check_store, open_store

ROOT = Path(__file__).parents[2]


def run_until_killed(path: Path, generation: int, seconds: float) -> int:
    """Let the writer work and kill it; gives the newest generation that it said is flushed."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("writer.py")), str(path), str(generation)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
    )
    assert process.stdout.readline().startswith(b"flushed")
    time.sleep(seconds)
    process.kill()
    rest = process.stdout.read().decode()
    process.wait()
    process.stdout.close()
    return max([generation + 1, *map(int, re.findall(r"flushed (\d+)\n", rest))])


async def test_killed_writer_leaves_what_it_flushed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
    chance = random.Random()
    generation = 0
    for _ in range(4):
        flushed = await trio.to_thread.run_sync(run_until_killed, path, generation, chance.uniform(0.01, 0.3))
        assert (await check_store(path)).findings == []
        async with open_store(path) as cluster:
            ioctx = await cluster.open_pool("rbd")
            for number in range(OBJECTS):
                data = bytes(await calls.read(ioctx, f"o.{number}", 0, 0))
                # Each 16 bytes are of the flushed generation or of the one that was being written over it.
                found = {data[start : start + 16] for start in range(0, len(data), 16)}
                assert found <= {pattern(number, flushed)[:16], pattern(number, flushed + 1)[:16]}
        assert (await check_store(path)).findings == []
        generation = flushed + 1
