"""Attributes of files: what an image says of itself, what chmod, chown and utimes left on it, what the mount adds.

chmod, chown and utimes are kept as image metadata, so that they outlive the mount and other hosts see them:

    rbdfs.mode      0640                permission bits
    rbdfs.owner     107:107             uid:gid
    rbdfs.mtime     <ns> <ns>           modification time, and when it was set: void once the image is written later

Where they are absent, the mount's own owner and mode hold. Set-user-id bits are never kept.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass

import pyfuse3

from rbdfs.fuse.abi import STATX_OUT, STATX_RESERVE

MODE_KEY, OWNER_KEY, MTIME_KEY = "rbdfs.mode", "rbdfs.owner", "rbdfs.mtime"

BLOCK_SIZE = 512  # st_blocks counts in these, whatever the filesystem
PREFERRED_SIZE = 1 << 20  # st_blksize: what cp and dd take for their buffers; one request of the kernel

_STATX_BASIC_AND_BIRTH = 0xFFF


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a mount gives to files that say nothing."""

    uid: int
    gid: int
    file_mode: int
    directory_mode: int
    entry_timeout: float
    attr_timeout: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What chmod, chown and utimes left on an image."""

    mode: int | None = None
    owner: tuple[int, int] | None = None
    mtime: int | None = None
    mtime_set_at: int = 0

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Kept":
        """Read from image metadata; what makes no sense counts as absent."""
        mode = _numbers(metadata.get(MODE_KEY, ""), 1, base=8)
        owner = _numbers(metadata.get(OWNER_KEY, "").replace(":", " "), 2)
        mtime = _numbers(metadata.get(MTIME_KEY, ""), 2)
        return cls(
            mode[0] & 0o777 if mode else None,
            (owner[0], owner[1]) if owner else None,
            mtime[0] if mtime else None,
            mtime[1] if mtime else 0,
        )


def _numbers(text: str, count: int, base: int = 10) -> list[int]:
    words = text.split()
    try:
        return [int(word, base) for word in words] if len(words) == count else []
    except ValueError:
        return []


@dataclass(slots=True)
class FileAttributes:
    """What stat(2) says; times in nanoseconds, sizes in bytes."""

    inode: int
    mode: int
    uid: int
    gid: int
    size: int = 0
    allocated: int = 0
    atime: int = 0
    mtime: int = 0
    ctime: int = 0
    btime: int = 0
    links: int = 1
    entry_timeout: float = 0.0
    attr_timeout: float = 0.0

    def to_entry(self) -> pyfuse3.EntryAttributes:
        """For pyfuse3."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = self.inode
        entry.st_mode = self.mode
        entry.st_nlink = self.links
        entry.st_uid = self.uid
        entry.st_gid = self.gid
        entry.st_size = self.size
        entry.st_blocks = -(-self.allocated // BLOCK_SIZE)
        entry.st_blksize = PREFERRED_SIZE
        entry.st_atime_ns = self.atime
        entry.st_mtime_ns = self.mtime
        entry.st_ctime_ns = self.ctime
        entry.entry_timeout = self.entry_timeout
        entry.attr_timeout = self.attr_timeout
        return entry

    def to_statx(self) -> bytes:
        """The body of a STATX reply: the only one that can tell the birth time."""
        seconds, fraction = divmod(self.attr_timeout, 1)
        times = [divmod(time, 1_000_000_000) for time in (self.atime, self.btime, self.ctime, self.mtime)]
        fields = [part for second, nanosecond in times for part in (second, nanosecond, 0)]
        blocks = -(-self.allocated // BLOCK_SIZE)
        return (
            STATX_OUT.pack(
                *(int(seconds), int(fraction * 1e9), 0, 0, 0),
                *(_STATX_BASIC_AND_BIRTH, PREFERRED_SIZE, 0, self.links, self.uid, self.gid, self.mode, 0),
                *(self.inode, self.size, blocks, 0),
                *fields,
                *(0, 0, 0, 0),
            )
            + STATX_RESERVE
        )


def directory(inode: int, defaults: Defaults, time: int) -> FileAttributes:
    """Attributes of a directory."""
    return FileAttributes(
        inode,
        stat.S_IFDIR | defaults.directory_mode,
        defaults.uid,
        defaults.gid,
        atime=time,
        mtime=time,
        ctime=time,
        btime=time,
        links=2,
        entry_timeout=defaults.entry_timeout,
        attr_timeout=defaults.attr_timeout,
    )


def broken(inode: int, defaults: Defaults, size: int) -> FileAttributes:
    """What a listing shows of an image that cannot be read: nothing that is kept, so that the kernel asks and gets EIO.

    But for the size, which it believes: where the image is open, that must be right.
    """
    return FileAttributes(inode, stat.S_IFREG, defaults.uid, defaults.gid, size)
