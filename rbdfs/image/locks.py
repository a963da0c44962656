"""Locks of an image as its users see and take them by hand; the exclusive lock of who writes is one of them.

Taking one is an agreement between people: whoever asks for a lock of the same name on the image is refused, and no
client writes an image that is locked so (`exclusive_lock.py`). Breaking one fences its locker first, as `rbd lock rm`
does, so that nothing which that client has still on its way is written.
"""

from rbdfs.cls import lock
from rbdfs.cls.lock import RBD_LOCK, LockerId, LockType
from rbdfs.cls.query import ask, change
from rbdfs.entities import EntityName
from rbdfs.errors import Busy, Exists, InvalidArgument, NotFound
from rbdfs.image.header_watch import announce_update
from rbdfs.image.lookup import lookup, where
from rbdfs.image.names import header_object
from rbdfs.rados.api import IoCtx


async def add_lock(ioctx: IoCtx, name: str, lock_id: str, shared_tag: str | None = None) -> None:
    """Lock an image, alone or with all who name the same tag; Busy where others have locked it."""
    header = header_object(await lookup(ioctx, name))
    type_ = LockType.EXCLUSIVE if shared_tag is None else LockType.SHARED
    try:
        await change(ioctx, header, lock.lock(RBD_LOCK, type_, lock_id, shared_tag or ""))
    except (Busy, Exists) as err:
        tag = " with a different tag" if shared_tag is not None else ""
        raise Busy(f"{where(ioctx, name)}: lock is already held by someone else{tag}") from err
    await announce_update(ioctx, header)


async def break_lock(ioctx: IoCtx, name: str, lock_id: str, locker: str) -> None:
    """Take a lock away from its locker, `client.<number>`, and fence that client; NotFound where it has none."""
    header = header_object(await lookup(ioctx, name))
    try:
        entity = EntityName.parse(locker)
    except ValueError as err:
        raise InvalidArgument(f"{locker}: no locker: wanted is client.<number>, as rbdfs lock ls shows it") from err
    details = (await ask(ioctx, header, lock.get_info(RBD_LOCK))).lockers.get(LockerId(entity, lock_id))
    if details is None:
        raise NotFound(f"{where(ioctx, name)}: {locker} holds no lock {lock_id!r}")
    await ioctx.cluster.blocklist(str(details.address))
    await change(ioctx, header, lock.break_lock(RBD_LOCK, entity, lock_id))
    await announce_update(ioctx, header)
