"""Class `rbd` on the objects that name images: rbd_directory, rbd_id.<name>, rbd_namespace, rbd_trash.

| object        | omap keys                                                                       |
|---------------|---------------------------------------------------------------------------------|
| rbd_directory | name_<name> -> id, id_<id> -> name (strings); state -> u8, where it was ever set |
| rbd_namespace | name_<namespace> -> nothing                                                     |
| rbd_trash     | id_<id> -> TrashSpec                                                            |

An rbd_id.<name> has no keys: its content is the id, as a string.
"""

import errno
import string

from rbdfs.cls.rbd_types import DirectoryState, TrashSpec
from rbdfs.local.classes.context import MethodContext
from rbdfs.local.classes.support import (
    Registry,
    decoded,
    failure,
    has_key,
    list_keys,
    read_key,
    require_exists,
    write_key,
)
from rbdfs.wire import U8, U64, encode_values

_REGISTRY = Registry("rbd")
METHODS = _REGISTRY.methods

_NAME = "name_"
_ID = "id_"
_STATE = "state"

_ID_CHARACTERS = frozenset(string.ascii_letters + string.digits)


def _is_valid_id(image_id: str) -> bool:
    return image_id != "" and _ID_CHARACTERS.issuperset(image_id)


# rbd_id.<name>


@_REGISTRY.reads("get_id")
def _get_id(context: MethodContext) -> bytes:
    if not context.stat().size:
        raise failure(context, errno.ENOENT, "it holds no id")
    return encode_values((str, decoded(context, "content", context.read(0, 0), str)))


@_REGISTRY.writes("set_id", str)
def _set_id(context: MethodContext, image_id: str) -> None:
    require_exists(context)
    if not _is_valid_id(image_id):
        raise failure(context, errno.EINVAL, f"{image_id!r} is no image id")
    if context.stat().size:
        raise failure(context, errno.EEXIST, "it holds an id")
    context.write(0, encode_values((str, image_id)))


# rbd_directory


@_REGISTRY.reads("dir_list", str, U64)
def _dir_list(context: MethodContext, start_after: str, max_return: int) -> bytes:
    images = list_keys(context, _NAME, start_after, max_return)
    return encode_values((dict[str, str], {name: decoded(context, name, value, str) for name, value in images.items()}))


@_REGISTRY.reads("dir_get_id", str)
def _dir_get_id(context: MethodContext, name: str) -> bytes:
    return encode_values((str, read_key(context, _NAME + name, str)))


@_REGISTRY.reads("dir_get_name", str)
def _dir_get_name(context: MethodContext, image_id: str) -> bytes:
    return encode_values((str, read_key(context, _ID + image_id, str)))


def _require_valid(context: MethodContext, name: str, image_id: str) -> None:
    if not name or not _is_valid_id(image_id):
        raise failure(context, errno.EINVAL, f"{name!r} is no image name, or {image_id!r} is no image id")


def _require_free(context: MethodContext, name: str) -> None:
    if has_key(context, _NAME + name):
        raise failure(context, errno.EEXIST, f"image {name} exists")


def _require_pair(context: MethodContext, name: str, image_id: str) -> None:
    stored_id, stored_name = read_key(context, _NAME + name, str), read_key(context, _ID + image_id, str)
    if stored_id != image_id or stored_name != name:
        raise failure(context, errno.ESTALE, f"image {name} has not the id {image_id}")


def _put(context: MethodContext, name: str, image_id: str) -> None:
    context.omap_set({_NAME + name: encode_values((str, image_id)), _ID + image_id: encode_values((str, name))})


@_REGISTRY.writes("dir_add_image", str, str)
def _dir_add_image(context: MethodContext, name: str, image_id: str) -> None:
    context.create(False)
    _require_valid(context, name, image_id)
    _require_free(context, name)
    if has_key(context, _ID + image_id):
        raise failure(context, errno.EBADF, f"image id {image_id} exists")
    _put(context, name, image_id)


@_REGISTRY.writes("dir_remove_image", str, str)
def _dir_remove_image(context: MethodContext, name: str, image_id: str) -> None:
    _require_pair(context, name, image_id)
    context.omap_remove(_NAME + name)
    context.omap_remove(_ID + image_id)


@_REGISTRY.writes("dir_rename_image", str, str, str)
def _dir_rename_image(context: MethodContext, name: str, new_name: str, image_id: str) -> None:
    _require_pair(context, name, image_id)
    _require_valid(context, new_name, image_id)
    _require_free(context, new_name)
    context.omap_remove(_NAME + name)
    _put(context, new_name, image_id)


@_REGISTRY.reads("dir_state_assert", U8)
def _dir_state_assert(context: MethodContext, state: int) -> None:
    if read_key(context, _STATE, U8) != state:
        raise failure(context, errno.ENOENT, "the directory is in another state")


@_REGISTRY.writes("dir_state_set", U8)
def _dir_state_set(context: MethodContext, state: int) -> None:
    if state > max(DirectoryState):
        raise failure(context, errno.EINVAL, f"there is no directory state {state}")
    if state == DirectoryState.ADD_DISABLED:
        require_exists(context)
        if list_keys(context, _NAME, limit=1):
            raise failure(context, errno.EBUSY, "there are images")
    write_key(context, _STATE, U8, state)


# rbd_namespace


@_REGISTRY.reads("namespace_list", str, U64)
def _namespace_list(context: MethodContext, start_after: str, max_return: int) -> bytes:
    return encode_values((list[str], list(list_keys(context, _NAME, start_after, max_return))))


@_REGISTRY.writes("namespace_add", str)
def _namespace_add(context: MethodContext, name: str) -> None:
    if has_key(context, _NAME + name):
        raise failure(context, errno.EEXIST, f"namespace {name} exists")
    context.omap_set({_NAME + name: b""})


@_REGISTRY.writes("namespace_remove", str)
def _namespace_remove(context: MethodContext, name: str) -> None:
    context.omap_get(_NAME + name)
    context.omap_remove(_NAME + name)


# rbd_trash


@_REGISTRY.reads("trash_list", str, U64)
def _trash_list(context: MethodContext, start_after: str, max_return: int) -> bytes:
    entries = list_keys(context, _ID, start_after, max_return)
    specs = {image_id: decoded(context, image_id, value, TrashSpec) for image_id, value in entries.items()}
    return encode_values((dict[str, TrashSpec], specs))


@_REGISTRY.reads("trash_get", str)
def _trash_get(context: MethodContext, image_id: str) -> bytes:
    return context.omap_get(_ID + image_id)


@_REGISTRY.writes("trash_add", str, TrashSpec)
def _trash_add(context: MethodContext, image_id: str, spec: TrashSpec) -> None:
    context.create(False)
    if has_key(context, _ID + image_id):
        raise failure(context, errno.EEXIST, f"image {image_id} is in the trash")
    write_key(context, _ID + image_id, TrashSpec, spec)


@_REGISTRY.writes("trash_remove", str)
def _trash_remove(context: MethodContext, image_id: str) -> None:
    context.omap_get(_ID + image_id)
    context.omap_remove(_ID + image_id)


@_REGISTRY.writes("trash_state_set", str, U8, U8)
def _trash_state_set(context: MethodContext, image_id: str, state: int, expected: int) -> None:
    spec: TrashSpec = read_key(context, _ID + image_id, TrashSpec)
    if spec.state == expected:
        spec.state = state
        write_key(context, _ID + image_id, TrashSpec, spec)
    elif spec.state != state:
        raise failure(context, errno.ESTALE, f"image {image_id} is in state {spec.state}")
