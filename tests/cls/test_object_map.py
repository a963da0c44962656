"""Object maps: the states of objects against a plain list, and the form in which they are stored."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from rbdfs.cls.object_map import ObjectStates
from rbdfs.cls.rbd_types import ObjectState
from rbdfs.errors import WireError


def states_of(values: list[int]) -> ObjectStates:
    states = ObjectStates(len(values))
    for number, value in enumerate(values):
        states[number] = value
    return states


STATES = st.lists(st.integers(0, 3), max_size=60)


@given(STATES)
def test_what_is_set_is_read_and_stored(values: list[int]) -> None:
    states = states_of(values)
    assert list(states) == values
    assert [states[number] for number in range(len(states))] == values
    assert ObjectStates.decode(states.encode()) == states
    assert ObjectStates.decode(states.encode(with_crcs=False)) == states
    assert ObjectStates.from_packed(states.packed, len(values)) == states


@given(STATES, st.integers(0, 60), st.integers(0, 60), st.integers(0, 3), st.sampled_from([None, 0, 1, 2, 3]))
def test_a_range_changes_as_a_list_would(
    values: list[int], start: int, length: int, state: int, expected: int | None
) -> None:
    start = min(start, len(values))
    end = min(start + length, len(values))
    states, model = states_of(values), list(values)
    for number in range(start, end):
        clean_too = expected == ObjectState.EXISTS and model[number] == ObjectState.CLEAN
        if expected is None or model[number] == expected or clean_too:
            model[number] = state
    assert states.change(start, end, state, expected) == (model != values)
    assert list(states) == model
    assert list(states.unpacked(start, end)) == model[start:end]


@given(STATES, st.integers(0, 80), st.integers(0, 3))
def test_a_map_is_cut_and_extended(values: list[int], count: int, state: int) -> None:
    states = states_of(values)
    states.resize(count, state)
    assert list(states) == (values + [state] * 80)[:count]
    assert ObjectStates.decode(states.encode()) == states


@given(STATES, STATES)
def test_snapshots_come_and_go(values: list[int], removed: list[int]) -> None:
    states = states_of(values)
    model = [3 if value == 1 else value for value in values]
    assert states.mark_clean() == (model != values)
    assert list(states) == model
    changed = [
        1 if value == 3 and (number >= len(removed) or removed[number] == 1) else value
        for number, value in enumerate(model)
    ]
    assert states.mark_changed(states_of(removed)) == (changed != model)
    assert list(states) == changed


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_a_damaged_map_with_crcs_is_refused(seed: int) -> None:
    chance = random.Random(seed)
    states = states_of([chance.randrange(4) for _ in range(40_000)])
    stored = bytearray(states.encode())
    stored[chance.randrange(len(stored))] ^= 1 << chance.randrange(8)
    with pytest.raises(WireError):
        ObjectStates.decode(bytes(stored))


def test_a_count_that_the_bytes_cannot_hold_is_refused() -> None:
    stored = bytearray(ObjectStates(8).encode(with_crcs=False))
    stored[10:18] = (2**64 - 1).to_bytes(8, "little")
    with pytest.raises(WireError):
        ObjectStates.decode(bytes(stored))


def test_objects_outside_are_refused() -> None:
    states = ObjectStates(5)
    with pytest.raises(IndexError):
        states[5]
    with pytest.raises(IndexError):
        states.change(3, 6, 1)


def test_four_million_objects_take_no_time_to_speak_of() -> None:
    """16 TiB of 4 MiB objects; a Python loop over them would take seconds."""
    states = ObjectStates(1 << 22, ObjectState.NONEXISTENT)
    states.change(1, (1 << 22) - 1, ObjectState.EXISTS)
    assert states.mark_clean()
    assert states.mark_changed(ObjectStates(0))
    assert states.unpacked().count(bytes((ObjectState.EXISTS,))) == (1 << 22) - 2
