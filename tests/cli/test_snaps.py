"""Snapshots on the command line."""

import json
import re

import pytest
from cli.conftest import Run


@pytest.fixture
def image(pool: Run) -> Run:
    """A pool with the image data/a and its snapshot s1."""
    pool("create", "data/a", "-s", "64M")
    assert pool("snap", "create", "data/a@s1").code == 0
    return pool


def test_listing_has_the_columns_of_rbd(image: Run) -> None:
    image("snap", "protect", "data/a@s1")
    heading, row = image("snap", "ls", "data/a").out.splitlines()
    assert heading == "SNAPID  NAME  SIZE    PROTECTED  TIMESTAMP               "
    assert re.fullmatch(r" {5}\d  s1    64 MiB  yes        \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}", row)
    (facts,) = json.loads(image("snap", "ls", "data/a", "--format", "json").out)
    assert list(facts) == ["id", "name", "size", "protected", "timestamp"]
    assert facts["protected"] == "true"


def test_image_without_snapshots_lists_none(pool: Run) -> None:
    pool("create", "data/a", "-s", "1M")
    assert pool("snap", "ls", "data/a").out == ""
    assert pool("snap", "ls", "data/a", "--format", "json").out == "[]\n"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["snap", "create", "data/a@s1"], 17),
        (["snap", "create", "data/a"], 22),
        (["snap", "create", "data/none@s"], 2),
        (["snap", "rm", "data/a@none"], 2),
        (["snap", "rename", "data/a@none", "data/a@x"], 2),
        (["snap", "rename", "data/a@s1", "data/b@x"], 22),
        (["snap", "rename", "data/a@s1", "data/a@none@x"], 22),
        (["snap", "rollback", "data/a@none"], 2),
        (["snap", "protect", "data/a@none"], 2),
        (["snap", "unprotect", "data/a@s1"], 22),
    ],
)
def test_exit_code_is_that_of_rbd(image: Run, argv: list[str], code: int) -> None:
    result = image(*argv)
    assert result.code == code
    assert result.err.startswith("rbdfs: ")
    assert len(image("snap", "ls", "data/a").out.splitlines()) == 2


def test_protected_snapshot_is_not_removed(image: Run) -> None:
    assert image("snap", "protect", "data/a@s1").code == 0
    assert image("snap", "protect", "data/a@s1").code == 16
    assert image("snap", "rm", "data/a@s1").code == 16
    assert image("snap", "unprotect", "data/a@s1").code == 0
    assert image("snap", "rm", "data/a@s1").code == 0


@pytest.mark.parametrize("target", ["data/a@s2", "a@s2", "@s2", "s2"])
def test_snapshot_is_renamed_however_the_new_name_is_written(image: Run, target: str) -> None:
    assert image("snap", "rename", "data/a@s1", target).code == 0
    assert image("info", "data/a@s2").code == 0


def test_purge_removes_all(image: Run) -> None:
    image("snap", "create", "data/a@s2")
    assert image("snap", "purge", "data/a").code == 0
    assert image("snap", "ls", "data/a").out == ""
    assert image("snap", "purge", "data/a").code == 0


def test_purge_leaves_protected_ones_and_says_so(image: Run) -> None:
    image("snap", "protect", "data/a@s1")
    image("snap", "create", "data/a@s2")
    purged = image("snap", "purge", "data/a")
    assert purged.code == 0
    assert "protected snapshots stay: s1" in purged.err
    assert [line.split()[1] for line in image("snap", "ls", "data/a").out.splitlines()] == ["NAME", "s1"]
