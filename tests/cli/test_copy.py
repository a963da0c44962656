"""`rbdfs cp`."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Run

from rbdfs.errors import NoSpace
from rbdfs.image.image import Image

MIB = 1 << 20


@pytest.fixture
def content(pool: Run, tmp_path: Path) -> bytes:
    """What the image data/vm holds, which has a hole in it."""
    data = os.urandom(3 * MIB + 5) + bytes(30 * MIB) + os.urandom(4097)
    (tmp_path / "in").write_bytes(data)
    assert pool("import", tmp_path / "in", "data/vm", "--object-size", "1M").code == 0
    return data


def exported(run: Run, spec: str, path: Path) -> bytes:
    assert run("export", spec, path).code == 0
    return path.read_bytes()


def info(run: Run, spec: str) -> Any:
    return json.loads(run("info", spec, "--format", "json").out)


def test_a_copy_is_as_its_source_and_goes_its_own_way(pool: Run, tmp_path: Path, content: bytes) -> None:
    pool("image-meta", "set", "data/vm", "key", "value")
    assert pool("cp", "data/vm", "data/copy").code == 0
    assert exported(pool, "data/copy", tmp_path / "copy") == content
    assert pool("image-meta", "get", "data/copy", "key").out == "value\n"
    ours, theirs = info(pool, "data/copy"), info(pool, "data/vm")
    assert all(ours[key] == theirs[key] for key in ("size", "order", "features"))
    pool("resize", "data/vm", "-s", "1M", "--allow-shrink")
    pool("rm", "data/vm")
    assert exported(pool, "data/copy", tmp_path / "again") == content
    assert pool("check").code == 0


def test_a_copy_takes_no_room_until_it_is_written(pool: Run, store: Path, content: bytes) -> None:
    def allocated() -> int:
        return sum(path.stat().st_blocks * 512 for path in store.rglob("*") if path.is_file())

    before = allocated()
    for number in range(4):
        pool("cp", "data/vm", f"data/copy{number}")
    assert allocated() - before < len(content.strip(b"\0")) / 4
    used = json.loads(pool("du", "data/copy0", "--format", "json").out)["images"][0]["used_size"]
    assert used <= 5 * MIB


def test_a_copy_of_a_snapshot_is_what_the_image_was(pool: Run, tmp_path: Path, content: bytes) -> None:
    pool("snap", "create", "data/vm@s")
    pool("resize", "data/vm", "-s", "1M", "--allow-shrink")
    assert pool("cp", "data/vm@s", "data/copy", "--image-feature", "layering", "--order", "22").code == 0
    assert exported(pool, "data/copy", tmp_path / "copy") == content
    assert (info(pool, "data/copy")["order"], info(pool, "data/copy")["features"]) == (22, ["layering"])
    assert pool("snap", "ls", "data/copy").out == ""


def test_a_copy_may_go_to_another_pool_and_namespace(pool: Run, tmp_path: Path, content: bytes) -> None:
    pool("pool", "create", "other")
    pool("namespace", "create", "other/ns")
    assert pool("cp", "-p", "data", "vm", "--dest-pool", "other", "--dest-namespace", "ns", "copy").code == 0
    assert exported(pool, "other/ns/copy", tmp_path / "copy") == content
    assert pool("cp", "-p", "data", "--image", "vm", "--dest-pool", "other", "--dest", "second").code == 0
    assert exported(pool, "other/second", tmp_path / "second") == content


def test_of_a_copy_that_fails_nothing_is_left(pool: Run, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    async def fail(*_: object) -> int:
        raise NoSpace("full")

    monkeypatch.setattr(Image, "copy_range", fail)
    assert pool("cp", "data/vm", "data/copy").code == 28
    assert pool("ls", "data").out == "vm\n"
    assert pool("cp", "data/vm", "data/vm").code == 17
    assert pool("ls", "data").out == "vm\n"
