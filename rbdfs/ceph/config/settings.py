"""One client's view of a ceph.conf: which section counts for it, and what `$name` and the like stand for."""

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from rbdfs.ceph.config.conffile import Sections, normalize_key
from rbdfs.errors import ConfigError

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_MAX_DEPTH = 10
_SPAN_PART = re.compile(r"(\d+(?:\.\d*)?)\s*([a-z]*)\s*")
_UNITS = {  # as `parse_timespan` has them, and milliseconds
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "wk", "week", "weeks"), 7 * 86400.0),
    **dict.fromkeys(("mo", "month", "months"), 30 * 86400.0),
    **dict.fromkeys(("y", "yr", "year", "years"), 365 * 86400.0),
    "ms": 1e-3,
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}  # Ceph knows no "yes" and no "off"


class Settings:
    """Values by key: what was said on the command line, then the client's section, its type's, then [global]."""

    def __init__(
        self, sections: Sections, name: str, cluster: str, overrides: Mapping[str, str], source: Path | None = None
    ) -> None:
        kind, _, entity_id = name.partition(".")
        self.source = source
        self._sections = sections
        self._order = [sections[section] for section in (name, kind, "global") if section in sections]
        self._overrides = {normalize_key(key): value for key, value in overrides.items()}
        self._variables = {
            "cluster": cluster,
            "name": name,
            "type": kind,
            "id": entity_id,
            "num": entity_id,
            "host": socket.gethostname().split(".")[0],
            "home": str(Path("~").expanduser()),
            "pid": str(os.getpid()),
        }

    def get(self, key: str, default: str = "") -> str:
        """The value of a key, with variables expanded."""
        value = self._raw(key)
        return self.expand(default if value is None else value)

    def has(self, key: str) -> bool:
        """Whether a key has a value."""
        return self._raw(key) is not None

    def seconds(self, key: str) -> float | None:
        """A span of time such as `90`, `2 minutes` or `1m30s`; None where there is none or it is 0."""
        text = rest = self.get(key).strip()
        seconds = 0.0
        while rest:
            match = _SPAN_PART.match(rest)
            rest = rest[match.end() :] if match else rest
            if match is None or match[2] not in _UNITS or (rest and not match[2]):
                raise ConfigError(f"{self.where(key)}: {key} = {text} is no span of time")
            seconds += float(match[1]) * _UNITS[match[2]]
        return seconds or None

    def boolean(self, key: str, *, default: bool) -> bool:
        """Whether it is so."""
        text = self.get(key)
        value = _BOOLEANS.get(text.lower(), default if not text else None)
        if value is None:
            raise ConfigError(f"{self.where(key)}: {key} = {text} is neither true nor false")
        return value

    def where(self, key: str) -> str:
        """Where a key is set, for an error message."""
        if key in self._overrides:
            return f"--{key.replace('_', '-')}"
        for section in self._order:
            if key in section:
                return f"{self.source}:{section[key].line}"
        return str(self.source or "ceph.conf")

    def of_monitors(self, key: str) -> list[str]:
        """The values that a key has in all sections [mon.*]."""
        sections = (values for name, values in self._sections.items() if name.startswith("mon."))
        return [self.expand(values[key].value) for values in sections if key in values]

    def expand(self, text: str, depth: int = 0) -> str:
        """Replace `$name` and `${name}`: variables, else other keys; what is neither stays as it is."""
        if "$" not in text:
            return text

        def value_of(match: re.Match[str]) -> str:
            key = match[1] or match[2]
            value = self._variables.get(key, self._raw(key))
            if value is None or depth >= _MAX_DEPTH:
                return match[0]
            return self.expand(value, depth + 1)

        return _VARIABLE.sub(value_of, text)

    def _raw(self, key: str) -> str | None:
        if key in self._overrides:
            return self._overrides[key]
        return next((section[key].value for section in self._order if key in section), None)
