"""Images on the command line: the same words, tables and exit codes as `rbd` 16.2 (recorded from it)."""

import json
import re
from pathlib import Path

import calls
import pytest
import trio
from cli.conftest import Run

from rbdfs.connect import StoreAddress, open_cluster

TIMESTAMP = r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}"


def test_created_image_is_listed(pool: Run) -> None:
    assert pool("create", "data/vm", "--size", "64M").code == 0
    assert pool("create", "data/a name", "--size", "1").code == 0
    assert pool("ls", "data").out == "a name\nvm\n"
    assert pool("ls", "data", "--format", "json").out == '["a name","vm"]\n'


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["create", "data/vm", "-s", "1M"], 17),
        (["create", "data/x"], 22),
        (["create", "-s", "1M"], 22),
        (["create", "data/x@y", "-s", "1M"], 22),
        (["create", "data/x", "-s", "1.5G"], 1),
        (["create", "data/x", "-s", "1M", "--object-size", "64M"], 33),
        (["create", "data/x", "-s", "1M", "--image-feature", "bogus"], 1),
        (["create", "data/x", "-s", "1M", "--order", "40"], 1),
        (["create", "data/x", "-s", "1M", "--stripe-unit", "64K"], 22),
        (["create", "nopool/x", "-s", "1M"], 2),
        (["rm", "data/none"], 2),
        (["rm"], 22),
        (["info", "data/none"], 2),
        (["info", "data/vm@none"], 2),
        (["du", "data/none"], 2),
        (["mv", "data/none", "data/other"], 2),
        (["mv", "data/vm", "data/other"], 17),
        (["mv", "data/vm", "elsewhere/vm"], 22),
        (["resize", "data/vm", "-s", "64M"], 22),
        (["resize", "data/vm", "-s", "1M"], 22),
        (["resize", "data/none", "-s", "1M"], 2),
    ],
)
def test_exit_code_is_that_of_rbd(pool: Run, argv: list[str], code: int) -> None:
    pool("create", "data/vm", "-s", "64M")
    pool("create", "data/other", "-s", "64M")
    result = pool(*argv)
    assert result.code == code
    assert result.err.startswith("rbdfs: ")
    assert "Traceback" not in result.err
    assert pool("ls", "data").out == "other\nvm\n"


def test_info_has_the_lines_of_rbd(pool: Run) -> None:
    pool("create", "data/vm", "-s", "65M")
    text = pool("info", "data/vm").out
    image_id = re.search(r"\tid: (\S+)\n", text)
    assert image_id
    assert re.fullmatch(
        rf"""rbd image 'vm':
\tsize 65 MiB in 17 objects
\torder 22 \(4 MiB objects\)
\tsnapshot_count: 0
\tid: {image_id[1]}
\tblock_name_prefix: rbd_data.{image_id[1]}
\tformat: 2
\tfeatures: layering, exclusive-lock, object-map, fast-diff, deep-flatten
\top_features:[ ]
\tflags:[ ]
\tcreate_timestamp: {TIMESTAMP}
\taccess_timestamp: {TIMESTAMP}
\tmodify_timestamp: {TIMESTAMP}
""",
        text,
    )


def test_info_json_has_the_keys_of_rbd_in_their_order(pool: Run) -> None:
    pool("create", "data/vm", "-s", "64M")
    pool("snap", "create", "data/vm@s1")
    facts = json.loads(pool("info", "data/vm@s1", "--format", "json").out)
    assert list(facts) == [
        *("name", "id", "size", "objects", "order", "object_size", "snapshot_count", "block_name_prefix", "format"),
        *("features", "op_features", "flags", "create_timestamp", "access_timestamp", "modify_timestamp", "protected"),
    ]
    assert facts["protected"] == "false"


def test_layout_options_shape_the_image(pool: Run) -> None:
    layout = ["--object-size", "64K", "--stripe-unit", "16K", "--stripe-count", "4"]
    assert pool("create", "data/vm", "-s", "8M", *layout).code == 0
    facts = json.loads(pool("info", "data/vm", "--format", "json").out)
    assert (facts["order"], facts["stripe_unit"], facts["stripe_count"]) == (16, 16384, 4)
    assert "striping" in facts["features"]


def test_features_may_be_chosen(pool: Run) -> None:
    assert pool("create", "data/vm", "-s", "8M", "--image-feature", "layering,exclusive-lock").code == 0
    assert json.loads(pool("info", "data/vm", "--format", "json").out)["features"] == ["layering", "exclusive-lock"]


def test_long_listing_shows_snapshots_and_protection(pool: Run) -> None:
    pool("create", "data/a", "-s", "64M")
    pool("snap", "create", "data/a@s1")
    pool("snap", "protect", "data/a@s1")
    pool("create", "data/odd", "-s", "1537M")
    assert pool("ls", "-l", "data").out == (
        "NAME  SIZE     PARENT  FMT  PROT  LOCK\n"
        "a      64 MiB            2            \n"
        "a@s1   64 MiB            2  yes       \n"
        "odd   1.5 GiB            2            \n"
    )
    rows = json.loads(pool("ls", "-l", "data", "--format", "json").out)
    assert [list(row) for row in rows] == [
        ["image", "id", "size", "format"],
        ["image", "id", "snapshot", "snapshot_id", "size", "format", "protected"],
        ["image", "id", "size", "format"],
    ]


