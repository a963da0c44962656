"""Whole images in and out of files and streams, and into other images, holes kept.

A hole is what the source says is one (SEEK_HOLE), and any run of zeroes in whole units of 4 KiB.
"""

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar, Unpack

import trio

from rbdfs.errors import RbdfsError, StoreFailure, from_result
from rbdfs.image import directory
from rbdfs.image.copying import can_share
from rbdfs.image.features import Feature
from rbdfs.image.image import Image, open_image
from rbdfs.image.layout import ImageLayout
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.image.tasks import for_each, open_tasks
from rbdfs.rados.api import IoCtx

_CHUNK = 4 << 20
_UNIT = 4096  # rbd import --sparse-size
_AT_ONCE = 8  # chunks in memory
_ZERO_UNIT = bytes(_UNIT)

# What a copy has by itself, or not at all (librbd: RBD_FEATURES_IMPLICIT_ENABLE).
_NOT_COPIED = Feature.STRIPINGV2 | Feature.DATA_POOL | Feature.OPERATIONS | Feature.MIGRATING | Feature.NON_PRIMARY

T = TypeVar("T")


class _File(NamedTuple):
    """A file or a stream that is open."""

    descriptor: int
    where: str  # for messages


async def import_file(
    ioctx: IoCtx, source: Path | int, name: str, *, on_progress: OnProgress = quiet, **layout: Unpack[ImageLayout]
) -> None:
    """Make an image of a file, a block device or (a descriptor) a stream; nothing is left of it if that fails."""
    async with _opened(source, os.O_RDONLY) as file:
        size = _size_of(file.descriptor, source)
        async with _new_image(ioctx, name, size or 0, layout) as image:
            if size is None:
                await _import_stream(image, file, on_progress)
            else:
                await _import_seekable(image, file, size, on_progress)


async def copy_image(
    source: Image, ioctx: IoCtx, name: str, *, on_progress: OnProgress = quiet, **layout: Unpack[ImageLayout]
) -> None:
    """Make an image of another one, or of the snapshot that is open: its data and its metadata.

    It is laid out as the other one, but for what is asked for, and in the pool's own data pool. Where the store can,
    they share what they hold until one of them is written. Nothing is left of it if that fails.
    """
    async with _new_image(ioctx, name, source.size, _layout_like(source, layout)) as image:
        for key, value in (await source.metadata_list()).items():
            await image.metadata_set(key, value)
        size, done = source.size, 0

        async def copy(extent: tuple[int, int]) -> None:
            nonlocal done
            offset, length = extent
            if can_share(image, source):
                await image.copy_range(source, offset, offset, length)
            else:
                await _write_data(image, offset, await source.read(offset, length))
            done = max(done, offset + length)
            on_progress(done, size)

        await for_each(_chunks_of(await source.data_extents(0, size)), copy, at_once=_AT_ONCE)


def _layout_like(image: Image, wanted: ImageLayout) -> ImageLayout:
    """The layout of an image, but for what is wanted; nothing of it is left to defaults."""
    header = image.header
    layout: ImageLayout = {"order": header.order, "features": header.features & ~_NOT_COPIED}
    if header.features & Feature.STRIPINGV2:
        layout |= {"stripe_unit": header.stripe_unit, "stripe_count": header.stripe_count}
    layout |= wanted
    if "stripe_unit" not in layout:
        layout |= {"stripe_unit": 1 << layout["order"], "stripe_count": 1}
    return layout


@asynccontextmanager
async def _new_image(ioctx: IoCtx, name: str, size: int, layout: ImageLayout) -> AsyncIterator[Image]:
    """A new image, open; it is removed where the block fails."""
    await directory.create(ioctx, name, size, **layout)
    try:
        async with open_image(ioctx, name) as image:
            yield image
    except BaseException:
        with trio.CancelScope(shield=True), suppress(RbdfsError):  # what went wrong first is what counts
            await directory.remove(ioctx, name)
        raise


async def _import_seekable(image: Image, file: _File, size: int, on_progress: OnProgress) -> None:
    done = 0

    async def copy(extent: tuple[int, int]) -> None:
        nonlocal done
        offset, length = extent
        data = await _in_thread(_pread_full, file, length, offset)
        if len(data) < length:
            raise StoreFailure(f"{file.where}: has become smaller")
        await _write_data(image, offset, data)
        done = max(done, offset + len(data))
        on_progress(done, size)

    await for_each(_data_chunks(file, size), copy, at_once=_AT_ONCE)
    on_progress(size, size)


async def _import_stream(image: Image, file: _File, on_progress: OnProgress) -> None:
    """The size is known at the end; until then the image is made twice as large whenever it gets too small."""
    position = 0
    async with open_tasks() as nursery:
        slots = trio.Semaphore(_AT_ONCE)
        while data := await _in_thread(_read_full, file, _CHUNK, is_stream=True):
            if position + len(data) > image.size:
                await image.resize(max(2 * image.size, position + len(data)))
            await slots.acquire()
            nursery.start_soon(_write_and_release, image, position, data, slots)
            position += len(data)
            on_progress(position, 0)
    await image.resize(position)


async def _write_and_release(image: Image, offset: int, data: bytes, slots: trio.Semaphore) -> None:
    try:
        await _write_data(image, offset, data)
    finally:
        slots.release()


async def _write_data(image: Image, offset: int, data: bytes) -> None:
    view = memoryview(data)
    for start, end in _nonzero_runs(view):
        await image.write(offset + start, view[start:end])


