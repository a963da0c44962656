"""Which image and which pool a command line names."""

import pytest

from rbdfs.cli import options
from rbdfs.cli.main import parse
from rbdfs.errors import InvalidArgument
from rbdfs.image.spec import ImageSpec, PoolSpec


def test_image_is_named_by_the_argument_alone() -> None:
    assert options.image_spec(parse(["rm", "data/ns/vm"])) == ImageSpec("data", "ns", "vm")


def test_options_fill_what_the_argument_leaves_out() -> None:
    assert options.image_spec(parse(["rm", "-p", "data", "--namespace", "ns", "vm"])) == ImageSpec("data", "ns", "vm")
    assert options.image_spec(parse(["rm", "-p", "data", "--image", "vm"])) == ImageSpec("data", "", "vm")


def test_pool_in_the_argument_wins_over_the_option() -> None:
    assert options.image_spec(parse(["rm", "-p", "other", "data/vm"])) == ImageSpec("data", "", "vm")


def test_snapshot_may_come_as_an_option() -> None:
    arguments = parse(["info", "data/vm", "--snap", "s1"])
    assert options.image_spec(arguments, may_have_snap=True) == ImageSpec("data", "", "vm", "s1")


@pytest.mark.parametrize("argv", [["rm"], ["rm", "data/"], ["rm", "data/vm@s1"], ["rm", "a@b@c"], ["rm", "@x"]])
def test_bad_image_is_an_invalid_argument(argv: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        options.image_spec(parse(argv))


def test_snapshot_that_is_missing_is_said() -> None:
    with pytest.raises(InvalidArgument, match="data/vm: snapshot name was not specified"):
        options.image_spec(parse(["snap", "create", "data/vm"]), needs_snap=True)


def test_pool_defaults_to_rbd() -> None:
    assert options.pool_spec(parse(["ls"])) == PoolSpec("rbd")
    assert options.pool_spec(parse(["ls", "data/ns"])) == PoolSpec("data", "ns")


def test_store_may_be_named_before_the_command_or_behind_it() -> None:
    assert options.connect_flags(parse(["--store", "/s", "ls"])).store == "/s"
    assert options.connect_flags(parse(["ls", "--store", "/s"])).store == "/s"
    assert options.connect_flags(parse(["-c", "a.conf", "snap", "ls", "x", "--id", "me"])).id == "me"


@pytest.mark.parametrize(
    "words",
    [
        "--no-progress data/vm out",
        "data/vm --no-progress out",
        "data/vm out --no-progress",
        "data/vm -vp other out --id=me",
        "data/vm --id me -- out",
        "-pother data/vm --id me out -v",
    ],
)
def test_options_stand_anywhere(words: str) -> None:
    arguments = parse(["export", *words.split()])
    assert (arguments.source, arguments.path) == ("data/vm", "out")


def test_what_comes_behind_two_dashes_is_no_option() -> None:
    arguments = parse(["export", "data/vm", "--no-progress", "--", "-v"])
    assert (arguments.path, hasattr(arguments, "verbose")) == ("-v", False)
    assert parse(["export", "data/vm", "--no-progress", "-"]).path == "-"


@pytest.mark.parametrize("argv", [["bogus"], ["ls", "--bogus"], ["snap", "bogus"], ["snap"], ["ls", "--form", "json"]])
def test_unreadable_command_line_exits_with_1_as_rbd_does(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse(argv)
    assert leaving.value.code == 1


def test_size_must_be_given() -> None:
    with pytest.raises(InvalidArgument, match="must specify --size"):
        options.size(parse(["create", "data/x"]))


def test_size_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(options.UsageError, match="'--size' is invalid") as refused:
        options.size(parse(["create", "data/x", "-s", "1.5G"]))
    assert refused.value.errno == 1
