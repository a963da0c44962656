"""A client's key: out of a keyring, a key file, or the configuration itself."""

import re
from pathlib import Path

from rbdfs.ceph.cephx.keys import CryptoKey
from rbdfs.ceph.config import conffile
from rbdfs.ceph.config.settings import Settings
from rbdfs.errors import ConfigError, WireError

DEFAULT_KEYRING = "/etc/ceph/$cluster.$name.keyring,/etc/ceph/$cluster.keyring,/etc/ceph/keyring,/etc/ceph/keyring.bin"


def find_key(settings: Settings, name: str) -> tuple[CryptoKey | None, str]:
    """The client's key, or None; and where it is from, or where it was looked for.

    `key` goes before `keyfile`, that before `keyring`: the first file of that list that can be read must have the key.
    """
    key = settings.get("key")
    if key:
        return parse_key(key, settings.where("key")), settings.where("key")
    keyfile = settings.get("keyfile")
    if keyfile:
        try:
            return parse_key(Path(keyfile).read_text("ascii"), keyfile), keyfile
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"{keyfile}: {getattr(err, 'strerror', None) or 'not a key file'}") from err
    paths = [Path(path) for path in re.split(r"[;, \t]+", settings.get("keyring", DEFAULT_KEYRING)) if path]
    found, denied = conffile.first_readable(paths)
    path = found or denied  # reading it says why it cannot be read
    if path is not None:
        return read_key(path, name), str(path)
    return None, "no keyring at " + ", ".join(map(str, paths))


def read_key(path: Path, name: str) -> CryptoKey:
    """The key of `name` in a keyring file; ConfigError where it is not there, or none."""
    sections = conffile.read(path)
    entry = sections.get(name)
    if entry is None:
        others = ", ".join(section for section in sections if section != "global") or "nobody"
        raise ConfigError(f"{path}: no entry for {name}, only for {others}")
    if "key" not in entry:
        raise ConfigError(f"{path}: the entry for {name} has no key")
    return parse_key(entry["key"].value, f"{path}:{entry['key'].line}")


def parse_key(text: str, where: str) -> CryptoKey:
    """A key in base64; ConfigError where it is none."""
    try:
        return CryptoKey.from_text(text)
    except WireError as err:
        raise ConfigError(f"{where}: {err}") from err
