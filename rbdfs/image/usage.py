"""What images really occupy, as `rbd du` counts it: whole objects, each counted where it was last written."""

from typing import NamedTuple

from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import SnapId


class Usage(NamedTuple):
    """A row of `rbd du`; the image's own row, with no snapshot, comes after those of its snapshots."""

    name: str
    id: str
    snap_name: str | None
    snap_id: SnapId | None
    provisioned: int
    used: int


async def disk_usage(ioctx: IoCtx, name: str) -> list[Usage]:
    """The rows of one image."""
    raise NotImplementedError
