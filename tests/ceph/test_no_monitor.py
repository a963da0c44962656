"""Monitors that give no session: the user hears which ones and why, and does not wait for nothing."""

import errno
import socket

import pytest
import trio
import trio.testing
from ceph.monitor_peer import new_key

from rbdfs.ceph.cephx.keys import KeyType
from rbdfs.ceph.cluster import connect
from rbdfs.ceph.config import ConnectOptions
from rbdfs.ceph.msgr2 import connection
from rbdfs.entities import AddrType, EntityAddr
from rbdfs.errors import TimedOut

REFUSES, ALSO, SILENT = (EntityAddr(AddrType.MSGR2, f"192.0.2.{number}", 3300) for number in (1, 2, 3))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dial(address: EntityAddr) -> socket.socket:
        if address == SILENT:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        raise OSError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(connection, "_connect", dial)


async def connecting(said: list[str], *monitors: EntityAddr, mount_timeout: float | None = None) -> tuple[float, str]:
    """Try to; gives how long that took, and the error."""
    options = ConnectOptions("client.admin", list(monitors), new_key(KeyType.AES), "here", mount_timeout=mount_timeout)
    with pytest.raises(TimedOut) as caught:
        async with connect(options, say=said.append):
            raise AssertionError
    return trio.current_time(), str(caught.value)


async def test_after_some_seconds_it_is_said_and_tried_on(autojump_clock: trio.testing.MockClock) -> None:
    said: list[str] = []
    with trio.move_on_after(4.9):
        await connecting(said, REFUSES, SILENT)
    assert not said
    with trio.move_on_after(100):
        await connecting(said, REFUSES, SILENT)
    [line] = said
    assert "192.0.2.1:3300: Connection refused" in line
    assert "192.0.2.3:3300: no answer within 3 s" in line
    assert "still trying" in line


async def test_in_the_end_the_error_names_every_monitor(autojump_clock: trio.testing.MockClock) -> None:
    seconds, error = await connecting([], REFUSES, SILENT)
    assert seconds == pytest.approx(300)
    assert "192.0.2.1:3300: Connection refused; 192.0.2.3:3300: no answer within 15 s" in error


async def test_where_all_refuse_the_end_comes_soon(autojump_clock: trio.testing.MockClock) -> None:
    seconds, error = await connecting([], REFUSES, ALSO)
    assert 30 <= seconds < 35
    assert error.endswith("192.0.2.1:3300: Connection refused; 192.0.2.2:3300: Connection refused")


async def test_who_says_how_long_to_wait_is_obeyed(autojump_clock: trio.testing.MockClock) -> None:
    seconds, _ = await connecting([], REFUSES, ALSO, mount_timeout=70)
    assert seconds == pytest.approx(70)
