"""Which names of images and snapshots can be names of files. Pure.

RBD takes nearly anything; a directory entry has at most 255 bytes, and `.snap` is ours. What cannot be shown is not
renamed behind its owner's back: it is left out, and `rbdfs status` says so.
"""

import os

SNAP_DIRECTORY = ".snap"
NAME_MAX = 255


def why_no_file_name(name: str) -> str | None:
    """The reason why a name cannot be shown, for a person; None where it can."""
    if not name:
        return "the name is empty"
    if name in (".", ".."):
        return "the name means a directory"
    if "/" in name or "\0" in name:
        return "a file name cannot hold '/' or NUL"
    length = len(os.fsencode(name))
    if length > NAME_MAX:
        return f"the name has {length} bytes, a file name at most {NAME_MAX}"
    return None


def why_no_image_file_name(name: str) -> str | None:
    """The same for an image, whose file stands in the root directory."""
    if name == SNAP_DIRECTORY:
        return "the name is taken by the directory of snapshots"
    return why_no_file_name(name)
