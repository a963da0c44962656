"""A network that flips bits and cuts connections, between us and a real OSD: nothing is lost, doubled or wrong."""

import random
import socket
from collections import Counter
from contextlib import suppress

import pytest
import trio
from ceph_cluster import POOL, CephCluster

from rbdfs.ceph.cluster import connect
from rbdfs.ceph.config import ConnectOptions, Flags, load
from rbdfs.ceph.msgr2 import connection
from rbdfs.ceph.msgr2.login import Mode
from rbdfs.entities import EntityAddr
from rbdfs.rados.ops import Append, Read, ReadOp, Write, WriteOp

pytestmark = pytest.mark.cluster

WORKERS, ROUNDS, SIZE = 8, 40, 20_000
TOKEN = 8


class BadCable:
    """Stands between our sockets and the network's; spares the monitors, whom a login may ask only once."""

    def __init__(self, nursery: trio.Nursery, options: ConnectOptions, seed: int) -> None:
        self.dice = random.Random(seed)
        self.damages = self.cuts = 0
        self._nursery = nursery
        self._spared = {monitor.port for monitor in options.monitors}

    async def connect(self, address: EntityAddr) -> socket.socket:
        """In place of the messenger's own."""
        there = trio.socket.socket()
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await there.connect(address.sockaddr)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        here = trio.socket.from_stdlib_socket(theirs)
        is_bad = address.port not in self._spared
        self._nursery.start_soon(self._pump, here, there, is_bad)
        self._nursery.start_soon(self._pump, there, here, is_bad)
        return ours

    async def _pump(self, source: trio.socket.SocketType, sink: trio.socket.SocketType, is_bad: bool) -> None:
        with suppress(OSError, trio.ClosedResourceError):
            while data := bytearray(await source.recv(65536)):
                if is_bad:
                    if self.dice.random() < 0.02:
                        self.damages += 1
                        data[self.dice.randrange(len(data))] ^= 1 << self.dice.randrange(8)
                    if self.dice.random() < 0.02:
                        self.cuts += 1
                        break
                view = memoryview(data)
                while view:
                    view = view[await sink.send(view) :]
        source.close()
        sink.close()


@pytest.mark.parametrize("mode", list(Mode))
async def test_every_op_is_done_once(ceph_cluster: CephCluster, monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    options = load(Flags(conf=str(ceph_cluster.conf)), {"CEPH_ARGS": f"--ms-client-mode {mode.name.lower()}"})
    name = f"log-{mode.name}"
    async with trio.open_nursery() as nursery:
        cable = BadCable(nursery, options, seed=mode)
        monkeypatch.setattr(connection, "_connect", cable.connect)
        async with connect(options) as cluster:
            ioctx = await cluster.open_pool(POOL)

            async def work(worker: int) -> None:
                dice = random.Random(worker)
                for number in range(ROUNDS):
                    await ioctx.operate(name, WriteOp([Append(b"%03d-%03d " % (worker, number))]))
                    data = dice.randbytes(SIZE)
                    await ioctx.operate(f"{name}.{worker}", WriteOp([Write(0, data)]))
                    reply = await ioctx.operate(f"{name}.{worker}", ReadOp([Read(0, SIZE)]))
                    assert bytes(reply.outputs[0]) == data

            with trio.fail_after(120):
                async with trio.open_nursery() as workers:
                    for worker in range(WORKERS):
                        workers.start_soon(work, worker)
            log = bytes((await ioctx.operate(name, ReadOp([Read(0, 0)]))).outputs[0])
        nursery.cancel_scope.cancel()
    tokens = Counter(log[start : start + TOKEN] for start in range(0, len(log), TOKEN))
    assert tokens == Counter({b"%03d-%03d " % (w, n): 1 for w in range(WORKERS) for n in range(ROUNDS)})
    assert cable.damages > 3
    assert cable.cuts > 3
