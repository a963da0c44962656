"""Queries: an answer that cannot be decoded names its object."""

import pytest

from rbdfs.cls import rbd
from rbdfs.cls.query import answers
from rbdfs.errors import Corrupt
from rbdfs.wire import U64, decode_value, encode_value


def test_answers_are_decoded_in_order() -> None:
    queries = (rbd.get_flags(), rbd.get_object_prefix())
    outputs = [encode_value(U64, 3), encode_value(str, "rbd_data.x")]
    assert answers("rbd_header.x", queries, outputs) == [3, "rbd_data.x"]


def test_an_answer_that_makes_no_sense_is_corrupt_and_named() -> None:
    with pytest.raises(Corrupt, match=r"rbd_header\.x: rbd\.get_flags: 8 bytes wanted"):
        answers("rbd_header.x", (rbd.get_flags(),), [b"\0"])


def test_a_value_that_may_be_absent() -> None:
    assert encode_value(U64 | None, None) == b"\0"
    assert decode_value(U64 | None, b"\0") is None
    assert decode_value(U64 | None, encode_value(U64 | None, 5)) == 5
