"""Pools and namespaces on the command line."""

import json
from pathlib import Path

from cli.conftest import Run


def test_first_pool_makes_the_store_and_says_so(run: Run, store: Path) -> None:
    made = run("pool", "create", "data", "more")
    assert made.code == 0
    assert f"creating the local store {store}" in made.err
    assert run("pool", "ls").out == "data\nmore\n"
    assert json.loads(run("pool", "ls", "--format", "json").out) == ["data", "more"]


def test_command_without_a_store_says_how_to_make_one(run: Run, store: Path) -> None:
    listed = run("ls", "data")
    assert listed.code == 2
    assert str(store) in listed.err
    assert "rbdfs pool create" in listed.err
    assert not store.exists()


def test_unknown_pool_is_an_error_with_a_hint(pool: Run) -> None:
    listed = pool("ls", "other")
    assert listed.code == 2
    assert "no pool 'other'" in listed.err
    assert "there: data" in listed.err
    assert "rbdfs pool create other" in listed.err


def test_pool_that_exists_is_not_made_again(pool: Run) -> None:
    assert pool("pool", "create", "data").code == 17


def test_pool_with_images_is_removed_by_force_only(pool: Run) -> None:
    pool("create", "data/vm", "-s", "1M")
    refused = pool("pool", "rm", "data")
    assert refused.code == 16
    assert "holds 1 image" in refused.err
    assert pool("pool", "rm", "--force", "data").code == 0
    assert pool("pool", "ls").out == ""


def test_namespaces_divide_a_pool(pool: Run) -> None:
    assert pool("namespace", "create", "data/ns").code == 0
    assert pool("namespace", "create", "data/ns").code == 17
    assert pool("create", "data/ns/vm", "-s", "1M").code == 0
    assert pool("ls", "data").out == ""
    assert pool("ls", "data/ns").out == "vm\n"
    assert pool("namespace", "ls", "data").out == "NAME\nns  \n"
    assert json.loads(pool("namespace", "ls", "data", "--format", "json").out) == [{"name": "ns"}]
    assert pool("namespace", "rm", "data/ns").code == 16
    pool("rm", "data/ns/vm")
    assert pool("namespace", "rm", "data/ns").code == 0
    assert pool("namespace", "rm", "data/ns").code == 2


def test_unknown_namespace_is_an_error_with_a_hint(pool: Run) -> None:
    listed = pool("ls", "data/ns")
    assert listed.code == 2
    assert "rbdfs namespace create data/ns" in listed.err
