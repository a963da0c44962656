"""Whether clones were made of a snapshot."""

from typing import Any

from rbdfs.cls.directory import CHILDREN
from rbdfs.cls.query import Query, ask, reader
from rbdfs.cls.rbd import call
from rbdfs.errors import NotFound, NotSupported, PermissionDenied
from rbdfs.image.core import ImageCore
from rbdfs.image.header import SnapInfo
from rbdfs.rados.ops import SnapId
from rbdfs.wire import S64, U64


def _get_children(pool_id: int, image_id: str, snap_id: SnapId) -> Query[Any]:
    step = call("get_children", (S64, pool_id), (str, image_id), (U64, snap_id))
    return Query(step, reader(set[str]))


async def has_children(image: ImageCore, snap: SnapInfo) -> bool:
    """Whether any pool that we may look into has a clone of the snapshot, of either format.

    Clones of the first format are in the namespace of their parent (`librbd: SnapshotUnprotectRequest`).
    """
    if snap.child_count:
        return True
    cluster = image.ioctx.cluster
    for pool_id in await cluster.list_pools():
        try:
            pool = await cluster.open_pool(pool_id, image.ioctx.namespace)
            if await ask(pool, CHILDREN, _get_children(image.ioctx.pool_id, image.image_id, snap.id)):
                return True
        except (NotFound, NotSupported, PermissionDenied):
            continue
    return False
