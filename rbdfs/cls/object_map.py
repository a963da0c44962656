"""The object map: two bits for each data object, as it is stored and as class `rbd` changes it.

The object `rbd_object_map.<image id>[.<snap id, 16 hex digits>]` holds (`common/bit_vector.hpp`):

| u32 length | envelope(1,1) { u64 object count }                  header, 18 bytes
| (object count + 3) / 4 bytes; the first object has the two highest bits of its byte
| u32 length | u32 CRC of the envelope | u32 count | u32 CRC of each 4096 bytes of the above      footer

The CRCs are CRC-32C begun with 0. What `object_map_load` answers has an empty footer. A map of another object count
than the image's is no error of the format: librbd marks it invalid.
"""

import functools
from collections.abc import Iterator
from typing import Self

import crc32c

from rbdfs.cls.query import Query
from rbdfs.cls.rbd import call
from rbdfs.cls.rbd_types import ObjectState
from rbdfs.errors import WireError
from rbdfs.rados.ops import Call
from rbdfs.wire import U8, U64, Buffer, Cursor, envelope

HEADER_SIZE = 18
BLOCK_SIZE = 4096  # bytes of states per CRC
PER_BYTE = 4

_ALL_ONES = 0xFFFFFFFF
_UNPACKED = [bytes(byte >> shift & 3 for byte in range(256)) for shift in (6, 4, 2, 0)]  # by the place in a byte
_SHIFTED = [bytes((state & 3) << shift for state in range(256)) for shift in (6, 4, 2, 0)]


def crc(data: Buffer) -> int:
    """CRC-32C begun with 0 and not inverted, as `bufferlist::crc32c(0)`."""
    return crc32c.crc32c(data, _ALL_ONES) ^ _ALL_ONES


def states_size(count: int) -> int:
    """How many bytes the states of so many objects take."""
    return (count + PER_BYTE - 1) // PER_BYTE


def encode_header(count: int) -> bytes:
    """The header of a map of so many objects."""
    out = bytearray(4)
    with envelope(out, 1, 1):
        out += count.to_bytes(8, "little")
    out[:4] = (len(out) - 4).to_bytes(4, "little")
    return bytes(out)


def decode_header(cursor: Cursor) -> tuple[int, int]:
    """The count of objects, and the CRC of the header."""
    header = cursor.take(cursor.u32())
    inner = Cursor(header)
    with inner.envelope(1, "object map"):
        count = inner.u64()
    return count, crc(header)


