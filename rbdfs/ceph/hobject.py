"""Objects in the order in which a placement group keeps them (hobject_t): for backoffs and listings.

The order is by pool, then by the hash of the name with its bits reversed (so that a placement group is one range, and
its two halves after a split are the two halves of that range), then by namespace and name.
"""

from dataclasses import dataclass
from typing import Self

from rbdfs.rados.ops import HEAD
from rbdfs.wire import S64, U32, U64, Cursor, Record

_MIN_POOL = -(2**63)

OrderKey = tuple[bool, int, int, str, str, str, int]


@dataclass(slots=True)
class HObject(Record, version=4, compat=3):
    """hobject_t: an object, or the place before (the default) or behind all objects."""

    key: str = ""
    name: str = ""
    snap: U64 = 0
    hash: U32 = 0
    is_max: bool = False
    namespace: str = ""
    pool: S64 = _MIN_POOL

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read one; as Ceph does, the old spelling of the minimum becomes the new one."""
        decoded = super(HObject, cls).decode(cursor)
        if decoded.pool == -1 and not (decoded.snap or decoded.hash or decoded.is_max or decoded.name):
            decoded.pool = _MIN_POOL
        return decoded

    def order(self) -> OrderKey:
        """A tuple that compares as Ceph compares the objects."""
        reverse = int(f"{self.hash:032b}"[::-1], 2)
        return self.is_max, self.pool, reverse, self.namespace, self.key or self.name, self.name, self.snap


def head_object(pool: int, raw_hash: int, namespace: str, name: str) -> HObject:
    """The head of a named object."""
    return HObject(name=name, snap=HEAD, hash=raw_hash, namespace=namespace, pool=pool)
