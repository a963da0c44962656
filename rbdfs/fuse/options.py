"""What a mount can be told."""

import os
from dataclasses import dataclass, field

from rbdfs.fuse.attributes import Defaults


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options of a mount; `-o name` on the command line, `_` spelled `-` or `_` there."""

    read_only: bool = False
    allow_other: bool = False
    auto_unmount: bool = False  # the mount goes when the daemon dies, however it dies
    noexec: bool = False
    noatime: bool = False
    fsname: str = ""  # the first column of df; the pool unless given
    uid: int = field(default_factory=os.geteuid)  # owner of files that chown did not give to somebody
    gid: int = field(default_factory=os.getegid)
    umask: int = 0o077  # takes from 0666 for files, from 0777 for directories
    entry_timeout: float = 1.0  # seconds for which the kernel believes names
    attr_timeout: float = 1.0  # seconds for which the kernel believes attributes
    image: str = "*"  # show only images whose name matches, as the shell matches
    no_shrink: bool = False  # refuse to make an image smaller, such as by `> image`
    order: int | None = None  # of images made here; None: as the pool or the configuration has it
    writeback: bool = False  # the kernel's write-back cache: faster, and not for data that others look at meanwhile
    single_lane: bool = False  # pyfuse3 serves everything: slower, no fallocate, no holes shown
    read_ahead: int = 4096  # KiB that the kernel reads ahead, where we may say so

    @property
    def defaults(self) -> Defaults:
        """What files get that say nothing themselves."""
        return Defaults(
            self.uid,
            self.gid,
            0o666 & ~self.umask,
            0o777 & ~self.umask,
            self.entry_timeout,
            self.attr_timeout,
        )
