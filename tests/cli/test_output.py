"""Sizes, tables and JSON, in the shapes of `rbd` 16.2."""

import pytest

from rbdfs.cli.output import Table, format_size, parse_size, print_json, write
from rbdfs.errors import InvalidArgument


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (64 << 20, "64 MiB"),
        (1537 << 20, "1.5 GiB"),  # rbd create -s 1537M; rbd ls -l
        ((10 << 30) + 1, "10 GiB"),
        (1001 << 20, "1001 MiB"),
        (2**64 - 1, "16 EiB"),
    ],
)
def test_size_is_written_as_ceph_writes_it(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10", 10 << 20),  # rbd's default unit
        ("4096B", 4096),
        ("100K", 100 << 10),
        ("10g", 10 << 30),
        ("10GiB", 10 << 30),
        ("1Ti", 1 << 40),
        ("2TB", 2 << 40),
        ("0", 0),
    ],
)
def test_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1.5G", "16E", "-1", "G", "1X", "1GG", "٣M", "0x10", "1 G M", "1e3", "5i"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_size(text)


def test_table_pads_every_cell_as_rbd_does() -> None:
    table = Table("NAME", ">SIZE", "PARENT", ">FMT", "PROT", "LOCK")
    table.add("child", "64 MiB", "data/vm0@s2", 2, "", "")
    table.add("vm0@s2", "64 MiB", "", 2, "yes", "")
    assert table.render() == (
        "NAME    SIZE    PARENT       FMT  PROT  LOCK\n"
        "child   64 MiB  data/vm0@s2    2            \n"
        "vm0@s2  64 MiB                 2  yes       \n"
    )


def test_json_is_compact_or_indented_by_four(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"a": 1, "b": ["x"]}], pretty=False)
    print_json([{"a": 1}], pretty=True)
    assert capsys.readouterr().out == '[{"a":1,"b":["x"]}]\n[\n    {\n        "a": 1\n    }\n]\n'


def test_name_that_is_not_utf8_leaves_as_the_bytes_it_came_as(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write("im\udcffage\n")
    assert capfdbinary.readouterr().out == b"im\xffage\n"
