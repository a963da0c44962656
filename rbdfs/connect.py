"""From what a user gave to a `Cluster`: the only file that knows both stores.

Which store a command means, first match first:

    --store DIR                     the local store in that directory
    -c, --id, -m, ...               a Ceph cluster
    RBDFS_STORE                     the local store in that directory
    CEPH_CONF                       a Ceph cluster
    CEPH_ARGS                       a Ceph cluster, where it has one of those flags; alone, `--debug-ms 1` names none
    /etc/ceph/ceph.conf             a Ceph cluster, where that file (or ~/.ceph/ceph.conf) exists
    otherwise                       the local store in the user's data directory

Nothing of either store is imported before it is needed: a command starts in the time that its own store takes.
"""

import errno
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rbdfs.errors import InvalidArgument, from_result
from rbdfs.rados.api import Cluster

if TYPE_CHECKING:
    from rbdfs.local.check import CheckReport

SYSTEM_CONF_DIRECTORY = Path("/etc/ceph")


@dataclass(frozen=True, slots=True)
class ConnectFlags:
    """What the command line said about the store; None where it said nothing."""

    store: str | None = None
    conf: str | None = None
    cluster: str | None = None
    id: str | None = None
    name: str | None = None
    mon_host: str | None = None
    keyring: str | None = None
    keyfile: str | None = None

    @property
    def ceph_flags(self) -> list[str]:
        """The names of those given that only make sense for a cluster."""
        return [field.name for field in fields(self) if field.name != "store" and getattr(self, field.name) is not None]


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A local store."""

    path: Path

    def __str__(self) -> str:
        return f"local store {self.path}"


@dataclass(frozen=True, slots=True)
class CephAddress:
    """A Ceph cluster, as the flags and the environment name it."""

    flags: ConnectFlags

    def __str__(self) -> str:
        named = self.flags.conf or self.flags.mon_host or os.environ.get("CEPH_CONF")
        return f"Ceph cluster of {named or 'its usual ceph.conf'}"


Address = StoreAddress | CephAddress


def choose_address(flags: ConnectFlags, environ: Mapping[str, str] = os.environ) -> tuple[Address, str]:
    """Which store is meant, and a sentence for the user where nobody named it (else the empty string)."""
    if flags.store is not None:
        if flags.ceph_flags:
            raise InvalidArgument(f"--store and --{flags.ceph_flags[0].replace('_', '-')} exclude each other")
        return _store(flags.store), ""
    if flags.ceph_flags:
        return CephAddress(flags), ""
    if environ.get("RBDFS_STORE"):
        return _store(environ["RBDFS_STORE"]), ""
    if environ.get("CEPH_CONF") or _arguments_name_cluster(environ) or _usual_conf(environ) is not None:
        return CephAddress(flags), ""
    path = default_store(environ)
    return StoreAddress(path), f"using the local store {path} (no --store, no RBDFS_STORE, no ceph.conf)"


def default_store(environ: Mapping[str, str] = os.environ) -> Path:
    """Where a user's store is when nobody says otherwise."""
    if environ.get("XDG_DATA_HOME"):
        return Path(environ["XDG_DATA_HOME"]) / "rbdfs"
    if os.geteuid() == 0:
        return Path("/var/lib/rbdfs")
    return Path(environ.get("HOME") or "~").expanduser() / ".local/share/rbdfs"


def store_exists(path: Path) -> bool:
    """Whether anything is in the directory; whether that is a store is for opening it to say."""
    try:
        return any(path.iterdir())
    except FileNotFoundError:
        return False
    except OSError as err:
        raise from_result(-(err.errno or errno.EIO), f"{path}: {err.strerror}") from err


def _store(path: str) -> StoreAddress:
    return StoreAddress(Path(path).expanduser().absolute())


def _arguments_name_cluster(environ: Mapping[str, str]) -> bool:
    arguments = environ.get("CEPH_ARGS", "")
    if not arguments.strip():
        return False
    from rbdfs.ceph.config import names_cluster

    return names_cluster(arguments)


def _usual_conf(environ: Mapping[str, str]) -> Path | None:
    for directory in (SYSTEM_CONF_DIRECTORY, Path(environ.get("HOME") or os.path.expanduser("~")) / ".ceph"):
        path = directory / "ceph.conf"
        with suppress(PermissionError):  # another user's directory
            if path.exists():
                return path
    return None


@asynccontextmanager
async def open_cluster(
    address: Address, *, create: bool = False, say: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Cluster]:
    """Connect for as long as the block lasts; `create` makes a local store where there is none (else NotFound).

    Where connecting takes long, `say` tells why.
    """
    match address:
        case StoreAddress(path):
            from rbdfs.local.cluster import open_store

            async with open_store(path, create=create) as store:
                yield store
        case CephAddress(flags):
            from rbdfs.ceph.cluster import connect
            from rbdfs.ceph.config import load

            # As with any disk, who writes to a full one is told so, and does not wait until somebody makes room.
            async with connect(replace(load(flags), full_try=True), say=say) as cluster:
                yield cluster


async def check_store(path: Path) -> "CheckReport":
    """Verify a local store, in use or not; NotFound where there is none."""
    from rbdfs.local import cluster

    return await cluster.check_store(path)
