"""Class `rbd` on a data object: what a clone's object takes over from its parent, unless somebody was faster."""

import errno

from rbdfs.local.classes.context import MethodContext
from rbdfs.local.classes.support import Registry, Rest, failure
from rbdfs.wire import U64

_REGISTRY = Registry("rbd")
METHODS = _REGISTRY.methods


@_REGISTRY.writes("copyup", Rest)
def _copyup(context: MethodContext, data: bytes) -> None:
    if not context.exists():
        context.write(0, data)


@_REGISTRY.writes("sparse_copyup", dict[U64, U64], bytes)
def _sparse_copyup(context: MethodContext, extents: dict[int, int], data: bytes) -> None:
    if context.exists():
        return
    if sum(extents.values()) > len(data):
        raise failure(context, errno.EINVAL, "the extents are longer than the data")
    context.create(True)
    position = 0
    for offset, length in sorted(extents.items()):
        context.write(offset, data[position : position + length])
        position += length
