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


async def test_a_source_that_cannot_be_read_in_the_middle_of_a_chunk_is_an_error(
    pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk gives what comes before a bad sector, and the error only to who goes on there."""
    source = tmp_path / "source"
    source.write_bytes(b"A" * (4 * MIB))
    pread = os.pread

    def broken(descriptor: int, length: int, offset: int) -> bytes:
        if offset >= 2 * MIB:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, min(length, 2 * MIB - offset), offset)

    monkeypatch.setattr(os, "pread", broken)
    async with pools.client() as ioctx:
        with pytest.raises(StoreFailure, match="source: Input/output error"):
            await import_file(ioctx, source, "vm")


async def test_a_source_that_grows_is_imported_as_it_was(pools: Pools, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"A" * MIB)

    def grow(_done: int, _total: int) -> None:
        with source.open("ab") as file:
            file.write(b"B" * MIB)

    async with pools.client() as ioctx:
        await import_file(ioctx, source, "vm", on_progress=grow)
        async with open_image(ioctx, "vm") as image:
            assert image.size == MIB


async def test_a_stream_of_an_image_that_becomes_smaller_has_its_length(pools: Pools, tmp_path: Path) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 12 * MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x" * (12 * MIB))
            read = image.read

            async def read_less(offset: int, length: int) -> bytes:
                data = bytes(await read(offset, length))
                return data[:MIB] if offset == 4 * MIB else data

            image.read = read_less  # type: ignore[method-assign]
            with (tmp_path / "out").open("wb") as file:
                await export_file(image, file.fileno())
    content = (tmp_path / "out").read_bytes()
    assert content == b"x" * (5 * MIB) + bytes(3 * MIB) + b"x" * (4 * MIB)
