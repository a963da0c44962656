"""Ops of one step as typed coroutines, for code off the hot path."""

from rbdfs.errors import NotFound
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import (
    HEAD,
    NO_SNAPS,
    CloneInfo,
    ListSnaps,
    ListWatchers,
    ObjectStat,
    ReadOp,
    Remove,
    SnapContext,
    SnapId,
    Stat,
    Watcher,
    WriteOp,
)


async def remove(ioctx: IoCtx, name: str, snapc: SnapContext = NO_SNAPS, *, missing_ok: bool = False) -> None:
    """Remove an object."""
    try:
        await ioctx.operate(name, WriteOp([Remove()], snapc, full_try=True))
    except NotFound:
        if not missing_ok:
            raise


async def stat(ioctx: IoCtx, name: str, snap_id: SnapId = HEAD) -> ObjectStat:
    """Size and mtime of an object."""
    output: ObjectStat = (await ioctx.operate(name, ReadOp([Stat()], snap_id))).outputs[0]
    return output


async def list_snaps(ioctx: IoCtx, name: str) -> list[CloneInfo]:
    """The stored states of an object, oldest first."""
    output: list[CloneInfo] = (await ioctx.operate(name, ReadOp([ListSnaps()]))).outputs[0]
    return output


async def list_watchers(ioctx: IoCtx, name: str) -> list[Watcher]:
    """Who watches an object."""
    output: list[Watcher] = (await ioctx.operate(name, ReadOp([ListWatchers()]))).outputs[0]
    return output