def _nonzero_runs(data: memoryview) -> Iterator[tuple[int, int]]:
    """The parts of a chunk, in whole units, that are not all zeroes."""
    start = -1
    for position in range(0, len(data), _UNIT):
        unit = data[position : position + _UNIT]
        if unit == _ZERO_UNIT or (len(unit) < _UNIT and not any(unit)):
            if start >= 0:
                yield start, position
            start = -1
        elif start < 0:
            start = position
    if start >= 0:
        yield start, len(data)


async def export_file(image: Image, target: Path | int, *, on_progress: OnProgress = quiet) -> None:
    """Write an image (or the snapshot that is open) to a new file, or (a descriptor) to a stream.

    No file is left if that fails: one of the right size and with holes in it would look complete.
    """
    async with _opened(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
        size = image.size
        if isinstance(target, Path):
            try:
                await _in_thread(os.ftruncate, file, size)
                await _export_seekable(image, file, size, on_progress)
            except BaseException:
                os.unlink(target)
                raise
        else:
            await _export_stream(image, file, size, on_progress)
        on_progress(size, size)


async def _export_seekable(image: Image, file: _File, size: int, on_progress: OnProgress) -> None:
    done = 0

    async def copy(extent: tuple[int, int]) -> None:
        nonlocal done
        offset, length = extent
        await _in_thread(_write_full, file, await image.read(offset, length), offset)
        done = max(done, offset + length)
        on_progress(done, size)

    await for_each(_chunks_of(await image.data_extents(0, size)), copy, at_once=_AT_ONCE)


async def _export_stream(image: Image, file: _File, size: int, on_progress: OnProgress) -> None:
    """In order, with the reads running ahead of the writes."""
    send, receive = trio.open_memory_channel[tuple[trio.Event, list[bytes]]](_AT_ONCE)

    async def read(offset: int, ready: trio.Event, slot: list[bytes]) -> None:
        length = min(_CHUNK, size - offset)
        data = await image.read(offset, length)
        slot.append(data + bytes(length - len(data)))  # another client may have made the image smaller
        ready.set()

    async def read_ahead(nursery: trio.Nursery) -> None:
        async with send:
            for offset in range(0, size, _CHUNK):
                ready, slot = trio.Event(), list[bytes]()
                await send.send((ready, slot))
                nursery.start_soon(read, offset, ready, slot)

    done = 0
    async with receive, open_tasks() as nursery:  # the reader ahead is stopped before its channel goes
        nursery.start_soon(read_ahead, nursery)
        async for ready, slot in receive:
            await ready.wait()
            await _in_thread(_write_full, file, slot[0], None, is_stream=True)
            done += len(slot[0])
            on_progress(done, size)


@asynccontextmanager
async def _opened(place: Path | int, flags: int) -> AsyncIterator[_File]:
    if isinstance(place, int):
        yield _File(place, {0: "standard input", 1: "standard output"}.get(place, "stream"))
        return
    open_it = partial(os.open, place, flags | os.O_CLOEXEC, 0o644)
    try:
        # A thread: a FIFO waits for its other side.
        descriptor = await trio.to_thread.run_sync(open_it, abandon_on_cancel=True)
    except OSError as err:
        raise _local_error(err, str(place)) from err
    try:
        yield _File(descriptor, str(place))
    finally:
        os.close(descriptor)


def _size_of(descriptor: int, source: Path | int) -> int | None:
    """Bytes of a file or block device; None for a stream."""
    kind = os.fstat(descriptor).st_mode
    if isinstance(source, int) or not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        return None
    return os.lseek(descriptor, 0, os.SEEK_END)


def _data_chunks(file: _File, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            start = os.lseek(file.descriptor, position, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:  # a hole up to the end
                return
            if err.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise _local_error(err, file.where) from err
            start = position  # a device, or a filesystem, that does not tell
        try:
            position = min(os.lseek(file.descriptor, start, os.SEEK_HOLE), size)
        except OSError:
            position = size
        if start >= size:  # what it has grown by since
            return
        yield from _chunks_of([(start, position - start)])


def _chunks_of(extents: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Extents cut where chunks begin."""
    for offset, length in extents:
        end = offset + length
        while offset < end:
            stop = min(end, (offset // _CHUNK + 1) * _CHUNK)
            yield offset, stop - offset
            offset = stop


def _pread_full(descriptor: int, length: int, offset: int) -> bytes:
    """A read ends early before what cannot be read; the next one says why."""
    parts: list[bytes] = []
    while length and (part := os.pread(descriptor, length, offset)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)


def _read_full(descriptor: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length and (part := os.read(descriptor, length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _write_full(descriptor: int, data: bytes, offset: int | None) -> None:
    view = memoryview(data)
    while view:
        if offset is None:
            written = os.write(descriptor, view)
        else:
            written = os.pwrite(descriptor, view, offset)
            offset += written
        view = view[written:]


async def _in_thread(work: Callable[..., T], file: _File, *arguments: object, is_stream: bool = False) -> T:
    """File I/O may wait for a disk: worth the hop. A stream may wait for ever, so whoever is interrupted leaves it."""
    try:
        return await trio.to_thread.run_sync(partial(work, file.descriptor, *arguments), abandon_on_cancel=is_stream)
    except OSError as err:
        raise _local_error(err, file.where) from err


def _local_error(err: OSError, where: str) -> RbdfsError:
    return from_result(-(err.errno or errno.EIO), f"{where}: {err.strerror}")
