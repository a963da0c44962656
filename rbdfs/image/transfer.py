"""Whole images in and out of files and streams, holes kept."""

from pathlib import Path

from rbdfs.image.features import DEFAULT_FEATURES
from rbdfs.image.image import Image
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.rados.api import IoCtx


async def import_file(
    ioctx: IoCtx,
    source: Path | int,
    name: str,
    *,
    order: int = 22,
    features: int = DEFAULT_FEATURES,
    stripe_unit: int = 0,
    stripe_count: int = 0,
    data_pool: str = "",
    on_progress: OnProgress = quiet,
) -> None:
    """Make an image of a file, a block device or (a descriptor) a stream; nothing is left of it if that fails."""
    raise NotImplementedError


async def export_file(image: Image, target: Path | int, *, on_progress: OnProgress = quiet) -> None:
    """Write an image (or the snapshot that is open) to a new file, or (a descriptor) to a stream."""
    raise NotImplementedError
