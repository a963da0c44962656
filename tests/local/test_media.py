"""The data file's own calls: what reaches the kernel, and what is read back."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbdfs.local import media as media_module
from rbdfs.local.media import Media

MIB = 1 << 20


@pytest.fixture
def media(tmp_path: Path) -> Iterator[Media]:
    path = tmp_path / "data"
    path.touch()
    opened = Media(path)
    yield opened
    opened.close()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths that were handed to pwrite."""
    lengths: list[int] = []
    pwrite = os.pwrite

    def counted(fd: int, data: memoryview, offset: int) -> int:
        lengths.append(len(data))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    return lengths


def test_only_what_is_in_memory_is_written_with_one_call(media: Media, writes: list[int]) -> None:
    data = os.urandom(MIB)
    media.write(4096, data)
    assert writes == [128 << 10] * 8
    writes.clear()
    media.write(5000, data[1000:])
    assert writes == [MIB - 1000]
    writes.clear()
    media.write(4096 + MIB // 2, data)  # its second half is new
    assert writes == [128 << 10] * 8
    found = bytearray(MIB // 2)
    media.read(4096, found)
    assert found == data[:904] + data[1000 : MIB // 2 + 96]
    found = bytearray(MIB)
    media.read(4096 + MIB // 2, found)
    assert found == data


def test_without_the_system_call_everything_is_written_in_steps(
    media: Media, writes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_module, "_CACHESTAT", 1 << 20)  # no kernel has it
    data = os.urandom(MIB)
    for _ in range(2):
        writes.clear()
        media.write(0, data)
        assert writes == [128 << 10] * 8
    found = bytearray(MIB)
    media.read(0, found)
    assert found == data


def test_a_range_with_a_hole_may_run_out_of_room(media: Media) -> None:
    media.write(0, os.urandom(MIB))
    if not media.has_room_to_overwrite(0, MIB):
        pytest.skip("the filesystem does not tell, or has no plenty of room")
    assert not media.has_room_to_overwrite(MIB - 4096, 8192)
    media.zero(65536, 4096)
    assert not media.has_room_to_overwrite(0, MIB)
    assert not media.has_room_to_overwrite(69632 - 1, 1)
    assert media.has_room_to_overwrite(69632, MIB - 69632)
