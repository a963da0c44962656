"""The relay alone: libfuse's end of the socket is in the test's hands, and the kernel's is a list."""

import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing

from rbdfs.fuse.abi import BATCH_FORGET_IN, HEAD, IN_HEADER, OUT_HEADER, READDIR_SIZE_OFFSET, Opcode, pack_out_header
from rbdfs.fuse.device import Device
from rbdfs.fuse.negotiation import Limits
from rbdfs.fuse.notifier import Notifier
from rbdfs.fuse.relay import Relay
from rbdfs.wire import Buffer


class Kernel:
    """What came back."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []

    def write_message(self, message: Buffer) -> None:
        self.replies.append(bytes(message))


class Libfuse:
    """Reads all requests that there are before it answers any of them, as completions of a store may come at once."""

    def __init__(self, path: str) -> None:
        self.fd = int(path.rpartition("/")[2])

    def take(self) -> list[bytes]:
        requests = []
        while True:
            try:
                requests.append(os.read(self.fd, 1 << 20))
            except BlockingIOError:
                return requests

    def answer(self, request: bytes, body: bytes) -> None:
        unique = IN_HEADER.unpack_from(request).unique
        reply = pack_out_header(OUT_HEADER.size + len(body), 0, unique) + body
        assert os.write(self.fd, reply) == len(reply)  # libfuse does not try twice


@asynccontextmanager
async def relaying(kernel: Kernel) -> AsyncIterator[tuple[Relay, Libfuse]]:
    relay = Relay(cast(Device, kernel), Notifier(), Limits())
    libfuse = Libfuse(relay.detach_device())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run_requests)
            nursery.start_soon(relay.run_replies)
            with trio.fail_after(20):
                yield relay, libfuse
            nursery.cancel_scope.cancel()
    finally:
        os.close(libfuse.fd)
        relay.close()


def request_of(opcode: Opcode, unique: int, size: int = 0) -> memoryview:
    head = bytearray(HEAD.size)
    struct.pack_into("<IIQ", head, 0, HEAD.size, opcode, unique)
    struct.pack_into("<I", head, READDIR_SIZE_OFFSET, size)
    return memoryview(head)


@pytest.mark.parametrize(("opcode", "size"), [(Opcode.READ, 128 << 10), (Opcode.READDIRPLUS, 64 << 10)])
async def test_large_replies_that_come_at_once_all_arrive(opcode: Opcode, size: int) -> None:
    kernel = Kernel()
    async with relaying(kernel) as (relay, libfuse):
        for unique in range(1, 101):
            relay.forward(opcode, unique, request_of(opcode, unique, size), memoryview(b""))
        while len(kernel.replies) < 100:
            for request in libfuse.take():
                libfuse.answer(request, bytes(size))
            await trio.testing.wait_all_tasks_blocked()
    assert [OUT_HEADER.unpack_from(reply).unique for reply in kernel.replies] == list(range(1, 101))
    assert {len(reply) for reply in kernel.replies} == {OUT_HEADER.size + size}


async def test_more_to_forget_than_libfuse_can_read_comes_in_parts() -> None:
    forgets = [struct.pack("<QQ", number, 1) for number in range(60_000)]
    body = BATCH_FORGET_IN.pack(len(forgets), 0) + b"".join(forgets)
    head = IN_HEADER.pack(IN_HEADER.size + len(body), Opcode.BATCH_FORGET, 7, 0, 0, 0, 0, 0, 0)
    request = memoryview(head + body)
    found: list[bytes] = []
    async with relaying(Kernel()) as (relay, libfuse):
        relay.forward(Opcode.BATCH_FORGET, 7, request[: HEAD.size], request[HEAD.size :])
        while len(found) < len(forgets):
            for part in libfuse.take():
                header = IN_HEADER.unpack_from(part)
                assert (header.length, header.opcode) == (len(part), Opcode.BATCH_FORGET)
                assert len(part) <= 132 << 10  # what libfuse reads
                start = IN_HEADER.size + BATCH_FORGET_IN.size
                each = [part[at : at + 16] for at in range(start, len(part), 16)]
                assert BATCH_FORGET_IN.unpack_from(part, IN_HEADER.size).forgets == len(each)
                found += each
            await trio.testing.wait_all_tasks_blocked()
    assert found == forgets


async def test_what_fails_makes_room_as_well() -> None:
    kernel = Kernel()
    async with relaying(kernel) as (relay, libfuse):
        for unique in range(1, 101):
            relay.forward(Opcode.READ, unique, request_of(Opcode.READ, unique, 128 << 10), memoryview(b""))
        while len(kernel.replies) < 100:
            for request in libfuse.take():
                libfuse.answer(request, b"")
            await trio.testing.wait_all_tasks_blocked()


async def test_order_is_kept_behind_what_waits_for_room() -> None:
    kernel = Kernel()
    seen: list[int] = []
    async with relaying(kernel) as (relay, libfuse):
        for unique in range(1, 101):
            opcode = Opcode.READ if unique % 2 else Opcode.FORGET
            relay.forward(opcode, unique, request_of(opcode, unique, 128 << 10), memoryview(b""))
        while len(seen) < 100:
            for request in libfuse.take():
                header = IN_HEADER.unpack_from(request)
                seen.append(header.unique)
                if header.opcode == Opcode.READ:
                    libfuse.answer(request, bytes(128 << 10))
            await trio.testing.wait_all_tasks_blocked()
    assert seen == list(range(1, 101))
