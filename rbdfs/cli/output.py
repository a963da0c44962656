"""What commands print, in the shapes that `rbd` uses: tables, JSON, sizes, times."""

import json
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from rbdfs.errors import InvalidArgument

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SIZE = re.compile(r"([0-9]+) ?(?:([KMGTPE])(?:iB?|B)?|(B))?", re.IGNORECASE)


def format_size(size: int) -> str:
    """A size as Ceph writes it: in the largest unit that leaves at least 1, and in few characters."""
    if size < 1024:
        return f"{size} B"
    index = min((size.bit_length() - 1) // 10, len(_UNITS) - 1)
    whole, rest = divmod(size, 1 << (10 * index))
    if not rest:
        return f"{whole} {_UNITS[index]}"
    for precision in (2, 1):
        text = f"{size / (1 << (10 * index)):.{precision}f} {_UNITS[index]}"
        if len(text) <= 7:  # include/types.h: format_u
            return text
    return f"{size / (1 << (10 * index)):.0f} {_UNITS[index]}"


def parse_size(text: str, default_unit: str = "M") -> int:
    """Bytes of `10`, `10G`, `4096B`, `10GiB`; a bare number counts the default unit, as for `rbd`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"not a size: {text!r} (wanted: a whole number, with B, K, M, G, T, P or E)")
    unit = (match[2] or match[3] or default_unit).upper()
    size = int(match[1]) << (10 * "BKMGTPE".index(unit))
    if size >= 1 << 63:
        raise InvalidArgument(f"size {text!r} is more than an image can have")
    return size


def format_time(nanoseconds: int) -> str:
    """A timestamp in local time: `Sat Nov 21 00:55:58 2026`."""
    return time.ctime(nanoseconds // 1_000_000_000)


def print_json(value: Any, *, pretty: bool) -> None:
    """Print as Ceph's formatter does: on one line without spaces, or indented by four."""
    if pretty:
        text = json.dumps(value, indent=4, ensure_ascii=False)
    else:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    write(text + "\n")


def write(text: str) -> None:
    """Print text that may hold names which are not UTF-8; they leave as the bytes they came as."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))


class Table:
    """Columns of text, two spaces apart; headings stand left, a column named with `>` in front stands right."""

    def __init__(self, *columns: str) -> None:
        self._right = [column.startswith(">") for column in columns]
        self._rows: list[Sequence[str]] = [[column.removeprefix(">") for column in columns]]

    def add(self, *cells: object) -> None:
        """Append a row."""
        assert len(cells) == len(self._right)
        self._rows.append([str(cell) for cell in cells])

    def render(self) -> str:
        """The lines, every cell padded to its column's width, the last one too (common/TextTable.cc)."""
        widths = [max(len(row[index]) for row in self._rows) for index in range(len(self._right))]
        lines = [
            "  ".join(
                cell.rjust(width) if right and number else cell.ljust(width)
                for cell, width, right in zip(row, widths, self._right, strict=True)
            )
            for number, row in enumerate(self._rows)
        ]
        return "\n".join(lines) + "\n"

    def print(self) -> None:
        """Print the table."""
        write(self.render())
