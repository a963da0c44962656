"""Inode numbers: what each one names, and how often the kernel has looked it up.

A number is made of what it names (image id, snapshot id), so it stays the same across renames, remounts and the
kernel's forgetting. What the kernel has forgotten is dropped here too; memory is bounded by what the kernel holds.

    1                 the directory of images
    2                 .snap
    from 16 on        hashes of ("image", image id), ("snapshots", image id), ("snapshot", image id, snap id)
"""

import hashlib
from dataclasses import dataclass
from enum import Enum

from rbdfs.rados.ops import HEAD, SnapId


class Kind(Enum):
    """What an inode is."""

    ROOT = "images"
    SNAP_ROOT = "directories of snapshots"
    IMAGE = "image"
    SNAP_DIRECTORY = "snapshots"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class Inode:
    """Something with a name: fixed for life, except for the names, which are as last seen."""

    number: int
    kind: Kind
    image_id: str
    snap_id: SnapId

    image_name: str
    snap_name: str = ""
    lookups: int = 0
    pages_from: int = 0  # of an image: the version of its header that the kernel's pages are good for; 0 for none

    @property
    def is_directory(self) -> bool:
        """Whether it has entries."""
        return self.kind in (Kind.ROOT, Kind.SNAP_ROOT, Kind.SNAP_DIRECTORY)

    def __str__(self) -> str:
        return f"{self.image_name}@{self.snap_name}" if self.snap_name else self.image_name


ROOT_NUMBER, SNAP_ROOT_NUMBER = 1, 2
_FIRST_HASHED = 16


class Inodes:
    """The inodes that the kernel knows, and the two that always are."""

    def __init__(self) -> None:
        self.root = Inode(ROOT_NUMBER, Kind.ROOT, "", HEAD, "", lookups=1)
        self.snap_root = Inode(SNAP_ROOT_NUMBER, Kind.SNAP_ROOT, "", HEAD, "", lookups=1)
        self._by_number: dict[int, Inode] = {ROOT_NUMBER: self.root, SNAP_ROOT_NUMBER: self.snap_root}

    def __len__(self) -> int:
        return len(self._by_number)

    def __getitem__(self, number: int) -> Inode:
        return self._by_number[number]

    def image(self, image_id: str, name: str) -> Inode:
        """The file of an image."""
        return self._find(Kind.IMAGE, image_id, HEAD, name, "")

    def snap_directory(self, image_id: str, name: str) -> Inode:
        """The directory of an image's snapshots."""
        return self._find(Kind.SNAP_DIRECTORY, image_id, HEAD, name, "")

    def snapshot(self, image_id: str, name: str, snap_id: SnapId, snap_name: str) -> Inode:
        """The file of a snapshot."""
        return self._find(Kind.SNAPSHOT, image_id, snap_id, name, snap_name)

    def known(self, kind: Kind, image_id: str) -> list[Inode]:
        """Inodes of that kind and image that the kernel may have cached."""
        return [inode for inode in self._by_number.values() if inode.kind is kind and inode.image_id == image_id]

    def _find(self, kind: Kind, image_id: str, snap_id: SnapId, image_name: str, snap_name: str) -> Inode:
        key = f"{kind.value}\0{image_id}\0{snap_id}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        while True:
            number = max(number, _FIRST_HASHED)
            inode = self._by_number.get(number)
            if inode is None:
                return Inode(number, kind, image_id, snap_id, image_name, snap_name)
            if (inode.kind, inode.image_id, inode.snap_id) == (kind, image_id, snap_id):
                inode.image_name, inode.snap_name = image_name, snap_name
                return inode
            number += 1  # two hashes met

    def remember(self, inode: Inode) -> None:
        """The kernel is being told of this inode once more."""
        known = self._by_number.setdefault(inode.number, inode)  # two requests may have met it at once
        known.lookups += 1

    def forget(self, number: int, count: int) -> None:
        """The kernel has dropped so many of its references."""
        inode = self._by_number.get(number)
        if inode is None or number < _FIRST_HASHED:
            return
        inode.lookups -= count
        if inode.lookups <= 0:
            del self._by_number[number]
