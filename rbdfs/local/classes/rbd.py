"""Class `rbd`: all its methods that this store executes, by name.

Left out are those that only mirroring, consistency groups and migration need: a caller hears NotSupported.
"""

from rbdfs.local.classes import rbd_data, rbd_directory, rbd_header, rbd_object_map, rbd_parents, rbd_snapshots
from rbdfs.local.classes.context import Methods

METHODS: Methods = {
    name: method
    for part in (rbd_header, rbd_snapshots, rbd_parents, rbd_directory, rbd_object_map, rbd_data)
    for name, method in part.METHODS.items()
}
