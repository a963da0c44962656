"""File tools and QEMU's tools on images, byte for byte beside a shadow file on an ordinary filesystem."""

import json
import os
import random
from pathlib import Path

import pytest
from mount.daemon import Daemon, allocated, run

pytestmark = pytest.mark.mount

MIB = 1 << 20


def test_qcow2_in_and_out_is_identical_and_sparse(daemon: Daemon, tmp_path: Path) -> None:
    source, image, back = tmp_path / "source.qcow2", daemon.path / "disk", tmp_path / "back.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", source, "64M")
    run("qemu-io", "-c", "write -P 7 1M 3M", "-c", "write -P 9 40000k 65k", "-c", "write -z 2M 64k", source)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", source, image)
    assert "64 MiB" in run("qemu-img", "info", image)
    assert allocated(image) <= 4 * MIB + daemon.store.unit
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", source, image)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, back)
    run("qemu-img", "compare", source, back)
    extents = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", image))
    data = sum(extent["length"] for extent in extents if extent["data"])
    assert 3 * MIB <= data <= 4 * MIB


def test_qemu_img_creates_and_resizes_images(daemon: Daemon) -> None:
    image = daemon.path / "disk"
    run("qemu-img", "create", "-q", "-f", "raw", image, "10M")
    run("qemu-img", "resize", "-q", "-f", "raw", image, "20M")
    run("qemu-img", "resize", "-q", "--shrink", "-f", "raw", image, "5M")
    assert image.stat().st_size == 5 * MIB
    assert "size 5 MiB" in daemon.cli("info", daemon.spec("disk")).stdout


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_qemu_io_discards_and_zeroes(daemon: Daemon, cache: str) -> None:
    image = daemon.path / "disk"
    run("qemu-img", "create", "-q", "-f", "raw", image, "16M")
    options = ("-f", "raw", "-t", cache, "-d", "unmap")
    run("qemu-io", *options, "-c", "write -P 5 0 16M", image)
    full = allocated(image)
    steps = ("discard 4M 8M", "write -z 513k 1k", "write -z -u 12M 1M", "flush")
    run("qemu-io", *options, *(part for step in steps for part in ("-c", step)), image)
    assert allocated(image) <= full - 8 * MIB
    checks = ("read -P 5 0 513k", "read -P 0 513k 1k", "read -P 5 514k 3582k", "read -P 0 4M 9M", "read -P 5 13M 3M")
    output = run("qemu-io", *options, *(part for step in checks for part in ("-c", step)), image)
    assert "verification failed" not in output


def test_copies_are_exact_and_sparse(daemon: Daemon, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    generator = random.Random(3)
    with shadow.open("wb") as file:
        os.truncate(shadow, 48 * MIB + 77)
        for _ in range(12):
            os.pwrite(file.fileno(), generator.randbytes(100_001), generator.randrange(48 * MIB))
    image = daemon.path / "disk"
    run("cp", "--sparse=always", shadow, image)
    run("cmp", shadow, image)
    assert allocated(image) <= allocated(shadow) + 13 * 2 * daemon.store.unit
    run("cp", "--sparse=always", image, tmp_path / "again")
    run("cmp", shadow, tmp_path / "again")
    run("rsync", "-a", "--inplace", shadow, daemon.path / "synced")
    run("cmp", shadow, daemon.path / "synced")
    with shadow.open("r+b") as file:
        os.pwrite(file.fileno(), b"changed", 20 * MIB + 1)
    run("rsync", "-aI", "--inplace", "--no-whole-file", shadow, daemon.path / "synced")
    run("cmp", shadow, daemon.path / "synced")
    assert "synced" not in run("rsync", "-ai", "--dry-run", shadow, daemon.path / "synced")  # its time was kept


def test_dd_and_fallocate_at_odd_offsets_match_a_shadow(daemon: Daemon, tmp_path: Path) -> None:
    shadow, image = tmp_path / "shadow", daemon.path / "disk"
    source = tmp_path / "source"
    source.write_bytes(random.Random(4).randbytes(6 * MIB))
    for path in (shadow, image):
        run("dd", f"if={source}", f"of={path}", "bs=1M", "oflag=direct", "conv=fsync")
        run("fallocate", "-p", "-o", 12345, "-l", 1_234_567, path)
        run("fallocate", "-z", "-o", 4_190_000, "-l", 10_001, path)
        run("fallocate", "-z", "-n", "-o", 6 * MIB - 5, "-l", 99_999, path)
        run("fallocate", "-l", 7 * MIB, path)
        run("dd", f"if={source}", f"of={path}", "bs=4097", "seek=333", "count=9", "conv=notrunc", "oflag=sync")
        run("dd", f"if={source}", f"of={path}", "bs=1000", "count=3", "conv=notrunc", "oflag=append")
        run("truncate", "-s", 6_999_999, path)
    run("cmp", shadow, image)
    run("fallocate", "-d", image)  # dig holes: reads through SEEK_DATA, punches what is zero
    run("cmp", shadow, image)
    assert run("fallocate", "-c", "-o", 0, "-l", 4096, image, check=False).endswith("not supported\n")


@pytest.mark.parametrize("sizes", ["512-256k", "256k-2m"])  # small ones; large ones, which a thread may overwrite
def test_fio_verifies_what_it_wrote(daemon: Daemon, tmp_path: Path, sizes: str) -> None:
    job = ["fio", "--name=x", f"--filename={daemon.path}/disk", "--size=32m", "--rw=randrw", f"--bsrange={sizes}"]
    job += ["--ioengine=libaio", "--iodepth=16", "--direct=1", "--verify=crc32c", "--verify_state_save=0"]
    job += ["--io_size=96m", "--fsync=64", "--fallocate=none", f"--aux-path={tmp_path}"]
    run(*job)
