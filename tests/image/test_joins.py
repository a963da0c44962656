"""Several ops as one."""

from rbdfs.errors import NotFound, RbdfsError, StoreFailure
from rbdfs.image.joins import ReadJoin, WriteJoin, finish_read
from rbdfs.image.striping import ObjectExtent, ObjectNumber
from rbdfs.rados.ops import Buffer, Reply


def joined(buffers: list[Buffer] | RbdfsError) -> bytes:
    assert isinstance(buffers, list)
    return b"".join(buffers)


def test_short_read_is_filled_with_zeroes() -> None:
    got: list[list[Buffer] | RbdfsError] = []
    for outcome in (Reply([b"abcd"]), Reply([b"ab"]), Reply([b""]), NotFound("")):
        finish_read(4, got.append, outcome)
    assert [joined(buffers) for buffers in got] == [b"abcd", b"ab\0\0", bytes(4), bytes(4)]
    finish_read(4, got.append, StoreFailure("no"))
    assert isinstance(got[-1], StoreFailure)


def test_pieces_of_a_striped_read_are_put_in_order_whatever_comes_first() -> None:
    extents = [
        ObjectExtent(ObjectNumber(0), 0, 4, [(0, 2), (4, 2)]),
        ObjectExtent(ObjectNumber(1), 0, 4, [(2, 2), (6, 2)]),
    ]
    got: list[list[Buffer] | RbdfsError] = []
    join = ReadJoin(extents, 8, got.append)
    join.finish(1, Reply([b"cdg"]))
    join.finish(0, Reply([b"abef"]))
    assert joined(got[0]) == b"abcdefg\0"


def test_joined_write_tells_the_first_error_at_the_end() -> None:
    told: list[RbdfsError | None] = []
    join = WriteJoin(3, lambda _join, error: told.append(error))
    join.finish(StoreFailure("one"))
    join.finish(Reply())
    assert told == []
    join.finish(StoreFailure("two"))
    assert [str(error) for error in told] == ["one"]
