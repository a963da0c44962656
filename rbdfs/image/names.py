"""The names of the objects of an image (Ceph, `include/rbd_types.h`)."""

from rbdfs.rados.ops import HEAD, SnapId

DIRECTORY = "rbd_directory"  # omap: name_<name> -> image id, id_<image id> -> name
CHILDREN = "rbd_children"  # omap: parent -> ids of its clones
TRASH = "rbd_trash"
NAMESPACES = "rbd_namespace"
INFO = "rbd_info"


def id_object(name: str) -> str:
    """Holds the image id of a name."""
    return f"rbd_id.{name}"


def header_object(image_id: str) -> str:
    """Holds the image's metadata."""
    return f"rbd_header.{image_id}"


def data_prefix(image_id: str, pool_id: int | None = None) -> str:
    """What the names of data objects begin with; `pool_id` is the image's pool where the data is in another one."""
    return f"rbd_data.{image_id}" if pool_id is None else f"rbd_data.{pool_id}.{image_id}"


def data_object(prefix: str, number: int) -> str:
    """A data object."""
    return f"{prefix}.{number:016x}"


def object_map_object(image_id: str, snap_id: SnapId = HEAD) -> str:
    """Says which data objects exist, in the image as it is or in a snapshot."""
    return f"rbd_object_map.{image_id}" if snap_id == HEAD else f"rbd_object_map.{image_id}.{snap_id:016x}"
