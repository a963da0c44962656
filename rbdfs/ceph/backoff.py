"""What an OSD asked us not to send for now (doc/dev/osd_internals/backoff.rst).

A backoff covers a range of the objects of one placement group, and lives as long as the session. The OSD drops ops for
objects in the range, those under way included, so all of them are sent again after the end of the backoff.
"""

from typing import NamedTuple

from rbdfs.ceph.hobject import OrderKey
from rbdfs.ceph.messages import BackoffCode, OSDBackoff
from rbdfs.ceph.pool import PgId
from rbdfs.errors import ProtocolError


class _Range(NamedTuple):
    shard: int
    begin: OrderKey
    end: OrderKey


class Backoffs:
    """The backoffs of one session."""

    def __init__(self) -> None:
        self._by_pg: dict[PgId, dict[int, _Range]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_pg)

    def clear(self) -> None:
        """The session is over, and its backoffs with it."""
        self._by_pg.clear()

    def block(self, message: OSDBackoff) -> OSDBackoff:
        """Take a backoff; gives the answer."""
        pg = PgId(message.pg.pool, message.pg.seed)
        covered = _Range(message.pg.shard, message.begin.order(), message.end.order())
        self._by_pg.setdefault(pg, {})[message.id] = covered
        return OSDBackoff(message.pg, message.epoch, BackoffCode.ACK_BLOCK, message.id, message.begin, message.end)

    def unblock(self, message: OSDBackoff) -> PgId | None:
        """End a backoff; gives the placement group whose ops are to be sent again, None where it was unknown."""
        pg = PgId(message.pg.pool, message.pg.seed)
        covered = self._by_pg.get(pg, {})
        if covered.pop(message.id, None) is None:
            return None
        if not covered:
            del self._by_pg[pg]
        return pg

    def holds(self, pg: PgId, order: OrderKey) -> bool:
        """Whether an object must not be sent to."""
        covered = self._by_pg.get(pg)
        return covered is not None and any(
            one.begin <= order < one.end or order == one.begin for one in covered.values()
        )

    def holds_pg(self, pg: PgId) -> bool:
        """Whether any part of a placement group is held; spares computing an object's order."""
        return pg in self._by_pg


def decode_backoff(front: memoryview) -> OSDBackoff:
    """Read a backoff and check that it makes sense to a client."""
    message = OSDBackoff.from_bytes(front)
    if message.code not in (BackoffCode.BLOCK, BackoffCode.UNBLOCK):
        raise ProtocolError(f"backoff with operation {message.code}")
    return message
