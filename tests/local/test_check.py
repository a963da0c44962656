"""The check finds each kind of damage, each seeded on its own into a store that was clean."""

import sqlite3
from array import array
from contextlib import closing
from pathlib import Path

import calls
import pytest

from rbdfs.errors import InvalidArgument, NotFound
from rbdfs.local import store
from rbdfs.local.blocks import BLOCK_SIZE, PAGE
from rbdfs.local.cluster import check_store, open_store
from rbdfs.rados.ops import CloneRange, OmapSet, SnapContext, WriteOp


async def make_store(path: Path) -> None:
    """A store with two objects that share blocks, a snapshot, and omap."""
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        ioctx = await cluster.open_pool("rbd")
        await calls.write(ioctx, "image.1", 0, b"x" * 3 * BLOCK_SIZE)
        snap = await ioctx.create_snap_id()
        await calls.write(ioctx, "image.1", 0, b"y", SnapContext(snap, (snap,)))
        await ioctx.operate("copy.1", WriteOp([CloneRange(0, "image.1", 0, 3 * BLOCK_SIZE)]))
        await ioctx.operate("header", WriteOp([OmapSet({"a": b"1"})]))


def blocks_of(database: sqlite3.Connection, name: bytes) -> "array[int]":
    blocks = array("I")
    blocks.frombytes(database.execute("SELECT blocks FROM object WHERE name = ?", (name,)).fetchone()[0])
    return blocks


def set_blocks(database: sqlite3.Connection, name: bytes, blocks: "array[int]") -> None:
    database.execute("UPDATE object SET blocks = ? WHERE name = ?", (blocks.tobytes(), name))


def lose_a_reference(database: sqlite3.Connection) -> None:
    for name in (b"image.1", b"copy.1"):
        blocks = blocks_of(database, name)
        blocks[0] = 0
        set_blocks(database, name, blocks)


def refer_twice(database: sqlite3.Connection) -> None:
    blocks = blocks_of(database, b"image.1")
    blocks[2] = blocks[0]
    set_blocks(database, b"image.1", blocks)


def refer_outside(database: sqlite3.Connection) -> None:
    blocks = blocks_of(database, b"image.1")
    blocks[1] = 1 << 24
    set_blocks(database, b"image.1", blocks)


def refer_to_the_header(database: sqlite3.Connection) -> None:
    counts = array("I")
    counts.frombytes(database.execute("SELECT counts FROM page WHERE number = 0").fetchone()[0])
    counts[0] = 0
    database.execute("UPDATE page SET counts = ? WHERE number = 0", (counts.tobytes(),))


DAMAGE = {
    "leaked": lose_a_reference,
    "overlap": refer_twice,
    "outside the data file": refer_outside,
    "overlap, 1 states refer to it and 0": refer_to_the_header,
    "object 1/image.1: unreadable metadata": "UPDATE object SET blocks = x'010203' WHERE name = x'696d6167652e31'",
    "object 1/copy.1: unreadable metadata": "UPDATE object SET xattrs = x'c1' WHERE name = x'636f70792e31'",
    "has blocks behind its end": "UPDATE object SET size = 10 WHERE name = x'636f70792e31'",
    "its pool does not exist": "UPDATE object SET pool = 7 WHERE name = x'636f70792e31'",
    "its object does not exist": "UPDATE clone SET object = 99",
    "do not fit": "UPDATE object SET snap_seq = 0 WHERE name = x'696d6167652e31'",
    "is not listed": "DELETE FROM snapmap",
    "nobody has it": "UPDATE object SET has_omap = 0",
    "missing": "DELETE FROM omap",
    "free blocks are miscounted": "UPDATE page SET free = x'00' WHERE number = 0",
    "though its blocks are in use": "DELETE FROM page",
    "blocks in use": "UPDATE pool SET used = used + 1",
    "objects, ": "UPDATE pool SET objects = 0",
    "blocks, ": "UPDATE family SET blocks = blocks + 1",
    "1 rows of object have a mtime that cannot be": "UPDATE object SET mtime = 'x' WHERE name = x'686561646572'",
    "1 rows of object have a name that cannot be": "UPDATE object SET name = 'text' WHERE name = x'686561646572'",
    "1 rows of page have a counts that cannot be": "UPDATE page SET counts = NULL",
    "have a value that cannot be": "UPDATE omap SET value = NULL",
    "setting boots is None": "DELETE FROM store WHERE key = 'boots'",
    "setting watches": "INSERT INTO store VALUES ('watches', x'93c0c091c0')",
    "blocks of 5 bytes": "UPDATE store SET value = 5 WHERE key = 'block_size'",
    "no such table: blocklist": "DROP TABLE blocklist",
    "snapshot 1 was made, and 0 counts as the newest": "UPDATE pool SET snap_seq = 0",
}


