"""The omap of one state of an object: sorted pairs in memory, and what a commit still has to write of them.

Keys are bytes here, in byte order. An omap is loaded whole when it is first asked for and leaves memory with its
object.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping


class Omap:
    """Pairs; `changes` has those set (or removed: None) since the last commit, `is_new` that no stored one counts."""

    __slots__ = ("_order", "changes", "is_new", "pairs")

    def __init__(self, pairs: dict[bytes, bytes], *, is_new: bool) -> None:
        self.pairs = pairs
        self._order = sorted(pairs)
        self.is_new = is_new
        self.changes: dict[bytes, bytes | None] = dict(pairs) if is_new else {}

    def copy(self) -> "Omap":
        """The same pairs, for another state of the object."""
        return Omap(dict(self.pairs), is_new=True)

    def apply(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Set pairs, and remove those whose value is None."""
        for key, value in changes.items():
            if value is not None:
                if key not in self.pairs:
                    insort(self._order, key)
                self.pairs[key] = value
            elif key in self.pairs:
                del self.pairs[key]
                del self._order[bisect_left(self._order, key)]
            self.changes[key] = value

    def page(self, after: bytes, prefix: bytes, limit: int) -> tuple[list[bytes], bool]:
        """Up to `limit` keys behind `after` that begin with `prefix`, and whether there are more."""
        return page(self._order, after, prefix, limit)


def merge(pairs: Mapping[bytes, bytes], changes: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
    """The pairs with changes applied, in no order."""
    together: dict[bytes, bytes | None] = {**pairs, **changes}
    return {key: value for key, value in together.items() if value is not None}


def page(order: list[bytes], after: bytes, prefix: bytes, limit: int) -> tuple[list[bytes], bool]:
    """Of sorted keys: up to `limit` behind `after` that begin with `prefix`, and whether there are more."""
    start = max(bisect_right(order, after) if after else 0, bisect_left(order, prefix))
    found: list[bytes] = []
    for index in range(start, len(order)):
        if not order[index].startswith(prefix):
            return found, False
        if len(found) == limit:
            return found, True
        found.append(order[index])
    return found, False


def encode_key(key: str) -> bytes:
    """A key or an object name as it is stored."""
    return key.encode("utf-8", "surrogateescape")


def decode_key(key: bytes) -> str:
    """A stored key or object name."""
    return key.decode("utf-8", "surrogateescape")


def encode_pairs(values: Mapping[str, bytes]) -> dict[bytes, bytes]:
    """Pairs as they are stored; the values are copied where they are views."""
    return {encode_key(key): bytes(value) for key, value in values.items()}


def encode_removals(keys: Iterable[str]) -> dict[bytes, None]:
    """Changes that remove keys."""
    return {encode_key(key): None for key in keys}
