"""The images of a pool and namespace: list, create, rename, remove."""

from rbdfs.image.features import DEFAULT_FEATURES
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.rados.api import IoCtx

DEFAULT_ORDER = 22


async def list_images(ioctx: IoCtx) -> dict[str, str]:
    """Image name -> image id, sorted by name."""
    raise NotImplementedError


async def lookup(ioctx: IoCtx, name: str) -> str:
    """The id of an image; NotFound."""
    raise NotImplementedError


async def create(
    ioctx: IoCtx,
    name: str,
    size: int,
    *,
    order: int = DEFAULT_ORDER,
    features: int = DEFAULT_FEATURES,
    stripe_unit: int = 0,
    stripe_count: int = 0,
    data_pool: str = "",
) -> str:
    """Make an image; gives its id. Exists where the name is taken."""
    raise NotImplementedError


async def rename(ioctx: IoCtx, name: str, new_name: str) -> None:
    """Give an image another name: NotFound, or Exists where that one is taken."""
    raise NotImplementedError


async def remove(ioctx: IoCtx, name: str, *, on_progress: OnProgress = quiet) -> None:
    """Remove an image: NotEmpty where it has snapshots, Busy where another client has it open."""
    raise NotImplementedError


async def list_namespaces(ioctx: IoCtx) -> list[str]:
    """The namespaces of a pool, sorted."""
    raise NotImplementedError


async def create_namespace(ioctx: IoCtx, name: str) -> None:
    """Make a namespace; Exists."""
    raise NotImplementedError


async def remove_namespace(ioctx: IoCtx, name: str) -> None:
    """Remove a namespace; Busy where it holds images."""
    raise NotImplementedError
