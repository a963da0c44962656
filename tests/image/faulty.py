"""An IoCtx around another one: ops fail, wait, or are done and not answered, where a test says so."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from image.conftest import MIB, Pools

from rbdfs.errors import RbdfsError, TimedOut
from rbdfs.image import directory
from rbdfs.image.image import Image, open_image
from rbdfs.image.tasks import Completion
from rbdfs.rados.api import IoCtx, NotifyReply, OnComplete, Outcome, PoolUsage, Watch, WatchEvent
from rbdfs.rados.ops import Call, PoolId, ReadOp, Remove, Reply, SnapId, Write, WriteOp

Op = ReadOp | WriteOp
Rule = Callable[[str, Op], RbdfsError | None]
Choice = Callable[[str, Op], bool]


class FaultyIoCtx:
    """`rados.api.IoCtx`.

    `holds` says which ops wait; `rule` gives the error that one ends in instead of being done, `loses` those that are
    done, and end in TimedOut: what has waited, too, as they are by then.
    """

    def __init__(self, inner: IoCtx) -> None:
        self._inner = inner
        self.rule: Rule = lambda _name, _op: None
        self.holds: Choice = lambda _name, _op: False
        self.loses: Choice = lambda _name, _op: False
        self.held: list[Callable[[], None]] = []
        self.watchers: list[Callable[[WatchEvent], None]] = []
        self.watches: list[Watch] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def cluster(self) -> Any:
        return self._inner.cluster

    @property
    def pool_id(self) -> PoolId:
        return self._inner.pool_id

    @property
    def pool_name(self) -> str:
        return self._inner.pool_name

    @property
    def namespace(self) -> str:
        return self._inner.namespace

    def with_namespace(self, namespace: str) -> IoCtx:
        return self._inner.with_namespace(namespace)

    def submit(self, name: str, op: Op, on_complete: OnComplete) -> None:
        if self.holds(name, op):
            self.held.append(partial(self._go_on, name, op, on_complete))
        else:
            self._go_on(name, op, on_complete)

    def _go_on(self, name: str, op: Op, on_complete: OnComplete) -> None:
        error = self.rule(name, op)
        if error is not None:
            on_complete(error)
        elif self.loses(name, op):
            self._inner.submit(name, op, lambda _outcome: on_complete(TimedOut("no answer")))
        else:
            self._inner.submit(name, op, on_complete)

    def release(self) -> None:
        """Let what was held go on, and hold nothing more."""
        self.holds = lambda _name, _op: False
        held, self.held = self.held, []
        for go_on in held:
            go_on()

    async def operate(self, name: str, op: Op) -> Reply:
        completion: Completion[Outcome] = Completion()
        self.submit(name, op, completion)
        outcome = await completion.wait()
        if isinstance(outcome, RbdfsError):
            raise outcome
        return outcome

    async def flush(self) -> None:
        await self._do("flush")
        await self._inner.flush()

    async def _do(self, what: str) -> None:
        """Calls that are no ops go through the rule, too."""
        error = self.rule(what, ReadOp([]))
        if error is not None:
            raise error

    def list_objects(self, prefix: str = "", *, of_snapshots: bool = False) -> AsyncIterator[str]:
        return self._inner.list_objects(prefix, of_snapshots=of_snapshots)

    async def create_snap_id(self) -> SnapId:
        await self._do("create_snap_id")
        return await self._inner.create_snap_id()

    async def remove_snap_id(self, snap_id: SnapId) -> None:
        await self._do("remove_snap_id")
        await self._inner.remove_snap_id(snap_id)

    async def watch(self, name: str, on_event: Callable[[WatchEvent], None], seconds: int = 30) -> Watch:
        await self._do("watch")
        watch = await self._inner.watch(name, on_event, seconds)
        self.watchers.append(on_event)
        self.watches.append(watch)
        return watch

    async def notify(self, name: str, payload: bytes, seconds: float = 10.0) -> NotifyReply:
        await self._do("notify")
        return await self._inner.notify(name, payload, seconds)

    async def allocated_bytes(self, prefix: str) -> int | None:
        return await self._inner.allocated_bytes(prefix)

    async def usage(self) -> PoolUsage:
        return await self._inner.usage()


@asynccontextmanager
async def faulty_image(pools: Pools, size: int = 8 * MIB, **layout: int) -> AsyncIterator[tuple[FaultyIoCtx, Image]]:
    """A new image, open, and the IoCtx on which its ops fail, or wait."""
    async with pools.client() as inner:
        ioctx = FaultyIoCtx(inner)
        await directory.create(inner, "vm", size, **layout)
        async with open_image(ioctx, "vm") as image:
            yield ioctx, image


def calls_method(method: str) -> Choice:
    """Whether an op calls that method of an object class."""
    return lambda _name, op: any(isinstance(step, Call) and step.method == method for step in op.steps)


def removes(name: str) -> Choice:
    """Whether an op removes that object."""
    return lambda of, op: of == name and any(isinstance(step, Remove) for step in op.steps)


def is_map_update(name: str, op: Op) -> bool:
    """Whether an op changes the object map."""
    return name.startswith("rbd_object_map.") and any(
        getattr(step, "method", "") == "object_map_update" for step in op.steps
    )


def is_data_write(name: str, op: Op) -> bool:
    """Whether an op changes a data object."""
    return name.startswith("rbd_data.") and isinstance(op, WriteOp)


def takes_room(name: str, op: Op) -> bool:
    """Whether an op puts bytes into a data object."""
    return name.startswith("rbd_data.") and any(isinstance(step, Write) for step in op.steps)