def test_long_listing_says_which_image_cannot_be_read_and_shows_the_others(pool: Run, store: Path) -> None:
    for name in ("a", "broken", "z"):
        pool("create", f"data/{name}", "-s", "1M")
    image_id = json.loads(pool("info", "data/broken", "--format", "json").out)["id"]

    async def lose_header() -> None:
        async with open_cluster(StoreAddress(store)) as cluster:
            await calls.remove(await cluster.open_pool("data"), f"rbd_header.{image_id}")

    trio.run(lose_header)
    listed = pool("ls", "-l", "data")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", "a", "z"]
    assert listed.code == 2
    assert "error opening broken: " in listed.err
    assert pool("ls", "data").out == "a\nbroken\nz\n"
    assert pool("rm", "data/broken").code == 0


def test_long_listing_of_nothing_is_nothing(pool: Run) -> None:
    assert pool("ls", "-l", "data").out == ""
    assert pool("ls", "-l", "data", "--format", "json").out == "[]\n"


def test_renamed_image_keeps_its_snapshots(pool: Run) -> None:
    pool("create", "data/a", "-s", "1M")
    pool("snap", "create", "data/a@s1")
    assert pool("mv", "data/a", "b").code == 0
    assert pool("snap", "ls", "data/b").out.splitlines()[1].split()[1] == "s1"
    assert pool("info", "data/a").code == 2


def test_image_with_snapshots_is_not_removed_and_the_way_out_is_said(pool: Run) -> None:
    pool("create", "data/a", "-s", "1M")
    pool("snap", "create", "data/a@s1")
    refused = pool("rm", "data/a")
    assert refused.code == 39
    assert "rbdfs snap purge data/a" in refused.err
    assert pool("snap", "purge", "data/a").code == 0
    assert pool("rm", "data/a").code == 0
    assert pool("ls", "data").out == ""


def test_resize_shrinks_only_where_it_is_allowed(pool: Run) -> None:
    pool("create", "data/a", "-s", "10M")
    assert "--allow-shrink" in pool("resize", "data/a", "-s", "5M").err
    assert pool("resize", "data/a", "-s", "5M", "--allow-shrink").code == 0
    assert pool("resize", "data/a", "-s", "12345678B").code == 0
    assert json.loads(pool("info", "data/a", "--format", "json").out)["size"] == 12345678


def test_metadata_is_set_listed_and_removed(pool: Run) -> None:
    pool("create", "data/a", "-s", "1M")
    assert pool("image-meta", "list", "data/a").out == "There are 0 metadata on this image.\n"
    pool("image-meta", "set", "data/a", "k", "v")
    pool("image-meta", "set", "data/a", "k2", "v2")
    assert pool("image-meta", "ls", "data/a").out == (
        "There are 2 metadata on this image:\n\nKey  Value\nk    v    \nk2   v2   \n"
    )
    assert pool("image-meta", "ls", "data/a", "--format", "json").out == '{"k":"v","k2":"v2"}\n'
    assert pool("image-meta", "get", "data/a", "k").out == "v\n"
    assert pool("image-meta", "rm", "data/a", "k").code == 0
    assert pool("image-meta", "get", "data/a", "k").code == 2
    assert pool("image-meta", "rm", "data/a", "k").code == 2
    assert pool("image-meta", "set", "data/a", "", "v").code == 22
    assert pool("image-meta", "set", "data/a", "k", "").code == 22
    assert pool("image-meta", "ls", "data/a", "--format", "json").out == '{"k2":"v2"}\n'


def test_errors_about_an_image_of_a_namespace_say_so(pool: Run) -> None:
    pool("namespace", "create", "data/ns")
    pool("create", "data/ns/vm", "-s", "1M")
    assert "data/ns/vm@a" in pool("snap", "rm", "--no-progress", "data/ns/vm@a").err


def test_namespace_option_goes_with_a_pool_that_is_named(pool: Run) -> None:
    pool("namespace", "create", "data/ns")
    pool("create", "data/a", "-s", "1M")
    pool("create", "data/a", "-s", "1M", "--namespace", "ns")
    assert pool("rm", "--no-progress", "data/a", "--namespace", "ns").code == 0
    assert pool("ls", "data/ns").out == ""
    assert pool("ls", "data").out == "a\n"


def test_nobody_watches_an_image_that_nobody_has_open(pool: Run) -> None:
    pool("create", "data/a", "-s", "1M")
    assert pool("status", "data/a").out == "Watchers: none\n"
    assert pool("status", "data/a", "--format", "json").out == '{"watchers":[]}\n'
