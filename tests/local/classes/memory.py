"""An object in memory for methods to run on: the whole of MethodContext, without a store around it."""

from collections.abc import Mapping

from rbdfs.errors import Exists, NoData, NotFound
from rbdfs.rados.ops import HEAD, NO_SNAPS, ObjectStat, SnapContext, SnapId


class MemoryObject:
    """An object, existing or not, and who calls."""

    def __init__(self, name: str = "object") -> None:
        self.object_name = name
        self.snap_id: SnapId = HEAD
        self.snapc: SnapContext = NO_SNAPS
        self.caller = "client.4123"
        self.caller_address = "127.0.0.1:0/4711"
        self.now = 1_700_000_000_123_456_789
        self.content: bytes | None = None
        self.xattrs: dict[str, bytes] = {}
        self.omap: dict[str, bytes] = {}

    def state(self) -> tuple[bytes | None, dict[str, bytes], dict[str, bytes]]:
        """Content, attributes and keys."""
        return self.content, dict(self.xattrs), dict(self.omap)

    def restore(self, state: tuple[bytes | None, dict[str, bytes], dict[str, bytes]]) -> None:
        """Put back what `state` gave."""
        self.content, self.xattrs, self.omap = state[0], dict(state[1]), dict(state[2])

    def _require(self) -> bytes:
        if self.content is None:
            raise NotFound(f"{self.object_name}: no such object")
        return self.content

    def exists(self) -> bool:
        return self.content is not None

    def stat(self) -> ObjectStat:
        return ObjectStat(len(self._require()), self.now)

    def create(self, exclusive: bool) -> None:
        if exclusive and self.exists():
            raise Exists(f"{self.object_name}: exists")
        self.content = self.content or b""

    def remove(self) -> None:
        self._require()
        self.content = None
        self.xattrs.clear()
        self.omap.clear()

    def read(self, offset: int, length: int) -> bytes:
        end = offset + length if length else None
        return self._require()[offset:end]

    def write(self, offset: int, data: bytes) -> None:
        old = (self.content or b"").ljust(offset, b"\0")
        self.content = old[:offset] + data + old[offset + len(data) :]

    def write_full(self, data: bytes) -> None:
        self.content = data

    def truncate(self, size: int) -> None:
        self.content = (self.content or b"")[:size].ljust(size, b"\0")

    def get_xattr(self, name: str) -> bytes:
        self._require()
        if name not in self.xattrs:
            raise NoData(f"{self.object_name}: no {name}")
        return self.xattrs[name]

    def set_xattr(self, name: str, value: bytes) -> None:
        self.create(False)
        self.xattrs[name] = value

    def remove_xattr(self, name: str) -> None:
        self.xattrs.pop(name, None)

    def get_xattrs(self) -> dict[str, bytes]:
        self._require()
        return dict(self.xattrs)

    def omap_get(self, key: str) -> bytes:
        if key not in self.omap:
            raise NotFound(f"{self.object_name}: no {key}")
        return self.omap[key]

    def omap_list(self, start_after: str, max_return: int, prefix: str = "") -> tuple[dict[str, bytes], bool]:
        keys = sorted(key for key in self.omap if key > start_after and key.startswith(prefix))
        return {key: self.omap[key] for key in keys[:max_return]}, len(keys) > max_return

    def omap_set(self, values: Mapping[str, bytes]) -> None:
        self.create(False)
        self.omap.update(values)

    def omap_remove(self, key: str) -> None:
        self.create(False)
        self.omap.pop(key, None)

    def omap_clear(self) -> None:
        self.omap.clear()
