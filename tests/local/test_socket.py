"""What goes over a store's socket: whole messages whatever the pieces, and nothing that could hurt the owner."""

import errno
import socket
import struct
from pathlib import Path

import calls
import msgpack
import pytest
import trio
from hypothesis import given, strategies as st

from rbdfs import errors
from rbdfs.errors import ExtentMismatch, NotSupported, ProtocolError, RbdfsError, UnknownResult
from rbdfs.local import cluster as cluster_module, codec, store
from rbdfs.local.cluster import open_store
from rbdfs.local.link import Link, short_address
from rbdfs.rados.ops import ReadOp, SnapContext, SnapId, Write, WriteOp

ALL_ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RbdfsError) and kind not in (ExtentMismatch, UnknownResult)
]


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_every_error_arrives_as_what_it_was(kind: type[RbdfsError]) -> None:
    arrived = codec.unpack_error(codec.pack_error(kind("vm: no")))
    assert (type(arrived), str(arrived)) == (kind, "vm: no")


def test_errors_with_a_number_keep_it() -> None:
    mismatch = codec.unpack_error(codec.pack_error(ExtentMismatch("differs", 17)))
    assert isinstance(mismatch, ExtentMismatch)
    assert mismatch.offset == 17
    assert codec.unpack_error(codec.pack_error(UnknownResult("odd", errno.ENOLCK))).errno == errno.ENOLCK
    with pytest.raises(ProtocolError):
        codec.unpack_error(["SystemExit", "", 0])


@given(data=st.binary(max_size=3000), snaps=st.lists(st.integers(1, 2**63 - 1), max_size=3))
def test_ops_arrive_as_they_were(data: bytes, snaps: list[int]) -> None:
    op = WriteOp([Write(5, memoryview(data))], SnapContext(7, tuple(map(SnapId, snaps))), full_try=True)
    packer = codec.Packer()
    header = packer.header(*codec.pack_op(packer, codec.Place(codec.PoolId(1), "n\udcff"), "o", op))
    payload = memoryview(b"".join(packer.payload))
    place, name, arrived = codec.unpack_op(codec.unpack(header, payload))
    assert (place, name) == ((1, "n\udcff"), "o")
    assert isinstance(arrived, WriteOp)
    assert (arrived.snapc, arrived.full_try) == (op.snapc, True)
    (step,) = arrived.steps
    assert isinstance(step, Write)
    assert (step.offset, bytes(step.data)) == (5, data)


@given(garbage=st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    try:
        fields = codec.unpack(garbage, memoryview(b""))
    except ProtocolError:
        return
    assert msgpack.unpackb(garbage, strict_map_key=False, unicode_errors="surrogateescape") == fields


async def test_messages_of_any_size_arrive_whole_and_in_order() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = Link(ours), Link(theirs)
    sizes = [0, 1, 1023, 1024, 5000, 262_144, 3_000_000, 7, 700_000, 262_130] * 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run_sender)
        for number, size in enumerate(sizes):
            data = bytes([number]) * size
            sender.send(lambda packer, number=number, data=data: [number, packer.bulk(data)])
        arrived = []
        for number, size in enumerate(sizes):
            fields = await receiver.receive()
            assert fields is not None
            arrived.append(fields[1])
            assert (fields[0], len(fields[1])) == (number, size)
        for number, data in enumerate(arrived):  # those before are not written over by those after
            assert bytes(data) == bytes([number]) * len(data)
        await sender.drain()
        sender.close()
        assert await receiver.receive() is None
        receiver.close()


@pytest.mark.complains("an attached process is dropped")
@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<IQ", 5, 0) + b"\xc1\xc1\xc1\xc1\xc1",
        struct.pack("<IQ", 2**32 - 1, 2**60),
        struct.pack("<IQ", 4, 0) + msgpack.packb(["hi"]),
        struct.pack("<IQ", 1, 0) + msgpack.packb(7),
    ],
)
async def test_owner_survives_whoever_comes_in(
    tmp_path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        with socket.socket(socket.AF_UNIX) as stranger, short_address(path, store.SOCKET) as address:
            stranger.connect(address)
            stranger.sendall(garbage)
            stranger.setblocking(False)
            with trio.fail_after(10):
                await trio.lowlevel.wait_readable(stranger)
            assert stranger.recv(1) == b""
        async with open_store(path) as attached:
            await calls.write(await attached.open_pool("rbd"), "o", 0, b"x")
    assert "dropped" in caplog.text


async def test_owner_of_another_version_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True):

        class Newer:
            PROTOCOL = codec.PROTOCOL + 1
            unpack_error = staticmethod(codec.unpack_error)

        monkeypatch.setattr(cluster_module, "codec", Newer)
        with pytest.raises(NotSupported, match=f"speaks version {codec.PROTOCOL}, not"):
            async with open_store(path):
                pass


async def test_step_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True) as cluster:
        await cluster.create_pool("rbd")
        with pytest.raises(errors.InvalidArgument, match="Write is not a step of such an op"):
            await (await cluster.open_pool("rbd")).operate("o", ReadOp([Write(0, b"")]))  # type: ignore[list-item]
