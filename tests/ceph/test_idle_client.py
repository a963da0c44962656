"""A client that has nothing to do, for a thousand minutes of simulated time."""

import gc
import os

import pytest
import trio
import trio.testing
from ceph.monitor_peer import MonitorPeer, TicketMonitor, a_map, new_key

from rbdfs.ceph.cephx.keys import KeyType
from rbdfs.ceph.cluster import connect
from rbdfs.ceph.config import ConnectOptions
from rbdfs.ceph.msgr2 import connection
from rbdfs.ceph.msgr2.login import Mode


@pytest.mark.parametrize(("key_type", "mode"), [(KeyType.AES, Mode.CRC), (KeyType.AES256KRB5, Mode.SECURE)])
async def test_thousand_idle_minutes_lose_nothing(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, key_type: KeyType, mode: Mode
) -> None:
    key = new_key(key_type)
    tickets = TicketMonitor(key, key_type, ttl=3600)
    monitor = MonitorPeer(tickets, a_map())
    monkeypatch.setattr(connection, "_connect", monitor.connect)
    options = ConnectOptions("client.admin", [monitor.address], key, "here", modes=(mode,), monitor_modes=(mode,))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.serve)
        async with connect(options) as cluster:
            await trio.sleep(60)
            gc.collect()
            objects, descriptors = len(gc.get_objects()), len(os.listdir("/proc/self/fd"))
            await trio.sleep(1000 * 60)
            gc.collect()
            assert monitor.expired == 0
            assert tickets.logins == monitor.sessions == 3  # the AUTH ticket is good for ten hours
            assert tickets.logins + tickets.renewals == 1 + 1000 // 45
            assert cluster.monitors.credentials.global_id == 4100
            assert len(gc.get_objects()) <= objects + 500
            assert len(os.listdir("/proc/self/fd")) == descriptors
        nursery.cancel_scope.cancel()
