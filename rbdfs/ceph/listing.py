"""The objects of a pool, listed placement group by placement group (PGNLS).

The position is an object in the pool's order (`hobject.py`). Each page ends with the position to go on from, which an
OSD at the end of its placement group sets to the beginning of the next one: so a listing goes on unharmed while
placement groups split or move.
"""

from collections.abc import AsyncIterator, Awaitable, Callable

from rbdfs.ceph.hobject import HObject
from rbdfs.ceph.osd_ops import EncodedSteps, encode_list
from rbdfs.wire import Buffer, Cursor

_PAGE = 1000  # librados: 1024 by default, an OSD gives at most osd_max_pgls = 1024

Ask = Callable[[int, EncodedSteps], Awaitable[Buffer]]  # the hash that picks the placement group; the op


async def list_pages(ask: Ask, epoch: Callable[[], int], namespace: str) -> AsyncIterator[list[str]]:
    """The names of the objects in a namespace, some at a time."""
    position = HObject()
    while not position.is_max:
        page = await ask(position.hash, encode_list(_PAGE, epoch(), position.to_bytes()))
        position, names = decode_page(page, namespace)
        if names:
            yield names


def decode_page(page: Buffer, namespace: str) -> tuple[HObject, list[str]]:
    """Where to go on, and the names (pg_nls_response_t)."""
    cursor = Cursor(page)
    names = []
    with cursor.envelope(1, "pg_nls_response_t"):
        position = HObject.decode(cursor)
        for _ in range(cursor.count()):
            found, name, _ = cursor.text(), cursor.text(), cursor.text()
            if found == namespace:
                names.append(name)
    return position, names
