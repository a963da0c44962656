"""Commands on a mounted store, all at once, while its files are written: each does its work, none disturbs another."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mount.daemon import Daemon, soon

pytestmark = pytest.mark.mount

MIB = 1 << 20
KEPT = b"kept" * MIB


def test_commands_at_once_on_a_mounted_store(daemon: Daemon, tmp_path: Path) -> None:
    disk, spec = daemon.path / "disk", daemon.spec
    for name in ("disk", "renamed", "removed", "shrunk"):
        (daemon.path / name).write_bytes(KEPT)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(KEPT)
    (daemon.path / ".snap/disk/first").touch()
    commands: list[tuple[object, ...]] = [
        ("create", "--size", "5M", spec("created")),
        ("import", "--no-progress", source, spec("imported")),
        ("export", "--no-progress", spec("disk@first"), target),
        ("snap", "create", spec("disk@second")),
        ("mv", spec("renamed"), spec("moved")),
        ("rm", "--no-progress", spec("removed")),
        ("resize", "--no-progress", "--allow-shrink", "--size", "1M", spec("shrunk")),
        ("du", spec("disk")),
        ("ls", "-l", daemon.store.pool),
        ("image-meta", "set", spec("disk"), "key", "value"),
    ]
    stop = threading.Event()
    writer = threading.Thread(target=write_until, args=(disk, stop))
    writer.start()
    try:
        with ThreadPoolExecutor(len(commands)) as pool:
            list(pool.map(lambda command: daemon.cli(*command), commands))
    finally:
        stop.set()
        writer.join()
    assert target.read_bytes() == KEPT
    names = {"disk", "shrunk", "created", "imported", "moved"}
    soon(lambda: set(os.listdir(daemon.path)) == names)
    assert (daemon.path / "moved").read_bytes() == (daemon.path / "imported").read_bytes() == KEPT
    assert (daemon.path / "shrunk").read_bytes() == KEPT[:MIB]
    assert (daemon.path / "created").read_bytes() == bytes(5 * MIB)
    assert os.getxattr(disk, "user.key") == b"value"
    assert sorted(os.listdir(daemon.path / ".snap/disk")) == ["first", "second"]
    assert set(json.loads(daemon.cli("ls", daemon.store.pool, "--format", "json").stdout)) == names


def write_until(path: Path, stop: threading.Event) -> None:
    with path.open("r+b", buffering=0) as file:
        number = 0
        while not stop.is_set():
            number += 1
            os.pwrite(file.fileno(), number.to_bytes(4096, "little"), number % 1000 * 4096)


def test_two_of_a_kind_at_once(daemon: Daemon) -> None:
    """What only one of them can have: the other is told so, and nothing is there twice."""
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: daemon.cli("create", "--size", "1M", daemon.spec("x"), check=False), range(3)))
        assert sorted(done.returncode for done in made) == [0, 17, 17]
        assert all("exists" in done.stderr for done in made if done.returncode)
        snaps = list(pool.map(lambda _: daemon.cli("snap", "create", daemon.spec("x@s"), check=False), range(3)))
        assert sorted(done.returncode for done in snaps) == [0, 17, 17]
        (daemon.path / ".snap/x/s").unlink()
        removed = list(pool.map(lambda _: daemon.cli("rm", daemon.spec("x"), check=False), range(3)))
        assert 0 in [done.returncode for done in removed]
        assert {done.returncode for done in removed} <= {0, 2, 16}, [done.stderr for done in removed]
    soon(lambda: os.listdir(daemon.path) == [])
