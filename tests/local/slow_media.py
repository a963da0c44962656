"""A data file whose large writes go to the writing thread, and take their time."""

import time

import pytest

from rbdfs.local import engine
from rbdfs.local.media import Media
from rbdfs.wire import Buffer

MIB = 1 << 20
_SECONDS = 0.3


def slow_down_large_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, until the test ends: writes of a MiB."""
    write = Media.write

    def write_slowly(self: Media, offset: int, data: Buffer) -> None:
        if len(data) == MIB:
            time.sleep(_SECONDS)
        write(self, offset, data)

    monkeypatch.setattr(Media, "write", write_slowly)
    monkeypatch.setattr(engine, "_PROBE", 1)
