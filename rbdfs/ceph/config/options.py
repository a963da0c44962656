"""All that it takes to connect, from the command line, the environment, ceph.conf and a keyring.

What is said nearer to the user wins: flags, then CEPH_ARGS, then CEPH_CONF and CEPH_KEYRING, then ceph.conf in the
section [client.<id>], then [client], then [global].
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import UUID

from rbdfs.ceph.cephx.credentials import Credentials
from rbdfs.ceph.cephx.keys import CryptoKey
from rbdfs.ceph.config import conffile, monhost
from rbdfs.ceph.config.keyring import find_key
from rbdfs.ceph.config.settings import Settings
from rbdfs.ceph.msgr2.login import Method, Mode
from rbdfs.entities import EntityAddr
from rbdfs.errors import ConfigError

DEFAULT_CONF = "/etc/ceph/$cluster.conf,$home/.ceph/$cluster.conf,$cluster.conf"
T = TypeVar("T")

_MODES = {"crc": Mode.CRC, "secure": Mode.SECURE}
_METHODS = {"cephx": Method.CEPHX, "none": Method.NONE}


class ConnectFlags(Protocol):
    """What the command line said about the cluster; None where it said nothing."""

    @property
    def conf(self) -> str | None: ...
    @property
    def cluster(self) -> str | None: ...
    @property
    def id(self) -> str | None: ...
    @property
    def name(self) -> str | None: ...
    @property
    def mon_host(self) -> str | None: ...
    @property
    def keyring(self) -> str | None: ...
    @property
    def keyfile(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Flags:
    """The same as plain data."""

    conf: str | None = None
    cluster: str | None = None
    id: str | None = None
    name: str | None = None
    mon_host: str | None = None
    keyring: str | None = None
    keyfile: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """What a connection to a cluster needs."""

    name: str  # client.admin
    monitors: list[EntityAddr]
    key: CryptoKey | None
    key_source: str  # where the key is from, or where it was looked for
    methods: tuple[Method, ...] = (Method.CEPHX, Method.NONE)
    modes: tuple[Mode, ...] = (Mode.CRC, Mode.SECURE)  # with OSDs and managers, in order of preference
    monitor_modes: tuple[Mode, ...] = (Mode.SECURE, Mode.CRC)
    with_data_crc: bool = True  # False: daemons may send no checksums of what they send
    osd_op_timeout: float | None = None  # seconds; None: an op waits for as long as it takes
    mon_op_timeout: float | None = None
    mount_timeout: float | None = None  # how long to look for a monitor; None: as long as it seems to make sense
    full_try: bool = False  # a write that finds no room fails (NoSpace, QuotaExceeded); else it waits, as in librados
    fsid: UUID | None = None  # which cluster the configuration is for, if it says so
    conf: Path | None = None
    settings: Settings | None = None  # all of it, for what others ask for by name

    def credentials(self) -> Credentials:
        """The client's, to log in with."""
        return Credentials(self.name, self.key, os.urandom, self.methods, self.key_source)


def load(flags: ConnectFlags | None = None, environ: Mapping[str, str] = os.environ) -> ConnectOptions:
    """Read all that there is; ConfigError names the file, the line and what is wrong. Resolves names of monitors."""
    given, overrides = _merge(flags or Flags(), environ)
    name = given.get("name") or "client." + (given.get("id") or "admin")
    if not name.startswith("client.") or len(name) == len("client."):
        raise ConfigError(f"{name}: a client's name is client.<id>")
    path = _find_conf(given.get("conf"), given.get("cluster"), environ)
    cluster = given.get("cluster") or _cluster_of(path)
    settings = Settings(conffile.read(path) if path else {}, name, cluster, overrides, path)
    key, key_source = find_key(settings, name)
    return ConnectOptions(
        name=name,
        monitors=_monitors(settings),
        key=key,
        key_source=key_source,
        methods=tuple(_choices(settings, "auth_client_required", "cephx, none", _METHODS)),
        modes=tuple(_choices(settings, "ms_client_mode", "crc secure", _MODES)),
        monitor_modes=tuple(_choices(settings, "ms_mon_client_mode", "secure crc", _MODES)),
        with_data_crc=settings.boolean("ms_crc_data", default=True),
        osd_op_timeout=settings.seconds("rados_osd_op_timeout"),
        mon_op_timeout=settings.seconds("rados_mon_op_timeout"),
        mount_timeout=settings.seconds("client_mount_timeout"),
        fsid=_fsid(settings),
        conf=path,
        settings=settings,
    )


