"""Import and export."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import Run

MIB = 1 << 20


@pytest.fixture
def sparse_file(tmp_path: Path) -> Path:
    """64 MiB and a byte, with bytes at the start, in the middle and at the very end."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b"start" * 1000)
        file.seek(33 * MIB + 17)
        file.write(os.urandom(100_000))
        file.seek(64 * MIB)
        file.write(b"!")
    return path


def test_file_comes_back_as_it_went_and_stays_sparse(pool: Run, tmp_path: Path, sparse_file: Path) -> None:
    assert pool("import", sparse_file, "data/vm").code == 0
    assert json.loads(pool("info", "data/vm", "--format", "json").out)["size"] == 64 * MIB + 1
    used = json.loads(pool("du", "data/vm", "--format", "json").out)["images"][0]["used_size"]
    assert used <= 12 * MIB
    assert pool("export", "data/vm", tmp_path / "back").code == 0
    assert (tmp_path / "back").read_bytes() == sparse_file.read_bytes()
    assert (tmp_path / "back").stat().st_blocks * 512 <= MIB


def test_snapshot_is_exported_as_it_was(pool: Run, tmp_path: Path, sparse_file: Path) -> None:
    pool("import", sparse_file, "data/vm")
    pool("snap", "create", "data/vm@s1")
    pool("resize", "data/vm", "-s", "1M", "--allow-shrink")
    assert pool("export", "data/vm@s1", tmp_path / "back").code == 0
    assert (tmp_path / "back").read_bytes() == sparse_file.read_bytes()


def test_name_defaults_to_that_of_the_file(pool: Run, sparse_file: Path) -> None:
    assert pool("import", "-p", "data", sparse_file).code == 0
    assert pool("ls", "data").out == "sparse\n"


def test_existing_target_is_refused_and_stays(pool: Run, tmp_path: Path, sparse_file: Path) -> None:
    pool("create", "data/vm", "-s", "1M")
    assert pool("import", sparse_file, "data/vm").code == 17
    assert json.loads(pool("info", "data/vm", "--format", "json").out)["size"] == MIB
    (tmp_path / "there").write_text("mine")
    assert pool("export", "data/vm", tmp_path / "there").code == 17
    assert (tmp_path / "there").read_text() == "mine"


def test_what_is_wrong_with_a_file_is_said_with_its_name(pool: Run, tmp_path: Path) -> None:
    pool("create", "data/vm", "-s", "1M")
    (tmp_path / "there").touch()
    for command, said in (
        (("export", "data/vm", tmp_path / "none/x"), f"{tmp_path}/none/x: No such file or directory"),
        (("export", "data/vm", tmp_path / "there"), f"{tmp_path}/there: File exists"),
        (("import", tmp_path, "data/dir"), f"{tmp_path}: Is a directory"),
    ):
        assert said in pool(*command).err


def test_missing_source_leaves_nothing(pool: Run, tmp_path: Path) -> None:
    missing = pool("import", tmp_path / "none", "data/vm")
    assert missing.code == 2
    assert str(tmp_path / "none") in missing.err
    assert pool("ls", "data").out == ""


def rbdfs(*argv: str) -> list[str]:
    return [sys.executable, "-m", "rbdfs", *argv]


def test_streams_go_in_and_out(pool: Run, sparse_file: Path) -> None:
    with sparse_file.open("rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
        subprocess.run(rbdfs("import", "-", "data/vm"), stdin=cat.stdout, check=True, timeout=60)
    exported = subprocess.run(rbdfs("export", "data/vm", "-"), capture_output=True, check=True, timeout=60)
    assert exported.stdout == sparse_file.read_bytes()
    assert exported.stderr == b""  # progress is for terminals


def test_reader_that_leaves_early_is_no_traceback(pool: Run, sparse_file: Path) -> None:
    pool("import", sparse_file, "data/vm")
    command = rbdfs("export", "data/vm", "-")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
        assert export.stdout is not None
        assert export.stderr is not None
        assert export.stdout.read(5) == b"start"
        export.stdout.close()
        assert export.stderr.read() == b""
        assert export.wait(60) == 141
