"""A cluster whose ms_crc_data is false, from the first frame to a map."""

from pathlib import Path

import pytest
import trio
import trio.testing
from ceph.monitor_peer import MonitorPeer, TicketMonitor, UnsummedFrames, a_map, new_key

from rbdfs.ceph.cephx.keys import KeyType
from rbdfs.ceph.cluster import connect
from rbdfs.ceph.config import ConnectOptions, Flags, load
from rbdfs.ceph.msgr2 import connection
from rbdfs.ceph.msgr2.frames import CrcFrames

KEY = new_key(KeyType.AES)


def configured(directory: Path, text: str = "") -> ConnectOptions:
    """What a ceph.conf with more lines says."""
    conf = directory / "ceph.conf"
    conf.write_text(f"[global]\nmon host = 192.0.2.1\nkey = {KEY.to_text()}\n{text}\n")
    return load(Flags(conf=str(conf)), {})


async def connect_to(codec: type[CrcFrames], options: ConnectOptions) -> str:
    """Connect to a monitor that sends such frames; gives what was said where that took long."""
    monitor, said = MonitorPeer(TicketMonitor(KEY), a_map(), codec), [""]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "_connect", monitor.connect)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(monitor.serve)
            with trio.move_on_after(10):
                async with connect(options, say=said.append) as cluster:
                    assert cluster.osdmap.epoch
            nursery.cancel_scope.cancel()
    return said[-1]


@pytest.mark.parametrize("mode", ["crc", "secure"])
@pytest.mark.parametrize("codec", [CrcFrames, UnsummedFrames])
async def test_either_kind_of_monitor_is_understood_where_the_file_says_so(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, codec: type[CrcFrames], mode: str
) -> None:
    options = configured(tmp_path, f"ms crc data = false\nms mon client mode = {mode}")
    assert await connect_to(codec, options) == ""


async def test_likely_cause_is_named_where_the_file_says_nothing(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    said = await connect_to(UnsummedFrames, configured(tmp_path))
    assert "192.0.2.1:3300: frame 1 with a wrong checksum" in said
    assert "(is ms_crc_data false there?)" in said
