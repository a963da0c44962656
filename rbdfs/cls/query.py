"""A call of a class method that reads, together with how to read its answer; and running them.

    size = await ask(ioctx, header_object, rbd.get_size())
    size, snapc = await ask_all(ioctx, header_object, rbd.get_size(), rbd.get_snapcontext())    # one op

A call that writes is a plain step (`rados.ops.Call`), and several make one atomic op:

    await change(ioctx, header_object, rbd.set_size(size), rbd.set_modify_timestamp())
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rbdfs.errors import Corrupt, WireError
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import HEAD, NO_SNAPS, Call, ReadOp, SnapContext, SnapId, WriteOp, WriteStep
from rbdfs.wire import Buffer, Cursor, codec_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """A step that reads, and the decoder of its output; the decoder raises WireError."""

    step: Call
    decode: Callable[[Buffer], T]


async def ask(ioctx: IoCtx, name: str, query: Query[T], snap_id: SnapId = HEAD) -> T:
    """The answer to one query; Corrupt where it cannot be decoded."""
    answer: T = (await ask_all(ioctx, name, query, snap_id=snap_id))[0]
    return answer


async def ask_all(ioctx: IoCtx, name: str, *queries: Query[Any], snap_id: SnapId = HEAD) -> list[Any]:
    """The answers to several queries about one object, from one atomic op: the first that fails fails all."""
    reply = await ioctx.operate(name, ReadOp([query.step for query in queries], snap_id))
    return answers(name, queries, reply.outputs)


def answers(name: str, queries: tuple[Query[Any], ...], outputs: list[Any]) -> list[Any]:
    """Decode the outputs of those queries, in order; Corrupt, with the object's name, where one cannot be."""
    decoded = []
    for query, output in zip(queries, outputs, strict=False):
        try:
            decoded.append(query.decode(output))
        except WireError as err:
            raise Corrupt(f"{name}: {query.step.class_name}.{query.step.method}: {err}") from err
    return decoded


async def change(ioctx: IoCtx, name: str, *steps: WriteStep, snapc: SnapContext = NO_SNAPS) -> int:
    """Do steps that write, as one atomic op; gives the object's version after it."""
    return (await ioctx.operate(name, WriteOp(steps, snapc))).version


def reader(hint: Any) -> Callable[[Buffer], Any]:
    """A decoder of one value of an annotated type; bytes behind it are ignored, as Ceph's clients do."""
    decode = codec_of(hint)[1]
    return lambda data: decode(Cursor(data))
