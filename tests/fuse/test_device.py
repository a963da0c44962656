"""The device alone: a socket pair has the kernel's end."""

import os
import socket

import trio

from rbdfs.fuse.device import Device


async def test_a_reply_that_comes_after_the_end_goes_nowhere() -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel:
        device = Device(ours.detach(), 4096)
        device.acknowledge(7)
        assert len(kernel.recv(100)) == 16
        reader, writer = os.pipe()
        device.close()
        os.dup2(writer, device.fd)  # somebody else's file has the number now
        os.close(writer)
        device.acknowledge(8)
        device.fail(9, 5)
        device.reply(10, b"data")
        os.close(device.fd)
        assert os.read(reader, 100) == b""
        os.close(reader)
        await trio.lowlevel.checkpoint()


async def test_a_reply_of_more_parts_than_one_write_may_have() -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel:
        device = Device(ours.detach(), 4096)
        parts = tuple(bytes([number % 256]) * 4 for number in range(2048))
        device.reply_soon(7, parts, 8192)
        assert kernel.recv(1 << 16)[16:] == b"".join(parts)
        device.close()
