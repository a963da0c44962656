"""The images of a pool and namespace: list, create, rename, remove.

An image is found by name through `rbd_id.<name>`, and listed by `rbd_directory`. Whatever is interrupted here leaves at
worst an object that nothing names, or an id object whose name is not listed; never a listed image without a header.
How an image is emptied before its name goes is in `removal.py`, and how it changes its name in `renaming.py`.
"""

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Unpack

from rbdfs.cls import directory, object_map, rbd
from rbdfs.cls.query import ask, change
from rbdfs.cls.rbd_types import MAX_OBJECT_MAP_COUNT, DirectoryState
from rbdfs.errors import Busy, Exists, InvalidArgument, NotFound, OutOfDomain, PoolNotFound, RbdfsError, TooLarge
from rbdfs.image.features import Feature, check_creatable
from rbdfs.image.id_objects import make_id_object, remove_id_object
from rbdfs.image.layout import ImageLayout, complete
from rbdfs.image.lookup import exists, listed_id, lookup, name_of, named_id, where
from rbdfs.image.names import data_prefix, header_object, id_object, object_map_object, old_header_object
from rbdfs.image.progress import OnProgress, quiet
from rbdfs.image.removal import remove_image
from rbdfs.image.renaming import rename as rename
from rbdfs.image.spec import check_image_name
from rbdfs.image.striping import MAX_ORDER, MAX_SIZE, MIN_ORDER, Striping
from rbdfs.rados import calls
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import PoolId

log = logging.getLogger(__name__)

_PAGE = 1024
_ID_LENGTH = 14  # RBD_MAX_IMAGE_ID_LENGTH


@contextmanager
def _none_where_none_was_ever_made() -> Iterator[None]:
    """A directory comes with its first entry; without its pool, nobody knows what was in it."""
    try:
        yield
    except PoolNotFound:
        raise
    except NotFound:
        pass


async def list_images(ioctx: IoCtx) -> dict[str, str]:
    """Image name -> image id, sorted by name, but for images in the trash; PoolNotFound."""
    images: dict[str, str] = {}
    page: dict[str, str] = {}
    with _none_where_none_was_ever_made():
        while not images or len(page) == _PAGE:
            page = await ask(ioctx, directory.DIRECTORY, directory.list_images(next(reversed(images), ""), _PAGE))
            images |= page
            if not page:
                break
    return dict(sorted(images.items()))


async def create(ioctx: IoCtx, name: str, size: int, **layout: Unpack[ImageLayout]) -> str:
    """Make an image; gives its id. Exists where the name is taken."""
    check_image_name(name)
    striping, features, data_pool_id = await _settle(ioctx, layout)
    if size < 0:
        raise InvalidArgument(f"size {size}")
    if size > MAX_SIZE:
        raise TooLarge(f"size {size}")
    count = striping.object_count(size)
    if features & Feature.OBJECT_MAP and count > MAX_OBJECT_MAP_COUNT:
        raise TooLarge(f"{count} objects are more than an object map can hold: choose larger objects")
    if await exists(ioctx, id_object(name)) or await exists(ioctx, old_header_object(name)):
        raise Exists(f"{where(ioctx, name)}: {await _why_taken(ioctx, name)}")

    image_id = _new_id(ioctx)
    prefix = data_prefix(image_id, ioctx.pool_id if data_pool_id >= 0 else None)
    header = header_object(image_id)
    try:
        if features & Feature.OBJECT_MAP:
            await change(ioctx, object_map_object(image_id), object_map.resize(count))
        await change(ioctx, header, rbd.create(size, striping.order, features, prefix, data_pool_id))
        if features & Feature.STRIPINGV2:  # an op of its own: an OSD's methods do not see keys that the same op sets
            await change(ioctx, header, rbd.set_stripe_unit_count(striping.stripe_unit, striping.stripe_count))
    except BaseException:
        await _drop_nameless(ioctx, image_id)
        raise
    try:
        await _give_name(ioctx, name, image_id)
    except RbdfsError:  # where it is interrupted, nobody knows whether it has the name: nothing is undone
        if await _is_nameless(ioctx, name, image_id):
            await _drop_nameless(ioctx, image_id)
        raise
    return image_id


async def _settle(ioctx: IoCtx, layout: ImageLayout) -> tuple[Striping, int, PoolId]:
    """The striping of an image, its features, and its data pool (-1: its own)."""
    order, features, stripe_unit, stripe_count, data_pool = await complete(ioctx, layout)
    if not MIN_ORDER <= order <= MAX_ORDER:
        raise OutOfDomain(f"object order {order} is not between {MIN_ORDER} and {MAX_ORDER}")
    if bool(stripe_unit) != bool(stripe_count):
        raise InvalidArgument("must specify both (or neither) of stripe-unit and stripe-count")
    striping = Striping.of(order, stripe_unit, stripe_count)
    features &= ~int(Feature.DATA_POOL | Feature.STRIPINGV2)
    if not striping.is_simple or striping.stripe_unit != striping.object_size:
        features |= Feature.STRIPINGV2
    data_pool_id = PoolId(-1)
    if data_pool and data_pool != ioctx.pool_name:
        data_pool_id = (await ioctx.cluster.open_pool(data_pool)).pool_id
        features |= Feature.DATA_POOL
    check_creatable(features)
    return striping, features, data_pool_id


