"""What may change about an open image, as its subscribers hear it."""

from collections.abc import Callable
from enum import Flag, auto


class ImageChange(Flag):
    """By this client or by any other one; several at once are possible."""

    SIZE = auto()
    SNAPSHOTS = auto()  # made, removed, renamed, protected or unprotected
    CONTENT = auto()  # bytes changed behind the reader: rolled back, or another client may have written
    NAME = auto()
    REMOVED = auto()
    METADATA = auto()
    LOCK = auto()  # taken or given up
    WANTED = auto()  # another client asks for the exclusive lock: whoever does not need the image may close it


OnChange = Callable[[ImageChange], None]
