"""The one-step ops as coroutines, as a test wants them; what rbdfs itself wants of them is in `rbdfs.rados.calls`."""

from collections.abc import AsyncIterator, Mapping, Sequence

from rbdfs.rados.api import IoCtx
from rbdfs.rados.calls import list_snaps, list_watchers, remove, stat
from rbdfs.rados.ops import (
    HEAD,
    NO_SNAPS,
    Buffer,
    Call,
    GetXattr,
    OmapGetByKeys,
    OmapGetValues,
    OmapSet,
    OmapValues,
    Read,
    ReadOp,
    SnapContext,
    SnapId,
    Write,
    WriteOp,
)

__all__ = [
    "change",
    "execute",
    "get_xattr",
    "list_snaps",
    "list_watchers",
    "omap_get",
    "omap_items",
    "omap_set",
    "read",
    "remove",
    "stat",
    "write",
]


async def read(ioctx: IoCtx, name: str, offset: int, length: int, snap_id: SnapId = HEAD) -> Buffer:
    """Bytes of an object, shorter than asked where it ends."""
    output: Buffer = (await ioctx.operate(name, ReadOp([Read(offset, length)], snap_id))).outputs[0]
    return output


async def write(ioctx: IoCtx, name: str, offset: int, data: Buffer, snapc: SnapContext = NO_SNAPS) -> None:
    """Put bytes at an offset of an object."""
    await ioctx.operate(name, WriteOp([Write(offset, data)], snapc))


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
