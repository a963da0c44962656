"""INIT and OPEN as both servers of one connection see them."""

import struct

import pytest

from rbdfs.errors import ProtocolError
from rbdfs.fuse.abi import IN_HEADER, INIT_IN, INIT_OUT, OPEN_OUT, OUT_HEADER, InitFlag, OpenFlag
from rbdfs.fuse.negotiation import Limits, init_for_kernel, init_for_libfuse, with_parallel_writes


def kernel_init(flags: InitFlag, *, major: int = 7, minor: int = 45) -> bytes:
    body = INIT_IN.pack(major, minor, 131072, int(flags) & 0xFFFFFFFF)
    body += struct.pack("<I", int(flags) >> 32).ljust(48, b"\0")
    return IN_HEADER.pack(40 + len(body), 26, 7, 0, 0, 0, 0, 0, 0) + body


def libfuse_reply(flags: int, error: int = 0) -> bytes:
    body = struct.pack("<IIIIHHI", 7, 13, 131072, flags, 0, 0, 131072)
    return OUT_HEADER.pack(16 + len(body), error, 7) + body


EVERYTHING = InitFlag((1 << 64) - 1)


def test_libfuse_is_shown_an_old_kernel_without_large_requests() -> None:
    shown = init_for_libfuse(kernel_init(EVERYTHING))
    init = INIT_IN.unpack_from(shown, IN_HEADER.size)
    assert init.minor == 13
    assert not init.flags & (InitFlag.MAX_PAGES | InitFlag.INIT_EXT | InitFlag.ATOMIC_O_TRUNC)
    assert init.flags & InitFlag.DO_READDIRPLUS
    assert len(shown) == len(kernel_init(EVERYTHING))


def test_kernel_is_told_our_sizes_and_flags() -> None:
    reply = init_for_kernel(kernel_init(EVERYTHING), libfuse_reply(int(InitFlag.ATOMIC_O_TRUNC)), Limits())
    init = INIT_OUT.unpack_from(reply, OUT_HEADER.size)
    flags = init.flags | init.flags2 << 32
    assert len(reply) == OUT_HEADER.unpack_from(reply).length == 80
    assert (init.major, init.minor, init.max_write, init.max_pages) == (7, 45, 1 << 20, 256)
    assert (init.max_background, init.congestion_threshold) == (256, 192)
    assert flags & InitFlag.EXPLICIT_INVAL_DATA
    assert flags & InitFlag.DIRECT_IO_ALLOW_MMAP
    assert not flags & (InitFlag.ATOMIC_O_TRUNC | InitFlag.AUTO_INVAL_DATA | InitFlag.WRITEBACK_CACHE)


def test_nothing_is_claimed_that_the_kernel_did_not_offer() -> None:
    old = InitFlag.ASYNC_READ | InitFlag.BIG_WRITES | InitFlag.DO_READDIRPLUS
    reply = init_for_kernel(kernel_init(old, minor=23), libfuse_reply(0xFFFFFFFF), Limits())
    init = INIT_OUT.unpack_from(reply, OUT_HEADER.size)
    assert init.minor == 23
    assert init.flags == old
    assert init.flags2 == 0
    assert init.max_write == 128 << 10


def test_writeback_cache_only_where_asked_for() -> None:
    reply = init_for_kernel(kernel_init(EVERYTHING), libfuse_reply(0), Limits(has_writeback_cache=True))
    assert INIT_OUT.unpack_from(reply, OUT_HEADER.size).flags & InitFlag.WRITEBACK_CACHE


def test_unknown_major_version_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"8\.0"):
        init_for_libfuse(kernel_init(EVERYTHING, major=8, minor=0))


def test_refusal_of_libfuse_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="71"):
        init_for_kernel(kernel_init(EVERYTHING), libfuse_reply(0, error=-71), Limits())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (OpenFlag.KEEP_CACHE, OpenFlag.KEEP_CACHE),
        (OpenFlag.DIRECT_IO, OpenFlag.DIRECT_IO | OpenFlag.PARALLEL_DIRECT_WRITES),
    ],
)
def test_direct_files_get_parallel_writes(flags: OpenFlag, expected: OpenFlag) -> None:
    reply = bytearray(OUT_HEADER.pack(32, 0, 9) + OPEN_OUT.pack(5, flags, 0))
    with_parallel_writes(reply, OUT_HEADER.size)
    assert OPEN_OUT.unpack_from(reply, OUT_HEADER.size) == (5, expected, 0)