async def _give_name(ioctx: IoCtx, name: str, image_id: str) -> None:
    await make_id_object(ioctx, name, image_id)
    steps = [directory.add_image(name, image_id)]
    if ioctx.namespace:  # librbd: CreateRequest::add_image_to_directory
        steps.insert(0, directory.assert_state(DirectoryState.READY))
    try:
        await change(ioctx, directory.DIRECTORY, *steps)
    except RbdfsError as err:
        if await listed_id(ioctx, name) == image_id:
            return  # it was done, and the answer was lost
        await remove_id_object(ioctx, name, image_id)
        if isinstance(err, NotFound):
            raise NotFound(f"{ioctx.pool_name}/{ioctx.namespace}: no such namespace") from err
        raise


async def _why_taken(ioctx: IoCtx, name: str) -> str:
    image_id = await named_id(ioctx, name)
    if image_id is not None and (other := await _listed_as(ioctx, image_id, name)) is not None:
        return f"leads to {other}: a rename is under way, or was interrupted and `rbdfs rm` takes the name away"
    return "the image exists"


async def _is_nameless(ioctx: IoCtx, name: str, image_id: str) -> bool:
    """Whether the name does not lead to the image; as long as the store does not say so, it may."""
    with suppress(RbdfsError):
        return image_id not in (await named_id(ioctx, name), await listed_id(ioctx, name))
    return False


async def _drop_nameless(ioctx: IoCtx, image_id: str) -> None:
    for name in (object_map_object(image_id), header_object(image_id)):
        await calls.remove(ioctx, name, missing_ok=True)


async def remove(ioctx: IoCtx, name: str, *, on_progress: OnProgress = quiet) -> None:
    """Remove an image: NotEmpty where it has snapshots, Busy where another client has it open.

    A name that an interrupted rename has left goes alone: the image has another one.
    """
    image_id = await lookup(ioctx, name)
    if (other := await _listed_as(ioctx, image_id, name)) is not None:
        await remove_id_object(ioctx, name, image_id)
        log.warning("%s was left by a rename; the image is %s, and stays", where(ioctx, name), other)
        return
    await remove_image(ioctx, name, image_id, on_progress)


async def _listed_as(ioctx: IoCtx, image_id: str, name: str) -> str | None:
    """The name that an image has instead of this one; None where it has this one, or none."""
    with suppress(NotFound):
        listed = await name_of(ioctx, image_id)
        return listed if listed != name else None
    return None


async def list_namespaces(ioctx: IoCtx) -> list[str]:
    """The namespaces of a pool, sorted; PoolNotFound."""
    names: list[str] = []
    page: list[str] = []
    root = ioctx.with_namespace("")
    with _none_where_none_was_ever_made():
        while not names or len(page) == _PAGE:
            query = directory.list_namespaces(names[-1] if names else "", _PAGE)
            page = await ask(root, directory.NAMESPACES, query)
            names += page
            if not page:
                break
    return sorted(names)


async def create_namespace(ioctx: IoCtx, name: str) -> None:
    """Make a namespace; Exists."""
    check_image_name(name)
    try:
        await change(ioctx.with_namespace(""), directory.NAMESPACES, directory.add_namespace(name))
    except Exists as err:
        raise Exists(f"{ioctx.pool_name}/{name}: the namespace exists") from err
    inside = ioctx.with_namespace(name)
    await change(inside, directory.DIRECTORY, directory.set_state(DirectoryState.READY))


async def remove_namespace(ioctx: IoCtx, name: str) -> None:
    """Remove a namespace: NotFound, or Busy where it holds images."""
    root, inside = ioctx.with_namespace(""), ioctx.with_namespace(name)
    where = f"{ioctx.pool_name}/{name}"
    if name not in await list_namespaces(ioctx):
        raise NotFound(f"{where}: no such namespace")
    try:
        await change(inside, directory.DIRECTORY, directory.set_state(DirectoryState.ADD_DISABLED))
    except Busy as err:
        raise Busy(f"{where}: the namespace holds images") from err
    with suppress(NotFound):
        if await ask(inside, directory.TRASH, directory.list_trash()):
            await change(inside, directory.DIRECTORY, directory.set_state(DirectoryState.READY))
            raise Busy(f"{where}: the namespace has images in its trash")
    for leftover in (directory.TRASH, directory.CHILDREN, directory.DIRECTORY):
        await calls.remove(inside, leftover, missing_ok=True)
    await change(root, directory.NAMESPACES, directory.remove_namespace(name))


def _new_id(ioctx: IoCtx) -> str:
    """A new image id, as librbd makes them: this client's number, and chance."""
    return f"{ioctx.cluster.instance_id:x}{secrets.randbits(32):x}"[-_ID_LENGTH:]
