"""The recorded maps in tests/ceph/vectors, and how to damage bytes for decoders."""

import functools
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors"


@functools.cache
def members(archive: str) -> dict[str, bytes]:
    """The members of an archive by name."""
    with zipfile.ZipFile(VECTORS / f"{archive}.zip") as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def pairs(archive: str, ending: str) -> list[tuple[str, bytes, Any]]:
    """Name, bytes and what Ceph's tool made of them, for each member that has that ending."""
    found = members(archive)
    names = [name.removesuffix(ending) for name in found if name.endswith(ending)]
    return [(name, found[name + ending], json.loads(found[name + ".json"])) for name in names]


def cut(data: bytes) -> Iterator[bytes]:
    """`data` without its end, cut at every byte."""
    for length in range(len(data)):
        yield data[:length]


def damaged(data: bytes, count: int = 300) -> Iterator[bytes]:
    """`data` with a few bytes changed, differently each time."""
    rng = random.Random(len(data))
    for _ in range(count):
        bad = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            bad[rng.randrange(len(bad))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        yield bytes(bad)
