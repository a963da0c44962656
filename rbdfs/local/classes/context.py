"""What a method of an object class may do to its object, and how methods are registered.

The counterpart of `cls_cxx_*` in an OSD. A method runs inside an op: what it changes belongs to that op and is applied
or dropped with it; what earlier steps of the op changed is visible to it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from rbdfs.rados.ops import ObjectStat, SnapContext, SnapId


class MethodContext(Protocol):
    """The object that a method runs on."""

    @property
    def object_name(self) -> str:
        """The object's name."""

    @property
    def snap_id(self) -> SnapId:
        """The snapshot that is read, or HEAD."""

    @property
    def snapc(self) -> SnapContext:
        """The snapshot context of the write."""

    @property
    def caller(self) -> str:
        """Who asks: `client.4123`."""

    @property
    def caller_address(self) -> str:
        """Where from: `127.0.0.1:0/40882352`."""

    @property
    def now(self) -> int:
        """Nanoseconds since the epoch."""

    def exists(self) -> bool: ...
    def stat(self) -> ObjectStat: ...  # NotFound
    def create(self, exclusive: bool) -> None: ...  # Exists
    def remove(self) -> None: ...
    def read(self, offset: int, length: int) -> bytes: ...  # NotFound; length 0: to the end
    def write(self, offset: int, data: bytes) -> None: ...
    def write_full(self, data: bytes) -> None: ...
    def truncate(self, size: int) -> None: ...
    def get_xattr(self, name: str) -> bytes: ...  # NotFound, NoData
    def set_xattr(self, name: str, value: bytes) -> None: ...
    def remove_xattr(self, name: str) -> None: ...
    def get_xattrs(self) -> dict[str, bytes]: ...
    def omap_get(self, key: str) -> bytes: ...  # NotFound where the object or the key is missing
    def omap_list(self, start_after: str, max_return: int, prefix: str = "") -> tuple[dict[str, bytes], bool]: ...
    def omap_set(self, values: Mapping[str, bytes]) -> None: ...
    def omap_remove(self, key: str) -> None: ...
    def omap_clear(self) -> None: ...


class Method(NamedTuple):
    """A registered method; `writes` says that it may only run in a WriteOp."""

    run: Callable[[MethodContext, bytes], bytes]
    writes: bool


Methods = dict[str, Method]  # by name, per class