class ObjectStates:
    """The state of each data object of an image, two bits each."""

    __slots__ = ("_bits", "_count")

    def __init__(self, count: int = 0, state: int = ObjectState.NONEXISTENT) -> None:
        self._count = 0
        self._bits = bytearray()
        self.resize(count, state)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> int:
        if not 0 <= number < self._count:
            raise IndexError(number)
        return self._bits[number >> 2] >> (~number & 3) * 2 & 3

    def __setitem__(self, number: int, state: int) -> None:
        if not 0 <= number < self._count:
            raise IndexError(number)
        shift = (~number & 3) * 2
        self._bits[number >> 2] = self._bits[number >> 2] & ~(3 << shift) | state << shift

    def __iter__(self) -> Iterator[int]:
        return iter(self.unpacked())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStates) and self._count == other._count and self.unpacked() == other.unpacked()

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def packed(self) -> bytes:
        """The states as they are stored."""
        return bytes(self._bits)

    def unpacked(self, start: int = 0, end: int | None = None) -> bytes:
        """The states of a range of objects, a byte each: for scans, which are then `bytes.find` and the like."""
        end = self._count if end is None else min(end, self._count)
        first = start >> 2
        bits = self._bits[first : states_size(end)]
        spread = bytearray(PER_BYTE * len(bits))
        for place, table in enumerate(_UNPACKED):
            spread[place::PER_BYTE] = bits.translate(table)
        return bytes(spread[start - first * PER_BYTE : end - first * PER_BYTE])

    def fill(self, start: int, end: int, state: int) -> None:
        """Put a range of objects into one state."""
        self.change(start, end, state)

    def change(self, start: int, end: int, state: int, expected: int | None = None) -> bool:
        """Put a range of objects, or those of them in the expected state, into a state; whether any was in another.

        EXISTS, when expected, matches CLEAN too (`cls_rbd: object_map_update`).
        """
        if not 0 <= start <= end <= self._count:
            raise IndexError((start, end))
        inner_start = min(-(-start // PER_BYTE), end // PER_BYTE)
        inner_end = max(inner_start, end // PER_BYTE)
        before = self._bits[start // PER_BYTE : states_size(end)]
        self._bits[inner_start:inner_end] = self._bits[inner_start:inner_end].translate(_changes(state, expected))
        for number in (*range(start, min(inner_start * PER_BYTE, end)), *range(max(inner_end * PER_BYTE, start), end)):
            if _matches(self[number], expected):
                self[number] = state
        return before != self._bits[start // PER_BYTE : states_size(end)]

    def resize(self, count: int, state: int = ObjectState.NONEXISTENT) -> None:
        """Cut the map, or extend it with objects of one state."""
        old, self._count = self._count, count
        size = states_size(count)
        if count < old:
            del self._bits[size:]
            if count % PER_BYTE:
                self._bits[-1] &= 0xFF << (PER_BYTE - count % PER_BYTE) * 2 & 0xFF
        else:
            self._bits += bytes(size - len(self._bits))
            self.fill(old, count, state)

    def mark_clean(self) -> bool:
        """A snapshot was made: turn EXISTS into CLEAN; whether anything changed."""
        return self.change_only(ObjectState.EXISTS, ObjectState.CLEAN)

    def change_only(self, old: int, new: int) -> bool:
        """Turn one state into another, for all objects; whether anything changed."""
        before = self._bits
        self._bits = before.translate(_table(tuple(new if state == old else state for state in range(4))))
        return before != self._bits

    def mark_changed(self, removed: "ObjectStates") -> bool:
        """A snapshot goes, of which that was the map: turn CLEAN into EXISTS where it said EXISTS, and past its end.

        Whether anything changed. The arithmetic is on all objects at once, the states being the digits of one number.
        """
        size = len(self._bits)
        odd = int.from_bytes(b"\x55" * size, "big")  # the lower bit of each object
        mine = int.from_bytes(self._bits, "big")
        other = int.from_bytes(removed._bits[:size].ljust(size, b"\0"), "big")
        beyond = odd & ((1 << 2 * max(size * PER_BYTE - len(removed), 0)) - 1)
        clean = mine & mine >> 1 & odd
        existed = other & ~(other >> 1) & odd
        changed = clean & (existed | beyond)
        self._bits = bytearray((mine & ~(changed << 1)).to_bytes(size, "big"))
        return changed != 0

    def encode(self, *, with_crcs: bool = True) -> bytes:
        """The map as it is stored, or as a class call carries it."""
        header = encode_header(self._count)
        return header + self._bits + (encode_footer(header[4:], self._bits) if with_crcs else bytes(4))

    @classmethod
    def from_packed(cls, bits: Buffer, count: int) -> Self:
        """A map of states as they are stored."""
        assert len(bits) == states_size(count), (len(bits), count)
        states = cls()
        states._count, states._bits = count, bytearray(bits)
        return states

    @classmethod
    def packing(cls, unpacked: bytes | bytearray) -> Self:
        """A map of these states, a byte each."""
        size = states_size(len(unpacked))
        bits = 0
        for place, table in enumerate(_SHIFTED):
            bits |= int.from_bytes(unpacked[place::PER_BYTE].translate(table), "little")
        states = cls()
        states._count, states._bits = len(unpacked), bytearray(bits.to_bytes(size, "little"))
        return states

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read a map, stored or carried by a class call; WireError where a CRC does not match."""
        cursor = Cursor(data)
        count, header_crc = decode_header(cursor)
        bits = cursor.take(states_size(count))
        footer = Cursor(cursor.take(cursor.u32()))
        if footer.remaining:
            _check_footer(footer, header_crc, bits)
        return cls.from_packed(bits, count)


def _matches(state: int, expected: int | None) -> bool:
    return expected is None or state == expected or (expected == ObjectState.EXISTS and state == ObjectState.CLEAN)


@functools.cache
def _changes(state: int, expected: int | None) -> bytes:
    return _table(tuple(state if _matches(old, expected) else old for old in range(4)))


@functools.cache
def _table(new: tuple[int, ...]) -> bytes:
    """For `translate`: what becomes of a byte of four states, each of which is replaced by `new[state]`."""
    return bytes(sum(new[byte >> shift & 3] << shift for shift in (6, 4, 2, 0)) for byte in range(256))


def block_crcs(bits: Buffer) -> list[int]:
    """The CRC of each block of states."""
    view = memoryview(bits)
    return [crc(view[start : start + BLOCK_SIZE]) for start in range(0, len(view), BLOCK_SIZE)]


def encode_footer(header: Buffer, bits: Buffer) -> bytes:
    """The footer of a map: of its header without the length, and of its states."""
    numbers = block_crcs(bits)
    words = [8 + 4 * len(numbers), crc(header), len(numbers), *numbers]
    return b"".join(word.to_bytes(4, "little") for word in words)


def _check_footer(footer: Cursor, header_crc: int, bits: memoryview) -> None:
    if footer.u32() != header_crc:
        raise WireError("object map: the CRC of the header does not match")
    expected = block_crcs(bits)
    if footer.u32() != len(expected):
        raise WireError("object map: the count of CRCs does not match")
    for number, value in enumerate(expected):
        if footer.u32() != value:
            raise WireError(f"object map: the CRC of block {number} does not match")


# The methods of class `rbd`.


def load() -> Query[ObjectStates]:
    """The whole map; NotFound where there is none."""
    return Query(call("object_map_load"), ObjectStates.decode)


def save(states: ObjectStates) -> Call:
    """Replace the whole map."""
    return Call("rbd", "object_map_save", states.encode(with_crcs=False))


def resize(count: int, state: int = ObjectState.NONEXISTENT) -> Call:
    """Cut or extend the map; StaleSnapId (ESTALE) where an object to be cut off is in another state."""
    return call("object_map_resize", (U64, count), (U8, state))


def update(start: int, end: int, state: int, expected: int | None = None) -> Call:
    """Put the objects from `start` up to `end` into a state: all, or those in the expected one (EXISTS matches CLEAN).

    VersionMismatch (ERANGE) where the range is empty or passes the end of the map.
    """
    return call("object_map_update", (U64, start), (U64, end), (U8, state), (U8 | None, expected))


def snap_add() -> Call:
    """A snapshot was made: turn EXISTS into CLEAN."""
    return call("object_map_snap_add")


def snap_remove(removed: ObjectStates) -> Call:
    """A snapshot goes whose map this is: turn CLEAN into EXISTS where it had changed since the snapshot before."""
    return Call("rbd", "object_map_snap_remove", removed.encode(with_crcs=False))
