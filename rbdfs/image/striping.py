"""Where the bytes of an image are: image extent <-> object extents.

The image is cut into stripe units. `stripe_count` objects form an object set; the units go round the objects of a set
until each is full, then the next set begins (`net/ceph/striper.c`; Ceph, `osdc/Striper.cc`). With the usual layout,
one stripe unit per object and a stripe count of one, object n simply holds the bytes from n * object_size.

    object_size 4, stripe_unit 2, stripe_count 3       object   0    1    2    3    4    5
                                                       units   0 3  1 4  2 5  6 9  7 10 8 11
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NewType

from rbdfs.errors import InvalidArgument

ObjectNumber = NewType("ObjectNumber", int)

MIN_ORDER, MAX_ORDER = 12, 25  # RBD_MIN_OBJ_ORDER, RBD_MAX_OBJ_ORDER: objects of 4 KiB to 32 MiB
MAX_SIZE = 2**63 - 1  # of an image: more could not be shown as a file (off_t)


class ObjectExtent(NamedTuple):
    """A contiguous part of one object, and where its bytes lie in the caller's buffer: (offset, length), in order."""

    number: ObjectNumber
    offset: int
    length: int
    parts: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Striping:
    """How an image is laid out over its data objects."""

    order: int
    stripe_unit: int
    stripe_count: int

    @classmethod
    def of(cls, order: int, stripe_unit: int = 0, stripe_count: int = 0) -> "Striping":
        """The layout; a stripe unit and count of zero mean the usual one. InvalidArgument where they do not fit."""
        object_size = 1 << order
        stripe_unit, stripe_count = stripe_unit or object_size, stripe_count or 1
        if stripe_unit > object_size or object_size % stripe_unit or stripe_count < 1:
            raise InvalidArgument(f"stripe unit {stripe_unit} and count {stripe_count} for objects of {object_size}")
        return cls(order, stripe_unit, stripe_count)

    @property
    def object_size(self) -> int:
        """Bytes that one object holds at most."""
        return 1 << self.order

    @property
    def is_simple(self) -> bool:
        """Object n holds the image's bytes from n * object_size."""
        return self.stripe_count == 1

    @property
    def set_size(self) -> int:
        """Bytes of one object set."""
        return self.stripe_count << self.order

    def object_count(self, size: int) -> int:
        """Objects that an image of `size` bytes may have; their numbers are 0 to this less one."""
        sets, rest = divmod(size, self.set_size)
        return sets * self.stripe_count + min(self.stripe_count, -(-rest // self.stripe_unit))

    def object_extents(self, offset: int, length: int) -> list[ObjectExtent]:
        """The object extents that hold an image extent, ordered by where they begin in it."""
        if self.stripe_count == 1:
            return list(self._simple_extents(offset, length))
        return self._striped_extents(offset, length)

    def _simple_extents(self, offset: int, length: int) -> Iterator[ObjectExtent]:
        position, end, order = offset, offset + length, self.order
        while position < end:
            number = position >> order
            stop = min(end, (number + 1) << order)
            yield ObjectExtent(
                ObjectNumber(number),
                position - (number << order),
                stop - position,
                [(position - offset, stop - position)],
            )
            position = stop

    def _striped_extents(self, offset: int, length: int) -> list[ObjectExtent]:
        found: dict[int, list[ObjectExtent]] = {}
        position, end = offset, offset + length
        while position < end:
            number, within = self.locate(position)
            run = min(end - position, self.stripe_unit - position % self.stripe_unit)
            extents = found.setdefault(number, [])
            if extents and extents[-1].offset + extents[-1].length == within:
                last = extents[-1]
                last.parts.append((position - offset, run))
                extents[-1] = last._replace(length=last.length + run)
            else:
                extents.append(ObjectExtent(number, within, run, [(position - offset, run)]))
            position += run
        return [extent for extents in found.values() for extent in extents]

    def locate(self, position: int) -> tuple[ObjectNumber, int]:
        """The object that holds a byte of the image, and the byte's offset in it."""
        set_number, in_set = divmod(position, self.set_size)
        unit, in_unit = divmod(in_set, self.stripe_unit)
        row, column = divmod(unit, self.stripe_count)
        return ObjectNumber(set_number * self.stripe_count + column), row * self.stripe_unit + in_unit

    def image_extents(self, number: int, offset: int, length: int) -> list[tuple[int, int]]:
        """The image extents (offset, length) that an object extent holds, in order; neighbours are joined."""
        set_number, column = divmod(number, self.stripe_count)
        base = set_number * self.set_size
        result: list[tuple[int, int]] = []
        position, end = offset, offset + length
        while position < end:
            row, in_unit = divmod(position, self.stripe_unit)
            run = min(end - position, self.stripe_unit - in_unit)
            start = base + (row * self.stripe_count + column) * self.stripe_unit + in_unit
            if result and result[-1][0] + result[-1][1] == start:
                result[-1] = (result[-1][0], result[-1][1] + run)
            else:
                result.append((start, run))
            position += run
        return result

    def used_size(self, number: int, size: int) -> int:
        """Bytes of an object that belong to an image of `size` bytes: to where a smaller image cuts it."""
        set_number, column = divmod(number, self.stripe_count)
        rest = size - set_number * self.set_size
        if rest <= 0:
            return 0
        if rest >= self.set_size:
            return 1 << self.order
        rows, rest = divmod(rest, self.stripe_unit * self.stripe_count)
        return rows * self.stripe_unit + min(max(rest - column * self.stripe_unit, 0), self.stripe_unit)
