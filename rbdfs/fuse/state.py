"""What is mounted here: one JSON file per mount in a run directory, for `rbdfs status` and `rbdfs umount`.

The daemon writes its file once the mount works, again on each change, and removes it when it leaves. A file whose
process is gone is left by a crash: it still tells what was mounted where, and the next mount or status clears it.
"""

import dataclasses
import hashlib
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from rbdfs.errors import PermissionDenied, RbdfsError


@dataclass(slots=True)
class MountStatus:
    """A mount, as its daemon last described it."""

    pid: int
    started: int  # of the process, in clock ticks since boot: tells it from a later one of the same pid
    store: str  # Cluster.description
    pool: str
    namespace: str
    mountpoint: str
    read_only: bool
    open_images: list[str] = field(default_factory=list)
    hidden: dict[str, str] = field(default_factory=dict)  # names that cannot be files, and why

    @property
    def is_alive(self) -> bool:
        """Whether the daemon still runs."""
        return self.started == process_start(self.pid)


def run_directory() -> Path:
    """Where the state files of this user's mounts are: RBDFS_RUN_DIR, /run/rbdfs for root, the user's runtime dir."""
    given = os.environ.get("RBDFS_RUN_DIR")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/run/rbdfs")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "rbdfs" if runtime else Path(f"/tmp/rbdfs-{os.geteuid()}")


def path_for(mountpoint: Path | str) -> Path:
    """The state file of a mountpoint."""
    name = os.path.abspath(mountpoint)
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()
    return run_directory() / f"{digest}.json"


def write_state(status: MountStatus) -> None:
    """Write or replace the file of a mount, whole or not at all."""
    path = path_for(status.mountpoint)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = path.parent.stat()
    if owner.st_uid != os.geteuid() or not stat.S_ISDIR(owner.st_mode):
        raise PermissionDenied(f"{path.parent}: belongs to another user")
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(dataclasses.asdict(status), indent=1) + "\n")
    temporary.replace(path)


def remove_state(mountpoint: Path | str, pid: int) -> None:
    """Remove the file of a mount, unless another process has written it meanwhile."""
    path = path_for(mountpoint)
    status = _read(path)
    if status is not None and status.pid == pid:
        path.unlink(missing_ok=True)


def read_state(mountpoint: Path | str) -> MountStatus | None:
    """The state of one mountpoint, its daemon alive or not."""
    return _read(path_for(mountpoint))


def read_states() -> list[MountStatus]:
    """All mounts of this user, by mountpoint, daemons alive or not."""
    states = [_read(path) for path in run_directory().glob("*.json")]
    return sorted((state for state in states if state is not None), key=lambda state: state.mountpoint)


def _read(path: Path) -> MountStatus | None:
    try:
        if path.stat().st_uid != os.geteuid():
            return None  # put there by another user, where everybody may write
        values = json.loads(path.read_text())
        return MountStatus(**values)
    except (OSError, ValueError, TypeError):
        return None  # gone, or written by another version


def write_failure(mountpoint: Path, error: RbdfsError) -> None:
    """Tell a waiting `umount` that this daemon did not end well: not all that was written may be safe."""
    path = failure_file(mountpoint)
    if path.parent.is_dir():
        path.write_text(f"{os.getpid()} {error}\n")


def take_failure(mountpoint: Path, pid: int) -> str:
    """What a daemon that has ended said of its end; empty where all went well."""
    path = failure_file(mountpoint)
    try:
        who, _, error = path.read_text().strip().partition(" ")
        path.unlink()
    except FileNotFoundError:
        return ""
    return error if who == str(pid) else ""


def failure_file(mountpoint: Path) -> Path:
    """Where a daemon that ends with an error says so."""
    return path_for(mountpoint).with_suffix(".failed")


def process_start(pid: int) -> int:
    """When a process started, in clock ticks since boot (proc(5): field 22 of stat); 0 where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])