_SHORT = {"-c": "conf", "-n": "name", "-k": "keyring", "-m": "mon_host", "--user": "id", "--mon": "mon_host"}
_NAMING = ("conf", "cluster", "id", "name", "mon_host", "keyring", "keyfile")  # which cluster, and as whom
_LONG = {"conf", "cluster", "id", "name"}  # choose what is read, where all others are settings


def _merge(flags: ConnectFlags, environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What chooses file and name, and what overrides the file, out of CEPH_ARGS, the environment and the flags."""
    found = {"keyring": environ["CEPH_KEYRING"]} if environ.get("CEPH_KEYRING") else {}
    found |= _parse_arguments(environ.get("CEPH_ARGS", ""))
    for key in _NAMING:
        value = getattr(flags, key)
        if value is not None:
            found[key] = value
    if flags.id is not None and flags.name is None:
        found.pop("name", None)  # the name of CEPH_ARGS
    return {key: found[key] for key in _LONG & set(found)}, {key: found[key] for key in set(found) - _LONG}


def names_cluster(arguments: str) -> bool:
    """Whether a text as in CEPH_ARGS says which cluster is meant, or as whom to go there; it may only be settings."""
    return not _parse_arguments(arguments).keys().isdisjoint(_NAMING)


def _parse_arguments(text: str) -> dict[str, str]:
    """CEPH_ARGS: `-c FILE`, `--id x`, and any setting as `--ms-client-mode=secure` or `--ms-client-mode secure`."""
    try:
        words = shlex.split(text)
    except ValueError as err:
        raise ConfigError(f"CEPH_ARGS: {err}: {text}") from err
    found: dict[str, str] = {}
    index = 0
    while index < len(words):
        flag, has_value, value = words[index].partition("=")
        index += 1
        if not flag.startswith("-"):
            raise ConfigError(f"CEPH_ARGS: {flag} is no option: {text}")
        if not has_value and index < len(words) and not words[index].startswith("-"):
            value, has_value = words[index], "="
            index += 1
        key = _SHORT.get(flag) or conffile.normalize_key(flag.lstrip("-"))
        found[key] = value if has_value else "true"
    return found


def _find_conf(given: str | None, cluster: str | None, environ: Mapping[str, str]) -> Path | None:
    """The first file that can be read; only one that was asked for must."""
    asked = given or environ.get("CEPH_CONF")
    home = environ.get("HOME") or "~"
    text = (asked or DEFAULT_CONF).replace("$cluster", cluster or "ceph").replace("$home", home)
    paths = [Path(part.strip()).expanduser() for part in text.split(",") if part.strip()]
    found, denied = conffile.first_readable(paths)
    if found is None and asked:
        if denied is not None:
            return denied  # reading it says why it cannot be read
        raise ConfigError(f"{asked}: no such file")
    return found


def _cluster_of(path: Path | None) -> str:
    return path.stem if path is not None and path.suffix == ".conf" else "ceph"


def _monitors(settings: Settings) -> list[EntityAddr]:
    text, where = settings.get("mon_host"), settings.where("mon_host")
    if not text:
        text, where = ",".join(settings.of_monitors("mon_addr")), f"{settings.source}: mon addr"
    monitors = monhost.parse(text, where)
    if not monitors:
        place = settings.source or f"no {DEFAULT_CONF.partition(',')[0].replace('$cluster', 'ceph')}"
        raise ConfigError(f"{place}: no monitors (mon host); name them with -m, or a ceph.conf with -c")
    return monitors


def _choices(settings: Settings, key: str, default: str, known: Mapping[str, T]) -> list[T]:
    words = settings.get(key, default).replace(",", " ").replace(";", " ").lower().split()
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        raise ConfigError(f"{settings.where(key)}: {key} = {' '.join(words)}: may be {', '.join(known)}")
    return [known[word] for word in dict.fromkeys(words)]


def _fsid(settings: Settings) -> UUID | None:
    text = settings.get("fsid")
    try:
        return UUID(text) if text else None
    except ValueError as err:
        raise ConfigError(f"{settings.where('fsid')}: fsid = {text} is no UUID") from err
