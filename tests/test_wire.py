"""Structures declared once: what they look like on the wire, and what damaged bytes do."""

import contextlib
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import pytest
from hypothesis import given, settings, strategies as st

from rbdfs.errors import WireError
from rbdfs.wire import F64, S8, S64, U8, U16, U32, U64, Cursor, Layout, Raw, Record, since


class WriteIn(NamedTuple):
    """A fixed structure: 1 + 2 + 4 + 8 bytes, no padding."""

    kind: U8
    flags: U16
    size: S8
    offset: U64


@dataclass(slots=True)
class Point(Record):
    """No envelope."""

    x: U32
    is_set: bool
    y: S64


@dataclass(slots=True)
class Everything(Record, version=3, compat=2):
    """One field of each kind."""

    number: U16
    flag: bool
    name: str
    blob: bytes
    fixed: Annotated[bytes, Raw(4)]
    numbers: list[U32]
    names: set[str]
    pair: tuple[U8, str]
    row: tuple[U16, ...]
    mapping: dict[str, U64]
    point: Point
    ratio: F64 = since(2, default=0.5)
    points: list[Point] = since(3, default_factory=list)


def everything() -> Everything:
    return Everything(
        number=0x1234,
        flag=True,
        name="größe",
        blob=b"\0\xff",
        fixed=b"abcd",
        numbers=[1, 2**32 - 1],
        names={"b", "a"},
        pair=(7, "seven"),
        row=(1, 2, 3),
        mapping={"z": 1, "a": 2**64 - 1},
        point=Point(1, False, -1),
        ratio=1.25,
        points=[Point(2, True, 3)],
    )


def test_layout_is_little_endian_without_padding() -> None:
    layout = Layout(WriteIn)
    packed = layout.pack(1, 0x0203, -1, 4)
    assert packed == bytes.fromhex("01 0302 ff 0400000000000000")
    assert layout.size == len(packed)
    assert layout.unpack_from(b"??" + packed, 2) == WriteIn(1, 0x0203, -1, 4)


def test_layout_refuses_a_buffer_that_is_too_short() -> None:
    with pytest.raises(WireError):
        Layout(WriteIn).unpack_from(bytes(5))


def test_layout_takes_fixed_fields_only() -> None:
    class Text(NamedTuple):
        name: str

    with pytest.raises(TypeError, match="no fixed width"):
        Layout(Text)


def test_record_without_version_has_no_envelope() -> None:
    assert Point(1, True, -2).to_bytes() == bytes.fromhex("01000000 01 feffffffffffffff")


def test_record_with_version_travels_in_its_envelope() -> None:
    encoded = everything().to_bytes()
    assert encoded[:2] == bytes([3, 2])
    assert int.from_bytes(encoded[2:6], "little") == len(encoded) - 6


def test_record_comes_back_as_it_went() -> None:
    assert Everything.from_bytes(everything().to_bytes()) == everything()


def test_set_is_encoded_in_order() -> None:
    assert everything().to_bytes().index(b"\1\0\0\0a") < everything().to_bytes().index(b"\1\0\0\0b")


def test_record_cut_at_any_byte_is_a_wire_error() -> None:
    encoded = everything().to_bytes()
    for length in range(len(encoded)):
        with pytest.raises(WireError):
            Everything.from_bytes(encoded[:length])


def test_fields_that_an_older_writer_did_not_have_take_their_defaults() -> None:
    @dataclass(slots=True)
    class Old(Record, version=1, compat=1):
        number: U16

    @dataclass(slots=True)
    class New(Record, version=2, compat=1):
        number: U16
        names: list[str] = since(2, default_factory=list)

    decoded = New.from_bytes(Old(5).to_bytes())
    assert decoded == New(5, [])
    assert decoded.names is not New.from_bytes(Old(5).to_bytes()).names  # a list of its own


def test_what_a_newer_writer_appended_is_skipped() -> None:
    @dataclass(slots=True)
    class New(Record, version=9, compat=1):
        number: U16
        extra: str

    @dataclass(slots=True)
    class Old(Record, version=1, compat=1):
        number: U16

    cursor = Cursor(New(5, "unknown").to_bytes() + b"next")
    assert Old.decode(cursor) == Old(5)
    assert bytes(cursor.take(cursor.remaining)) == b"next"


def test_writer_that_needs_a_newer_reader_is_refused() -> None:
    encoded = bytearray(everything().to_bytes())
    encoded[1] = 4
    with pytest.raises(WireError, match="needs version 4"):
        Everything.from_bytes(encoded)


def test_inner_structure_cannot_read_past_its_envelope() -> None:
    @dataclass(slots=True)
    class Inner(Record, version=1, compat=1):
        number: U64

    short = bytes([1, 1]) + (4).to_bytes(4, "little") + bytes(4)  # announces four bytes, holds a u64
    with pytest.raises(WireError):
        Inner.decode(Cursor(short + bytes(100)))


def test_count_that_cannot_be_is_refused_before_anything_is_made() -> None:
    cursor = Cursor((2**32 - 1).to_bytes(4, "little") + bytes(10))
    with pytest.raises(WireError, match="4294967295 elements"):
        cursor.count()


def test_cursor_does_not_copy() -> None:
    buffer = bytearray(b"abcdef")
    taken = Cursor(buffer, 1).take(3)
    buffer[1] = ord("X")
    assert bytes(taken) == b"Xcd"


def test_left_over_bytes_are_refused_where_none_may_be() -> None:
    cursor = Cursor(b"abc")
    cursor.skip(2)
    with pytest.raises(WireError, match="thing: 1 bytes too many"):
        cursor.expect_end("thing")


def test_text_that_is_not_utf8_comes_back_as_it_went() -> None:
    @dataclass(slots=True)
    class Named(Record):
        name: str

    raw = (3).to_bytes(4, "little") + b"a\xffb"
    assert Named.from_bytes(raw).to_bytes() == raw


@pytest.mark.parametrize(
    "change", [{"number": 2**16}, {"number": -1}, {"fixed": b"abc"}, {"numbers": [2**32]}, {"pair": (256, "")}]
)
def test_value_that_does_not_fit_is_a_wire_error(change: dict[str, object]) -> None:
    record = everything()
    for name, value in change.items():
        setattr(record, name, value)
    with pytest.raises(WireError):
        record.to_bytes()


def test_since_must_grow_and_stay_within_the_version() -> None:
    @dataclass(slots=True)
    class Backwards(Record, version=3, compat=1):
        first: U8 = since(3, default=0)
        second: U8 = since(2, default=0)

    @dataclass(slots=True)
    class Ahead(Record, version=1, compat=1):
        first: U8 = since(2, default=0)

    for cls in (Backwards, Ahead):
        with pytest.raises(TypeError):
            cls(0).to_bytes()


def test_field_that_may_be_absent_needs_a_default() -> None:
    with pytest.raises(TypeError):
        since(2)


def test_type_without_an_encoding_is_refused_by_name() -> None:
    @dataclass(slots=True)
    class Odd(Record):
        number: complex = field(default=0j)

    with pytest.raises(TypeError, match="complex"):
        Odd().to_bytes()


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_do_nothing_worse_than_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        Everything.from_bytes(data)


@settings(max_examples=300)
@given(st.data())
def test_damaged_record_does_nothing_worse_than_a_wire_error(data: st.DataObject) -> None:
    encoded = bytearray(everything().to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        Everything.from_bytes(encoded)
