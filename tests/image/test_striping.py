"""Where the bytes of an image are."""

import pytest
from hypothesis import given, strategies as st

from rbdfs.errors import InvalidArgument
from rbdfs.image.striping import Striping

FANCY = Striping.of(2, stripe_unit=2, stripe_count=3)


@st.composite
def stripings(draw: st.DrawFn) -> Striping:
    order = draw(st.integers(0, 5))
    unit_order = draw(st.integers(0, order))
    return Striping.of(order, 1 << unit_order, draw(st.integers(1, 5)))


def test_units_go_round_the_objects_of_a_set() -> None:
    places = [FANCY.locate(position) for position in range(0, 24, 2)]
    assert [number for number, _ in places] == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert [offset for _, offset in places] == [0, 0, 0, 2, 2, 2, 0, 0, 0, 2, 2, 2]


def test_extent_over_a_simple_boundary_is_cut_in_two() -> None:
    first, second = Striping.of(22).object_extents((1 << 22) - 10, 30)
    assert first == (0, (1 << 22) - 10, 10, [(0, 10)])
    assert second == (1, 0, 20, [(10, 20)])


def test_stripe_unit_must_divide_the_object() -> None:
    with pytest.raises(InvalidArgument):
        Striping.of(22, stripe_unit=3 << 20, stripe_count=2)


@given(stripings(), st.integers(0, 500), st.integers(0, 300))
def test_every_byte_has_one_place_and_comes_back(striping: Striping, offset: int, length: int) -> None:
    back = [-1] * length
    for number, start, size, parts in striping.object_extents(offset, length):
        assert start + size <= striping.object_size
        positions = [byte for piece in parts for byte in range(piece[0], piece[0] + piece[1])]
        image = [byte for piece in striping.image_extents(number, start, size) for byte in range(piece[0], sum(piece))]
        assert [position + offset for position in positions] == image
        for position, place in zip(positions, range(start, start + size), strict=True):
            back[position] = offset + position
            assert striping.locate(offset + position) == (number, place)
    assert back == list(range(offset, offset + length))


@given(stripings(), st.integers(0, 500))
def test_used_sizes_add_up_to_the_image(striping: Striping, size: int) -> None:
    count = striping.object_count(size)
    used = [striping.used_size(number, size) for number in range(count + 5)]
    assert sum(used) == size
    assert all(used[:count])
    assert not any(used[count:])
