"""The format of ceph.conf and of keyrings.

A file is made of `[section]` lines and of `key = value` lines; keys before the first section belong to [global]. The
words of a key are joined by blanks, `_` or `-`, all the same. `#` and `;` begin a comment, also behind a value, unless
they are quoted or escaped by a backslash. A line that ends in a backslash goes on in the next, but for
a comment.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rbdfs.errors import ConfigError


class Setting(NamedTuple):
    """A value and the line that it stands on."""

    value: str
    line: int


Sections = dict[str, dict[str, Setting]]

_SECTION = re.compile(r"\[([^\]]+)\]\s*(?:[#;].*)?$")
_KEY = re.compile(r"([^=#;\[\]]+?)\s*=\s*(.*)$", re.DOTALL)
_QUOTED = re.compile(r"""(["'])((?:\\.|(?!\1).)*)\1\s*(?:[#;].*)?$""", re.DOTALL)
_PLAIN = re.compile(r"((?:\\.|[^#;\\])*)", re.DOTALL)
_COMMENT = re.compile(r"""(?:\\.|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^#;\\"'])*[#;]""", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def normalize_key(key: str) -> str:
    """`mon host`, `mon-host` and `mon_host` are one key."""
    return "_".join(re.split(r"[\s_-]+", key.strip()))


def read(path: Path) -> Sections:
    """Read a file; ConfigError names what is wrong with it."""
    try:
        return parse(path.read_text("utf-8"), str(path))
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: not a text file") from err


def parse(text: str, source: str) -> Sections:
    """Parse the text of a file called `source`."""
    sections: Sections = {}
    section = sections.setdefault("global", {})
    for number, line in _logical_lines(text):
        if not line or line[0] in "#;":
            continue
        header = _SECTION.match(line)
        if header:
            section = sections.setdefault(header[1].strip(), {})
            continue
        entry = _KEY.match(line)
        if entry is None:
            what = "section without its closing bracket" if line[0] == "[" else "neither a section nor `key = value`"
            raise ConfigError(f"{source}:{number}: {what}: {line.splitlines()[0]}")
        section[normalize_key(entry[1])] = Setting(_unquote(entry[2], f"{source}:{number}"), number)
    return sections


def first_readable(paths: Iterable[Path]) -> tuple[Path | None, Path | None]:
    """The first file that can be opened; and the first one that is there and cannot be."""
    denied = None
    for path in paths:
        try:
            with path.open("rb"):
                return path, denied
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            denied = denied or path
    return None, denied


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with the number of the first, continued ones joined; a comment ends with its line, as Ceph has it."""
    joined, first = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        first = first or number
        if line.endswith("\\") and not _COMMENT.match(joined + line):
            joined += line[:-1]
            continue
        yield first, (joined + line).strip()
        joined, first = "", 0
    if joined:
        yield first, joined.strip()


def _unquote(value: str, where: str) -> str:
    if value[:1] in ("'", '"'):
        quoted = _QUOTED.match(value)
        if quoted is None:
            raise ConfigError(f"{where}: quotes that do not end, or more behind them: {value}")
        return _ESCAPE.sub(r"\1", quoted[2])
    plain = _PLAIN.match(value)
    assert plain is not None  # it matches the empty string
    return _ESCAPE.sub(r"\1", plain[1]).strip()
