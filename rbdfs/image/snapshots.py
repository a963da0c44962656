"""Snapshots of an open image: here where we own the lock or nobody does, else by the lock owner on our behalf."""

from rbdfs.image.image import Image
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.rados.ops import SnapId


async def create(image: Image, name: str) -> SnapId:
    """Record the image as it is now under a name; Exists."""
    raise NotImplementedError


async def remove(image: Image, name: str) -> None:
    """Remove a snapshot: NotFound, or Busy where it is protected."""
    raise NotImplementedError


async def rename(image: Image, name: str, new_name: str) -> None:
    """Give a snapshot another name: NotFound, or Exists."""
    raise NotImplementedError


async def protect(image: Image, name: str) -> None:
    """Forbid its removal; Busy where it is protected already."""
    raise NotImplementedError


async def unprotect(image: Image, name: str) -> None:
    """Allow its removal again; Busy where clones need it, InvalidArgument where it is not protected."""
    raise NotImplementedError


async def rollback(image: Image, name: str, *, on_progress: OnProgress = quiet) -> None:
    """Make the image what it was at the snapshot."""
    raise NotImplementedError


async def purge(image: Image, *, on_progress: OnProgress = quiet) -> None:
    """Remove all snapshots; Busy, and none is removed, where one is protected."""
    raise NotImplementedError
