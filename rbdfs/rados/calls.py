"""The one-step ops as typed coroutines, for code off the hot path."""

from collections.abc import AsyncIterator, Mapping, Sequence

from rbdfs.errors import NotFound
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import (
    HEAD,
    NO_SNAPS,
    Buffer,
    Call,
    CloneInfo,
    GetXattr,
    ListSnaps,
    ListWatchers,
    ObjectStat,
    OmapGetByKeys,
    OmapGetValues,
    OmapSet,
    OmapValues,
    Read,
    ReadOp,
    Remove,
    SnapContext,
    SnapId,
    Stat,
    Watcher,
    Write,
    WriteOp,
)


async def read(ioctx: IoCtx, name: str, offset: int, length: int, snap_id: SnapId = HEAD) -> Buffer:
    """Bytes of an object, shorter than asked where it ends."""
    output: Buffer = (await ioctx.operate(name, ReadOp([Read(offset, length)], snap_id))).outputs[0]
    return output


async def write(ioctx: IoCtx, name: str, offset: int, data: Buffer, snapc: SnapContext = NO_SNAPS) -> None:
    """Put bytes at an offset of an object."""
    await ioctx.operate(name, WriteOp([Write(offset, data)], snapc))


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


async def execute(
    ioctx: IoCtx, name: str, class_name: str, method: str, argument: Buffer = b"", snap_id: SnapId = HEAD
) -> bytes:
    """Run a class method that only reads; gives its output."""
    output: bytes = (await ioctx.operate(name, ReadOp([Call(class_name, method, argument)], snap_id))).outputs[0]
    return output


async def change(ioctx: IoCtx, name: str, class_name: str, method: str, argument: Buffer = b"") -> None:
    """Run a class method that writes."""
    await ioctx.operate(name, WriteOp([Call(class_name, method, argument)]))


async def get_xattr(ioctx: IoCtx, name: str, attribute: str) -> bytes:
    """An extended attribute of an object."""
    output: bytes = (await ioctx.operate(name, ReadOp([GetXattr(attribute)]))).outputs[0]
    return output


async def omap_get(ioctx: IoCtx, name: str, keys: Sequence[str]) -> dict[str, bytes]:
    """The pairs of those keys that exist."""
    output: dict[str, bytes] = (await ioctx.operate(name, ReadOp([OmapGetByKeys(keys)]))).outputs[0]
    return output


async def omap_set(ioctx: IoCtx, name: str, values: Mapping[str, bytes]) -> None:
    """Set pairs of an object's omap."""
    await ioctx.operate(name, WriteOp([OmapSet(values)]))


async def omap_items(ioctx: IoCtx, name: str, prefix: str = "", page: int = 1024) -> AsyncIterator[tuple[str, bytes]]:
    """All pairs of an object's omap, in byte order of the keys."""
    after, more = "", True
    while more:
        output: OmapValues = (await ioctx.operate(name, ReadOp([OmapGetValues(after, page, prefix)]))).outputs[0]
        for pair in output.values.items():
            yield pair
        more = output.more and bool(output.values)
        if more:
            after = next(reversed(output.values))


async def list_snaps(ioctx: IoCtx, name: str) -> list[CloneInfo]:
    """The stored states of an object, oldest first."""
    output: list[CloneInfo] = (await ioctx.operate(name, ReadOp([ListSnaps()]))).outputs[0]
    return output


async def list_watchers(ioctx: IoCtx, name: str) -> list[Watcher]:
    """Who watches an object."""
    output: list[Watcher] = (await ioctx.operate(name, ReadOp([ListWatchers()]))).outputs[0]
    return output
