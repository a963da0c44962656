"""The object classes of this store: by class name, then by method name."""

from rbdfs.local.classes import lock, rbd
from rbdfs.local.classes.context import Methods

CLASSES: dict[str, Methods] = {"lock": lock.METHODS, "rbd": rbd.METHODS}
