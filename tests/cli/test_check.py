"""`rbdfs check` on stores that are well and on one that is not."""

import json
from pathlib import Path

from cli.conftest import Run


def test_store_that_is_well_is_called_clean(pool: Run, store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    pool("import", tmp_path / "file", "data/vm")
    pool("snap", "create", "data/vm@s1")
    checked = pool("check")
    assert checked.code == 0
    assert checked.out.startswith(f"{store}: 1 pools, ")
    assert checked.out.endswith(": clean\n")
    report = json.loads(pool("check", store, "--format", "json").out)
    assert report["findings"] == []
    assert report["blocks"] >= 5


def test_damage_is_found_and_said(pool: Run, store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    pool("import", tmp_path / "file", "data/vm")
    with (store / "data").open("r+b") as file:
        file.truncate(65536)
    checked = pool("check")
    assert checked.code == 5
    assert "things are wrong" in checked.out
    assert json.loads(pool("check", "--format", "json").out)["findings"]


def test_directory_without_a_store_is_an_error(run: Run, tmp_path: Path) -> None:
    checked = run("check", tmp_path / "none")
    assert checked.code == 2
    assert str(tmp_path / "none") in checked.err
