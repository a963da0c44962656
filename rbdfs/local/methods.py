"""Running a method of an object class on the draft of an op: `MethodContext` over a draft."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rbdfs.errors import Exists, InvalidArgument, NotFound, NotSupported
from rbdfs.local import extents, steps
from rbdfs.local.classes.registry import CLASSES
from rbdfs.local.omap import decode_key, encode_key, encode_pairs
from rbdfs.rados.ops import Call, ObjectStat, SnapContext, SnapId

if TYPE_CHECKING:
    from rbdfs.local.steps import Run


def call(run: "Run", step: Call) -> bytes:
    """Run a method; NotSupported where there is none of that name."""
    method = CLASSES.get(step.class_name, {}).get(step.method)
    if method is None:
        raise NotSupported(f"{run.draft.obj.key.name}: no method {step.class_name}.{step.method}")
    if method.writes and not run.is_write:
        raise InvalidArgument(f"{step.class_name}.{step.method}: changes its object, so it must be part of a write")
    return method.run(DraftContext(run), bytes(step.argument))


class DraftContext:
    """The object of an op, as a method sees and changes it (`classes/context.py: MethodContext`)."""

    __slots__ = ("_draft", "_run")

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._draft = run.draft

    @property
    def object_name(self) -> str:
        """The object's name."""
        return self._draft.obj.key.name

    @property
    def snap_id(self) -> SnapId:
        """The snapshot that is read, or HEAD."""
        return self._run.snap_id

    @property
    def snapc(self) -> SnapContext:
        """The snapshot context of the write."""
        return self._run.snapc

    @property
    def caller(self) -> str:
        """Who asks: `client.4123`."""
        return self._run.client.entity

    @property
    def caller_address(self) -> str:
        """Where from: `127.0.0.1:0/40882352`."""
        return self._run.client.address

    @property
    def now(self) -> int:
        """Nanoseconds since the epoch."""
        return self._run.now

    def exists(self) -> bool:
        """Whether the object exists."""
        return self._draft.exists

    def stat(self) -> ObjectStat:
        """Size and mtime."""
        return steps.stat(self._run)

    def create(self, exclusive: bool) -> None:
        """Make the object exist."""
        if exclusive and self._draft.exists:
            raise Exists(f"{self.object_name}: object exists")
        self._draft.create()

    def remove(self) -> None:
        """Remove the object."""
        self._draft.remove()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes, shorter where the object ends."""
        self._draft.require()
        return bytes(self._draft.read(offset, extents.clip(self._draft.size, offset, length)))

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at an offset."""
        self._draft.write(offset, data)

    def write_full(self, data: bytes) -> None:
        """Replace the whole content."""
        self._draft.replace(data)

    def truncate(self, size: int) -> None:
        """Cut or extend."""
        self._draft.truncate(size)

    def get_xattr(self, name: str) -> bytes:
        """An extended attribute."""
        return self._draft.get_xattr(name)

    def set_xattr(self, name: str, value: bytes) -> None:
        """Set an extended attribute."""
        self._draft.set_xattr(name, value)

    def remove_xattr(self, name: str) -> None:
        """Remove an extended attribute."""
        self._draft.remove_xattr(name)

    def get_xattrs(self) -> dict[str, bytes]:
        """All extended attributes."""
        self._draft.require()
        return dict(self._draft.xattrs)

    def omap_get(self, key: str) -> bytes:
        """The value of a key."""
        self._draft.require()
        value = self._run.omap_value(key)
        if value is None:
            raise NotFound(f"{self.object_name}: no key {key}")
        return value

    def omap_list(self, start_after: str, max_return: int, prefix: str = "") -> tuple[dict[str, bytes], bool]:
        """Pairs in byte order of their keys, and whether there are more."""
        self._draft.require()
        found, more = self._run.omap_page(start_after, prefix, max_return)
        return {decode_key(key): value for key, value in found.items()}, more

    def omap_set(self, values: Mapping[str, bytes]) -> None:
        """Set pairs."""
        self._draft.create()
        self._draft.change_omap(encode_pairs(values))

    def omap_remove(self, key: str) -> None:
        """Remove a key, if it is there."""
        self._draft.require()
        self._draft.change_omap({encode_key(key): None})

    def omap_clear(self) -> None:
        """Remove the omap header and all pairs."""
        self._draft.require()
        self._draft.clear_omap()
