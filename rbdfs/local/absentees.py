"""Who watches, as a store keeps it for its next owner.

The watches of attached clients end with the owner, and each client makes its own anew at the next one. Until then that
one must not take it that nobody watches: an image in use would be removed, or the lock of its writer broken. So it
knows from the store's settings who is to come, and waits: until the process has gone, or the watch's seconds are over.

What the owner itself watched is not kept: it has ended, with it.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from rbdfs.errors import Corrupt

_MAX_PID = 1 << 22  # linux/threads.h: PID_MAX_LIMIT


class Process(NamedTuple):
    """A process of this boot and pid namespace; a pid or a start of 0 is not known."""

    pid: int
    started: int  # clock ticks after the boot

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process that has this pid now."""
        _, started = _look_up(pid)
        return cls(pid, started)

    @property
    def has_gone(self) -> bool:
        """Whether it is known to have ended."""
        if not self.pid:
            return False
        state, started = _look_up(self.pid)
        if started:
            return state in b"ZX" or (self.started != 0 and started != self.started)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # it is there, and another user's
            pass
        return False


class Absentee(NamedTuple):
    """A watch whose client is to come."""

    pool: int
    namespace: str
    name: str
    instance_id: int
    address: str
    cookie: int
    seconds: int  # of the watch
    left: int  # of these, for the client to come
    pid: int
    started: int

    @property
    def process(self) -> Process:
        """The client's."""
        return Process(self.pid, self.started)


_KINDS = tuple(Absentee.__annotations__.values())


def pack(absentees: Iterable[Absentee]) -> bytes:
    """The setting that names them; empty where there is none."""
    rows = [tuple(each) for each in absentees]
    if not rows:
        return b""
    packed: bytes = msgpack.packb([_boot(), _pid_namespace(), rows], unicode_errors="surrogateescape")
    return packed


def unpack(setting: Any) -> list[Absentee]:
    """Who is to come, as far as the setting tells; Corrupt where it is none."""
    if not setting:
        return []
    try:
        boot, pid_namespace, rows = msgpack.unpackb(setting, unicode_errors="surrogateescape")
        for row in rows:
            if tuple(map(type, row)) != _KINDS:
                raise ValueError(f"a watch with {row!r}")
        absentees = [Absentee(*row) for row in rows]
        if any(not 0 <= each.pid <= _MAX_PID for each in absentees):
            raise ValueError("a pid that cannot be")
    except Exception as err:
        raise Corrupt("metadata: setting watches is unreadable") from err
    if boot != _boot():
        return []
    if pid_namespace != _pid_namespace():
        absentees = [each._replace(pid=0) for each in absentees]
    return [each for each in absentees if not each.process.has_gone]


def _look_up(pid: int) -> tuple[bytes, int]:
    """State and start of a process (proc(5): /proc/PID/stat); a start of 0 where that cannot be seen."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0], int(fields[19])
    return b"", 0


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _pid_namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""
