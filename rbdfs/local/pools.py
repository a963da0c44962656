"""Pools, and what they count: blocks, objects, and blocks per family of names."""

from bisect import bisect_left
from dataclasses import dataclass, field

from rbdfs.local.batch import Batch
from rbdfs.local.database import Database
from rbdfs.local.omap import decode_key, encode_key
from rbdfs.rados.ops import PoolId

REMOVED = "\0"  # the name of a pool whose removal is under way begins so


@dataclass(slots=True, eq=False)
class Pool:
    """A pool; `is_removed` makes the handles on it useless."""

    id: PoolId
    name: str
    snap_seq: int = 0  # the newest snap id made
    used: int = 0  # blocks, each counted once
    objects: int = 0  # heads
    is_removed: bool = False
    removed_snaps: set[int] = field(default_factory=set)


def family_of(name: str) -> str:
    """What the names of an image's data objects have in common: all up to the last dot."""
    return name[: name.rfind(".") + 1]


class Families:
    """How many blocks the heads of the objects of each family refer to, so that an image's usage is one look-up."""

    def __init__(self, database: Database) -> None:
        self._spaces: dict[tuple[int, str], dict[str, int]] = {}
        self._order: dict[tuple[int, str], list[str]] = {}  # sorted families, made when asked for
        self._dirty: set[tuple[int, str, str]] = set()
        for pool, namespace, prefix, blocks in database.rows("SELECT pool, namespace, prefix, blocks FROM family"):
            self._spaces.setdefault((pool, decode_key(namespace)), {})[decode_key(prefix)] = blocks

    def add(self, pool: int, namespace: str, name: str, blocks: int) -> None:
        """The head of this object refers to so many blocks more (or less)."""
        family = family_of(name)
        space = self._spaces.setdefault((pool, namespace), {})
        if family not in space:
            self._order.pop((pool, namespace), None)
        space[family] = space.get(family, 0) + blocks
        self._dirty.add((pool, namespace, family))

    def blocks(self, pool: int, namespace: str, prefix: str) -> int:
        """The blocks of all families that begin with `prefix`."""
        space = self._spaces.get((pool, namespace), {})
        order = self._order.get((pool, namespace))
        if order is None:
            order = self._order[pool, namespace] = sorted(space)
        total = 0
        for index in range(bisect_left(order, prefix), len(order)):
            if not order[index].startswith(prefix):
                break
            total += space.get(order[index], 0)
        return total

    def forget_pool(self, pool: int) -> None:
        """The pool is gone."""
        for key in [key for key in self._spaces if key[0] == pool]:
            self._dirty.update((*key, family) for family in self._spaces[key])
            self._spaces[key] = {}
            self._order.pop(key, None)

    def put(self, batch: Batch) -> None:
        """Put what changed into a batch."""
        for pool, namespace, family in self._dirty:
            row = (pool, encode_key(namespace), encode_key(family))
            blocks = self._spaces[pool, namespace].get(family, 0)
            if blocks:
                batch.families.append((*row, blocks))
            else:
                batch.delete_families.append(row)
        self._dirty.clear()
