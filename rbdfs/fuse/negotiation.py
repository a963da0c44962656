"""INIT and OPEN, seen by both servers of one connection: what libfuse is shown, and what the kernel is told.

libfuse sits behind a socket and serves names only, so it is shown an older kernel than there is: minor version 13
keeps it from splicing and from buffers of 2 MiB, and changes no structure that it parses. The kernel gets the answer
that the data lane can keep: requests of 1 MiB, a deep background queue, caches that we invalidate ourselves.

    kernel --INIT 7.45--> init_for_libfuse --INIT 7.13--> libfuse
    kernel <--7.45, our sizes-- init_for_kernel <--INIT reply-- libfuse
"""

import struct
from dataclasses import dataclass, replace

from rbdfs.errors import ProtocolError
from rbdfs.fuse.abi import (
    IN_HEADER,
    INIT_IN,
    INIT_OUT,
    INIT_OUT_RESERVE,
    MINOR_VERSION,
    OPEN_OUT,
    OUT_HEADER,
    InitFlag,
    InitIn,
    OpenFlag,
)
from rbdfs.wire import Buffer

LIBFUSE_MINOR = 13
PAGE = 4096

# Never given to libfuse nor to the kernel, with the reason:
#   ATOMIC_O_TRUNC           an O_TRUNC would reach only open, where pyfuse3 has no place for it
#   AUTO_INVAL_DATA          drops the page cache after our own writes; EXPLICIT_INVAL_DATA leaves that to the notifier
#   READDIRPLUS_AUTO         pyfuse3 serves only readdirplus
#   ABORT_ERROR              a second way for the device to say that the mount is gone
#   SETXATTR_EXT             changes a request that libfuse parses
_DROP = (
    InitFlag.ATOMIC_O_TRUNC
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.HANDLE_KILLPRIV
    | InitFlag.ABORT_ERROR
    | InitFlag.SETXATTR_EXT
    | InitFlag.WRITEBACK_CACHE
)
# HANDLE_KILLPRIV_V2: set-user-id bits are never kept here, and with it the kernel asks an inode for security.capability
# once, where it would ask before every write.
_WANT = (
    InitFlag.ASYNC_READ
    | InitFlag.BIG_WRITES
    | InitFlag.ASYNC_DIO
    | InitFlag.DO_READDIRPLUS
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.EXPLICIT_INVAL_DATA
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.MAX_PAGES
    | InitFlag.INIT_EXT
    | InitFlag.DIRECT_IO_ALLOW_MMAP
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes and depths that the kernel is told."""

    max_write: int = 1 << 20  # a quarter of a default object; larger requests gained nothing
    max_background: int = (
        256  # direct aio, read-ahead and write-back all count; the kernel's default of 12 starves them
    )
    congestion_threshold: int = 192
    has_writeback_cache: bool = False


SINGLE_LANE_MAX_WRITE = 128 << 10  # libfuse's buffer at minor version 13


def init_flags_offered(request: Buffer) -> tuple[InitIn, InitFlag]:
    """The kernel's INIT request: its fixed part, and all flags that it offers."""
    init = INIT_IN.unpack_from(request, IN_HEADER.size)
    if init.major != 7:
        raise ProtocolError(f"the kernel speaks FUSE {init.major}.{init.minor}, version 7 is known")
    flags = init.flags
    if flags & InitFlag.INIT_EXT:
        flags |= struct.unpack_from("<I", request, IN_HEADER.size + INIT_IN.size)[0] << 32
    return init, InitFlag(flags)


def init_for_libfuse(request: Buffer) -> bytes:
    """The INIT request that libfuse is shown."""
    init, flags = init_flags_offered(request)
    shown = bytearray(request)
    shown_flags = int(flags) & 0xFFFFFFFF & ~int(InitFlag.MAX_PAGES | InitFlag.INIT_EXT | _DROP)
    INIT_IN.pack_into(
        shown, IN_HEADER.size, init.major, min(init.minor, LIBFUSE_MINOR), init.max_readahead, shown_flags
    )
    if flags & InitFlag.INIT_EXT:
        struct.pack_into("<I", shown, IN_HEADER.size + INIT_IN.size, 0)
    return bytes(shown)


def init_for_kernel(request: Buffer, reply: Buffer, limits: Limits) -> bytes:
    """The INIT reply for the kernel, from its request and libfuse's reply."""
    header = OUT_HEADER.unpack_from(reply)
    if header.error:
        raise ProtocolError(f"libfuse refused to start: error {-header.error}")
    init, offered = init_flags_offered(request)
    wanted_by_libfuse = INIT_IN.unpack_from(reply, OUT_HEADER.size).flags
    flags = ((wanted_by_libfuse & ~int(_DROP)) | _WANT) & offered
    if limits.has_writeback_cache:
        flags |= InitFlag.WRITEBACK_CACHE & offered
    if not flags & InitFlag.MAX_PAGES:
        limits = replace(limits, max_write=min(limits.max_write, 32 * PAGE))  # before Linux 4.20
    body = INIT_OUT.pack(
        init.major,
        min(init.minor, MINOR_VERSION),
        init.max_readahead,  # a reply can only lower it
        int(flags) & 0xFFFFFFFF,
        limits.max_background,
        limits.congestion_threshold,
        limits.max_write,
        1,  # timestamps to the nanosecond
        limits.max_write // PAGE,
        0,
        int(flags) >> 32 if flags & InitFlag.INIT_EXT else 0,
        0,
    )
    length = OUT_HEADER.size + len(body) + len(INIT_OUT_RESERVE)
    return OUT_HEADER.pack(length, 0, header.unique) + body + INIT_OUT_RESERVE


def with_parallel_writes(reply: bytearray, offset: int) -> None:
    """Let direct writers of a file opened for direct I/O work side by side; pyfuse3 has no word for it.

    `offset` is where the OpenOut begins.
    """
    opened = OPEN_OUT.unpack_from(reply, offset)
    if opened.open_flags & OpenFlag.DIRECT_IO:
        flags = opened.open_flags | OpenFlag.PARALLEL_DIRECT_WRITES
        OPEN_OUT.pack_into(reply, offset, opened.fh, flags, opened.backing_id)
