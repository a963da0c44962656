"""Who watched a store, as its next owner finds it written."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import calls
import msgpack
import pytest
import trio

from rbdfs.errors import Corrupt
from rbdfs.local import absentees, journal, store
from rbdfs.local.absentees import Absentee, Process
from rbdfs.local.cluster import open_store
from rbdfs.local.media import Media

OTHER = Absentee(1, "", "rbd_header.\udc80", 7, "127.0.0.1:0/1", 3, 30, 30, 0, 0)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield running
    running.communicate()


def test_process_has_gone_once_it_has_ended(process: subprocess.Popen[bytes]) -> None:
    found = Process.of(process.pid)
    assert not found.has_gone
    assert found._replace(started=found.started + 1).has_gone, "another one has that pid"
    assert not found._replace(started=0).has_gone
    process.kill()
    process.wait()
    assert found.has_gone
    assert found._replace(started=0).has_gone


def test_process_that_cannot_be_seen_has_not_gone() -> None:
    assert not Process.of(0).has_gone


def test_only_those_of_this_boot_are_waited_for(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = OTHER._replace(pid=process.pid, started=Process.of(process.pid).started)
    setting = absentees.pack([OTHER, running])
    assert absentees.unpack(setting) == [OTHER, running]
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(absentees, "_pid_namespace", lambda: "another")
        assert [each.pid for each in absentees.unpack(setting)] == [0, 0]
    process.kill()
    process.wait()
    assert absentees.unpack(setting) == [OTHER]
    monkeypatch.setattr(absentees, "_boot", lambda: "another")
    assert absentees.unpack(setting) == []


def test_nobody_takes_no_room() -> None:
    assert absentees.pack([]) == b""
    assert absentees.unpack(b"") == []


@pytest.mark.parametrize(
    "setting",
    [
        5,
        "text",
        b"\xc1",
        absentees.pack([OTHER])[:-1],
        msgpack.packb([None, None, [5]]),
        msgpack.packb(["", "", [[1, 2]]]),
        absentees.pack([OTHER._replace(pid=-1)]),
        absentees.pack([OTHER._replace(pid=1 << 40)]),
    ],
)
def test_damage_is_told_from_a_setting(setting: object) -> None:
    with pytest.raises(Corrupt, match="setting watches"):
        absentees.unpack(setting)


def stored(path: Path) -> object:
    with closing(sqlite3.connect(path / store.METADATA)) as database:
        return dict(database.execute("SELECT key, value FROM store")).get("watches")


@pytest.mark.complains("nobody who watched is waited for")
async def test_store_with_a_damaged_setting_opens(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_store(path, create=True):
        pass
    with closing(sqlite3.connect(path / store.METADATA)) as database:
        database.execute("INSERT INTO store VALUES ('watches', x'c1')")
        database.commit()
    async with open_store(path):
        pass
    assert stored(path) == b""


async def test_a_watch_is_stored_while_it_lasts_and_does_not_keep_a_store_from_resting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    commits = 0
    commit = Media.commit

    def counted(*arguments: object) -> None:
        nonlocal commits
        commits += 1
        commit(*arguments)  # type: ignore[arg-type]

    async with open_store(path, create=True) as cluster, open_store(path) as attached:
        await cluster.create_pool("rbd")
        ours, theirs = await cluster.open_pool("rbd"), await attached.open_pool("rbd")
        await calls.write(ours, "o", 0, b"x")
        await ours.flush()
        monkeypatch.setattr(journal, "INTERVAL", 0.3)
        monkeypatch.setattr(Media, "commit", counted)
        await ours.watch("o", lambda _: None)
        watch = await theirs.watch("o", lambda _: None)
        await theirs.flush()
        await watch.close()
        await trio.sleep(0.5)
        assert (commits, stored(path)) == (0, None)
        watch = await theirs.watch("o", lambda _: None)
        await trio.sleep(1)
        assert commits == 1
        assert stored(path)
        await watch.close()
        await trio.sleep(1)
        assert (commits, stored(path)) == (2, b"")
