"""What chmod, chown and utimes left in image metadata; names that cannot be files."""

import struct

import pytest

from rbdfs.fuse.attributes import FileAttributes, Kept
from rbdfs.fuse.file_names import why_no_file_name, why_no_image_file_name


def test_kept_attributes_are_read_from_metadata() -> None:
    kept = Kept.from_metadata({"rbdfs.mode": "0640", "rbdfs.owner": "107:108", "rbdfs.mtime": "12 34", "other": "x"})
    assert kept == Kept(0o640, (107, 108), 12, 34)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"rbdfs.mode": "", "rbdfs.owner": "", "rbdfs.mtime": ""},
        {"rbdfs.mode": "rwx", "rbdfs.owner": "root:root", "rbdfs.mtime": "yesterday"},
        {"rbdfs.mode": "9", "rbdfs.owner": "1", "rbdfs.mtime": "1"},
    ],
)
def test_what_makes_no_sense_counts_as_absent(metadata: dict[str, str]) -> None:
    assert Kept.from_metadata(metadata) == Kept()


def test_set_user_id_is_never_kept() -> None:
    assert Kept.from_metadata({"rbdfs.mode": "4755"}).mode == 0o755


def test_blocks_are_rounded_up_and_times_are_exact() -> None:
    entry = FileAttributes(9, 0o100600, 1, 2, size=10, allocated=513, mtime=1_234_567_890_123_456_789).to_entry()
    assert entry.st_blocks == 2
    assert entry.st_mtime_ns == 1_234_567_890_123_456_789


def test_statx_reply_tells_the_birth_time() -> None:
    body = FileAttributes(9, 0o100600, 1, 2, size=10, btime=5_000_000_007, attr_timeout=1.5).to_statx()
    assert len(body) == 32 + 256  # struct fuse_statx_out with its struct statx
    assert struct.unpack_from("<QI", body) == (1, 500_000_000)
    assert struct.unpack_from("<qI", body, 32 + 0x50) == (5, 7)  # stx_btime, as in struct statx


@pytest.mark.parametrize("name", ["disk", "with space", "..x", "é" * 127, "x" * 255])
def test_names_that_are_file_names(name: str) -> None:
    assert why_no_image_file_name(name) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256, "é" * 128])
def test_names_that_are_not(name: str) -> None:
    assert why_no_file_name(name) is not None


def test_dot_snap_is_taken_for_images_only() -> None:
    assert why_no_image_file_name(".snap") is not None
    assert why_no_file_name(".snap") is None
