"""Whole images in and out of files and streams."""

import errno
import os
import threading
from pathlib import Path

import pytest
import trio
from image.conftest import MIB, Pools
from image.faulty import FaultyIoCtx

from rbdfs.errors import Exists, NoSpace, NotFound, StoreFailure
from rbdfs.image import directory
from rbdfs.image.image import open_image
from rbdfs.image.transfer import export_file, import_file


def make_sparse(path: Path) -> bytes:
    with path.open("wb") as file:
        file.seek(3 * MIB + 100)
        file.write(b"data" * 50_000)
        file.truncate(20 * MIB + 17)
    return path.read_bytes()


async def test_file_goes_in_and_out_unchanged_and_sparse(pools: Pools, tmp_path: Path) -> None:
    content = make_sparse(tmp_path / "in")
    async with pools.client() as ioctx:
        steps: list[tuple[int, int]] = []
        await import_file(ioctx, tmp_path / "in", "vm", on_progress=lambda done, total: steps.append((done, total)))
        assert steps[-1] == (len(content), len(content))
        async with open_image(ioctx, "vm", read_only=True) as image:
            assert image.size == len(content)
            assert await image.allocated_bytes() < MIB
            await export_file(image, tmp_path / "out")
            with pytest.raises(Exists):
                await export_file(image, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    assert (tmp_path / "out").stat().st_blocks * 512 < 2 * MIB


async def test_stream_goes_in_and_out(pools: Pools, tmp_path: Path) -> None:
    content = make_sparse(tmp_path / "in")
    async with pools.client() as ioctx:
        reading, writing = os.pipe()
        feeder = threading.Thread(target=_feed, args=(writing, content))
        feeder.start()
        await import_file(ioctx, reading, "vm")
        feeder.join()
        os.close(reading)
        async with open_image(ioctx, "vm", read_only=True) as image:
            assert image.size == len(content)
            assert await image.allocated_bytes() < MIB
            reading, writing = os.pipe()
            received: list[bytes] = []
            drain = threading.Thread(target=_drain, args=(reading, received))
            drain.start()
            await export_file(image, writing)
            os.close(writing)
            drain.join()
            assert b"".join(received) == content


def _feed(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb") as pipe:
        pipe.write(content)


def _drain(descriptor: int, received: list[bytes]) -> None:
    with open(descriptor, "rb") as pipe:
        received.append(pipe.read())


async def test_failed_import_leaves_no_image(pools: Pools, tmp_path: Path) -> None:
    make_sparse(tmp_path / "in")
    async with pools.client() as ioctx:
        with pytest.raises(NotFound):
            await import_file(ioctx, tmp_path / "missing", "vm")

        def stop(_done: int, _total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(BaseException):  # noqa: B017, PT011  # however it comes out: what counts is what is left
            await import_file(ioctx, tmp_path / "in", "vm", on_progress=stop)
        assert await directory.list_images(ioctx) == {}


async def test_taken_name_keeps_its_image(pools: Pools, tmp_path: Path) -> None:
    make_sparse(tmp_path / "in")
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        with pytest.raises(Exists):
            await import_file(ioctx, tmp_path / "in", "vm")
        async with open_image(ioctx, "vm") as image:
            assert image.size == MIB
        await trio.lowlevel.checkpoint()


async def test_failed_export_leaves_no_file(pools: Pools, tmp_path: Path) -> None:
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        await directory.create(ioctx, "vm", 20 * MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x" * (20 * MIB))
            bad = image.path.object_name(3)
            ioctx.rule = lambda name, _op: StoreFailure("bad sector") if name == bad else None
            with pytest.raises(StoreFailure, match="bad sector"):
                await export_file(image, tmp_path / "out")
            assert not (tmp_path / "out").exists()


async def test_a_stream_that_fails_while_more_is_read_ends_with_its_error(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise NoSpace("full")

    monkeypatch.setattr("rbdfs.image.transfer._in_thread", fail)
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 100 * MIB)
        async with open_image(ioctx, "vm") as image:
            for _ in range(20):  # trio starts tasks in an order of its own
                with pytest.raises(NoSpace):
                    await export_file(image, 1)


async def test_export_to_a_full_disk_says_so(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x" * MIB)
            with open("/dev/full", "wb", buffering=0) as full, pytest.raises(NoSpace):  # noqa: ASYNC230
                await export_file(image, full.fileno())


async def test_a_source_that_cannot_be_read_is_not_taken_for_a_hole(
    pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(b"A" * MIB)
        file.seek(8 * MIB)
        file.write(b"B" * MIB)
    lseek = os.lseek

    def broken(descriptor: int, position: int, whence: int) -> int:
        if whence == os.SEEK_DATA and position >= MIB:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return lseek(descriptor, position, whence)

    monkeypatch.setattr(os, "lseek", broken)
    async with pools.client() as ioctx:
        with pytest.raises(StoreFailure, match="source: Input/output error"):
            await import_file(ioctx, source, "vm")
        assert await directory.list_images(ioctx) == {}