async def test_store_in_order_is_clean(tmp_path: Path) -> None:
    await make_store(tmp_path / "store")
    report = await check_store(tmp_path / "store")
    assert report.is_clean
    assert (report.pools, report.objects, report.clones) == (1, 3, 1)


@pytest.mark.parametrize("finding", DAMAGE)
async def test_damage_is_found(tmp_path: Path, finding: str) -> None:
    path = tmp_path / "store"
    await make_store(path)
    with closing(sqlite3.connect(path / store.METADATA)) as database:
        damage = DAMAGE[finding]
        if isinstance(damage, str):
            database.execute(damage)
        else:
            damage(database)
        database.commit()
    report = await check_store(path)
    assert any(finding in each for each in report.findings), report.findings


async def test_bytes_in_a_free_block_are_found(tmp_path: Path) -> None:
    path = tmp_path / "store"
    await make_store(path)
    with (path / store.DATA).open("r+b") as data:
        data.seek(1000 * BLOCK_SIZE)
        data.write(b"left over")
    assert (await check_store(path)).findings == ["block 1000: free, but not empty"]


async def test_bytes_behind_the_last_page_are_found(tmp_path: Path) -> None:
    path = tmp_path / "store"
    await make_store(path)
    with (path / store.DATA).open("r+b") as data:
        data.seek(3 * PAGE * BLOCK_SIZE)
        data.write(b"left over".ljust(BLOCK_SIZE))
    assert (await check_store(path)).findings == [f"block {3 * PAGE}: behind all that is counted, but not empty"]


@pytest.mark.parametrize("size", [0, BLOCK_SIZE, 70 * BLOCK_SIZE])
async def test_cut_data_file_is_found(tmp_path: Path, size: int) -> None:
    path = tmp_path / "store"
    await make_store(path)
    with (path / store.DATA).open("r+b") as data:
        data.truncate(size)
    assert not (await check_store(path)).is_clean


async def test_overwritten_metadata_is_found(tmp_path: Path) -> None:
    path = tmp_path / "store"
    await make_store(path)
    content = bytearray((path / store.METADATA).read_bytes())
    content[4096 * 2 : 4096 * 8] = b"\xaa" * 4096 * 6
    (path / store.METADATA).write_bytes(content)
    assert not (await check_store(path)).is_clean


async def test_data_file_of_another_store_is_found(tmp_path: Path) -> None:
    await make_store(tmp_path / "store")
    await make_store(tmp_path / "other")
    (tmp_path / "other" / store.DATA).replace(tmp_path / "store" / store.DATA)
    (finding,) = (await check_store(tmp_path / "store")).findings
    assert "not the data file of this store" in finding


async def test_check_of_a_store_that_is_open(tmp_path: Path) -> None:
    path = tmp_path / "store"
    await make_store(path)
    async with open_store(path) as cluster:
        await calls.write(await cluster.open_pool("rbd"), "new", 0, b"not flushed yet")
        report = await check_store(path)
        assert (report.findings, report.objects) == ([], 4)


async def test_check_of_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await check_store(tmp_path / "missing")
    with pytest.raises(InvalidArgument, match="not a store"):
        await check_store(tmp_path)
