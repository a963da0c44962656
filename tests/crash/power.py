"""A data file whose power is cut at the n-th call, with what was not synced lost, kept or torn."""

import random
from pathlib import Path

from rbdfs.local.batch import Batch
from rbdfs.local.database import Database
from rbdfs.local.media import Media
from rbdfs.rados.ops import Buffer

SECTOR = 4096


class PowerCut(BaseException):
    """The machine is off; nobody handles this."""


class CutMedia(Media):
    """A `Media` that stops at the call number `cut_at`, and forgets at `fall_apart` what was not synced."""

    def __init__(self, path: Path, cut_at: int) -> None:
        super().__init__(path)
        self._cut_at = cut_at
        self.calls = 0
        self._synced_size = self.size
        self._versions: dict[int, list[bytes]] = {}  # per sector changed since the last sync: what it was, oldest first

    def write(self, offset: int, data: Buffer) -> None:
        self._call()
        self._remember(offset, len(data))
        super().write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self._call()
        self._remember(offset, length)
        super().zero(offset, length)

    def resize(self, size: int) -> None:
        self._call()
        super().resize(size)

    def sync(self) -> None:
        self._call()
        self._versions.clear()
        self._synced_size = self.size

    def commit(self, database: Database, batch: Batch) -> None:
        self._call()
        super().commit(database, batch)

    def _call(self) -> None:
        self.calls += 1
        if self.calls >= self._cut_at:
            raise PowerCut

    def _remember(self, offset: int, length: int) -> None:
        end = min(offset + length, self.size)
        for sector in range(offset // SECTOR, (end + SECTOR - 1) // SECTOR):
            self._versions.setdefault(sector, []).append(self._sector(sector))

    def _sector(self, sector: int) -> bytes:
        content = bytearray(SECTOR)
        super().read(sector * SECTOR, content)
        return bytes(content)

    def fall_apart(self, chance: random.Random) -> None:
        """Leave of every unsynced sector one of its versions, and of an unsynced growth all or nothing."""
        for sector, versions in self._versions.items():
            super().write(sector * SECTOR, chance.choice([*versions, self._sector(sector)]))
        if self._synced_size < self.size and chance.random() < 0.5:
            super().resize(self._synced_size)
