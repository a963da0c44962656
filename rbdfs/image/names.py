"""The names of the objects of an image (Ceph, `include/rbd_types.h`)."""

from rbdfs.rados.ops import HEAD, SnapId

POOL_INFO = "rbd_info"  # what a pool keeps about all its images; in the default namespace


def id_object(name: str) -> str:
    """Leads from the name of an image to its id."""
    return f"rbd_id.{name}"


def header_object(image_id: str) -> str:
    """What an image is."""
    return f"rbd_header.{image_id}"


def old_header_object(name: str) -> str:
    """The header of an image of format 1."""
    return f"{name}.rbd"


def data_prefix(image_id: str, home_pool_id: int | None = None) -> str:
    """What the names of data objects begin with; `home_pool_id` is the image's pool where its data is in another."""
    return f"rbd_data.{image_id}" if home_pool_id is None else f"rbd_data.{home_pool_id}.{image_id}"


def data_object(prefix: str, number: int) -> str:
    """A data object."""
    return f"{prefix}.{number:016x}"


def object_map_object(image_id: str, snap_id: SnapId = HEAD) -> str:
    """Says which data objects exist, in the image as it is or in a snapshot."""
    return f"rbd_object_map.{image_id}" if snap_id == HEAD else f"rbd_object_map.{image_id}.{snap_id:016x}"
