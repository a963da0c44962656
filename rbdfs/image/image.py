"""An open image: read, write, discard, flush, resize."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rbdfs.errors import RbdfsError
from rbdfs.image.changes import ImageChange, OnChange
from rbdfs.image.header import Header, Locker, SnapInfo
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Buffer, SnapId, Watcher

__all__ = ["Image", "ImageChange", "ImageStatus", "OnRead", "OnWrite", "open_image"]

OnRead = Callable[[list[Buffer] | RbdfsError], None]
OnWrite = Callable[[RbdfsError | None], None]


@dataclass(slots=True)
class ImageStatus:
    """Who uses an image."""

    watchers: list[Watcher]
    lockers: list[Locker]
    is_lock_owner: bool


class Image:
    """An image, or one of its snapshots, open."""

    ioctx: IoCtx
    name: str
    image_id: str
    header: Header
    snap: SnapInfo | None
    is_read_only: bool

    @property
    def size(self) -> int:
        """Bytes; of the snapshot where one is open."""
        raise NotImplementedError

    @property
    def object_size(self) -> int:
        """Bytes of a data object."""
        raise NotImplementedError

    def submit_read(self, offset: int, length: int, on_complete: OnRead) -> None:
        """Read; the callback gets buffers of together min(length, size - offset) bytes, or an error."""
        raise NotImplementedError

    def submit_write(self, offset: int, data: Buffer, on_complete: OnWrite) -> None:
        """Write; `data` must stay unchanged until the callback. Past the end, the image grows first."""
        raise NotImplementedError

    def submit_flush(self, on_complete: OnWrite) -> None:
        """Make durable what was written before."""
        raise NotImplementedError

    async def read(self, offset: int, length: int) -> bytes:
        """Read, awaited."""
        raise NotImplementedError

    async def write(self, offset: int, data: Buffer) -> None:
        """Write, awaited."""
        raise NotImplementedError

    async def flush(self) -> None:
        """Make durable what was written before."""
        raise NotImplementedError

    async def write_zeroes(self, offset: int, length: int) -> None:
        """Zero exactly these bytes, and free what can be freed; clipped at the size."""
        raise NotImplementedError

    async def discard(self, offset: int, length: int) -> None:
        """Free what can be freed cheaply; what is not freed keeps its bytes."""
        raise NotImplementedError

    async def resize(self, size: int, *, allow_shrink: bool = True, on_progress: OnProgress = quiet) -> None:
        """Change the size, to the byte."""
        raise NotImplementedError

    async def copy_range(self, source: "Image", source_offset: int, offset: int, length: int) -> int:
        """Copy bytes of an image, sharing them where the store can; gives how many."""
        raise NotImplementedError

    async def seek_data(self, offset: int) -> int | None:
        """Where data begins, at or after an offset; None where there is none."""
        raise NotImplementedError

    async def seek_hole(self, offset: int) -> int:
        """Where a hole begins, at or after an offset; the end counts as one."""
        raise NotImplementedError

    async def data_extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Where data is, in order, neighbours joined."""
        raise NotImplementedError

    async def allocated_bytes(self) -> int:
        """Bytes that the image, or the snapshot, occupies."""
        raise NotImplementedError

    def subscribe(self, callback: OnChange) -> Callable[[], None]:
        """Hear of changes; call the result to stop."""
        raise NotImplementedError

    async def metadata_list(self) -> dict[str, str]:
        """All key-value pairs that users attached."""
        raise NotImplementedError

    async def metadata_get(self, key: str) -> str:
        """One value; NotFound."""
        raise NotImplementedError

    async def metadata_set(self, key: str, value: str) -> None:
        """Attach a pair."""
        raise NotImplementedError

    async def metadata_remove(self, key: str) -> None:
        """Remove a pair; NotFound."""
        raise NotImplementedError

    async def status(self) -> ImageStatus:
        """Who watches, and who holds the lock."""
        raise NotImplementedError


@asynccontextmanager
async def open_image(
    ioctx: IoCtx,
    name: str = "",
    *,
    image_id: str = "",
    snap_name: str = "",
    snap_id: SnapId | None = None,
    read_only: bool = False,
) -> AsyncIterator[Image]:
    """Open an image, by name or id, or a snapshot of it, by name or id."""
    yield Image()
