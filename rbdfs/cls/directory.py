"""The methods of class `rbd` on the objects that name images: rbd_directory, rbd_id.*, rbd_namespace, rbd_trash.

| object          | holds                                                    |
|-----------------|----------------------------------------------------------|
| rbd_directory   | name -> id and id -> name of the images of a namespace   |
| rbd_id.<name>   | the id of one image (format 2)                           |
| rbd_namespace   | the namespaces of a pool; in the default namespace       |
| rbd_trash       | id -> TrashSpec of images that were moved to the trash   |
"""

from rbdfs.cls.query import Query, reader
from rbdfs.cls.rbd import call
from rbdfs.cls.rbd_types import DirectoryState, TrashSpec
from rbdfs.rados.ops import Call, CompareExtent
from rbdfs.wire import U8, U64, encode_values

DIRECTORY = "rbd_directory"
NAMESPACES = "rbd_namespace"
TRASH = "rbd_trash"
CHILDREN = "rbd_children"  # clones (v1) of the snapshots of this pool's images, by parent


# rbd_id.<name>


def get_id() -> Query[str]:
    """The image's id; NotFound where the object is missing or empty."""
    return Query(call("get_id"), reader(str))


def set_id(image_id: str) -> Call:
    """Write the id into an existing, empty object; Exists where it has one."""
    return call("set_id", (str, image_id))


def assert_id(image_id: str) -> CompareExtent:
    """Canceled unless the object has this id."""
    return CompareExtent(0, encode_values((str, image_id)))


# rbd_directory


def list_images(start_after: str = "", max_return: int = 1024) -> Query[dict[str, str]]:
    """Image names after `start_after`, in byte order, with their ids; NotFound where there is no directory."""
    return Query(call("dir_list", (str, start_after), (U64, max_return)), reader(dict[str, str]))


def get_image_id(name: str) -> Query[str]:
    """The id of an image; NotFound."""
    return Query(call("dir_get_id", (str, name)), reader(str))


def get_image_name(image_id: str) -> Query[str]:
    """The name of an image; NotFound."""
    return Query(call("dir_get_name", (str, image_id)), reader(str))


def add_image(name: str, image_id: str) -> Call:
    """Add an image, and the directory where it is missing; Exists where the name is taken."""
    return call("dir_add_image", (str, name), (str, image_id))


def remove_image(name: str, image_id: str) -> Call:
    """Remove an image; NotFound, or StaleSnapId (ESTALE) where name and id do not belong together."""
    return call("dir_remove_image", (str, name), (str, image_id))


def rename_image(name: str, new_name: str, image_id: str) -> Call:
    """Rename an image; Exists where the new name is taken."""
    return call("dir_rename_image", (str, name), (str, new_name), (str, image_id))


def assert_state(state: DirectoryState) -> Call:
    """NotFound unless the directory is in this state; goes before add_image."""
    return call("dir_state_assert", (U8, state))


def set_state(state: DirectoryState) -> Call:
    """Allow or forbid adding images; Busy where it shall be forbidden and there are some."""
    return call("dir_state_set", (U8, state))


# rbd_namespace


def list_namespaces(start_after: str = "", max_return: int = 1024) -> Query[list[str]]:
    """Namespaces after `start_after`, in byte order; NotFound where there never was one."""
    return Query(call("namespace_list", (str, start_after), (U64, max_return)), reader(list[str]))


def add_namespace(name: str) -> Call:
    """Add a namespace; Exists where there is one of that name."""
    return call("namespace_add", (str, name))


def remove_namespace(name: str) -> Call:
    """Remove a namespace; NotFound."""
    return call("namespace_remove", (str, name))


# rbd_trash


def list_trash(start_after: str = "", max_return: int = 1024) -> Query[dict[str, TrashSpec]]:
    """Image ids after `start_after`, with what the trash says of them; NotFound where there never was a trash."""
    return Query(call("trash_list", (str, start_after), (U64, max_return)), reader(dict[str, TrashSpec]))


def get_trash(image_id: str) -> Query[TrashSpec]:
    """What the trash says of an image; NotFound."""
    return Query(call("trash_get", (str, image_id)), TrashSpec.from_bytes)


def add_trash(image_id: str, spec: TrashSpec) -> Call:
    """Move an image to the trash; Exists where it is there."""
    return call("trash_add", (str, image_id), (TrashSpec, spec))


def remove_trash(image_id: str) -> Call:
    """Take an image out of the trash; NotFound."""
    return call("trash_remove", (str, image_id))


def set_trash_state(image_id: str, state: int, expected: int) -> Call:
    """Change the TrashState; StaleSnapId (ESTALE) where it is neither of the two."""
    return call("trash_state_set", (str, image_id), (U8, state), (U8, expected))
