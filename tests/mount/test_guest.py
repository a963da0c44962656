"""A Linux guest boots on an image: makes a filesystem, writes, syncs, trims; the host sees it all."""

from pathlib import Path

import pytest
from mount.daemon import Daemon, allocated, run
from mount.guest import booted

pytestmark = [pytest.mark.mount, pytest.mark.slow]

MIB = 1 << 20


def test_guest_uses_an_image_as_its_disk(daemon: Daemon, tmp_path: Path) -> None:
    disk = daemon.path / "guest"
    run("qemu-img", "create", "-q", "-f", "raw", disk, "256M")
    partitioned = daemon.path / "partitioned"
    run("qemu-img", "create", "-q", "-f", "raw", partitioned, "64M")
    run(
        "parted",
        "-s",
        partitioned,
        "mklabel",
        "gpt",
        "mkpart",
        "one",
        "1MiB",
        "21MiB",
        "mkpart",
        "two",
        "21MiB",
        "61MiB",
    )
    with booted(disk, partitioned, work=tmp_path, drive_options="cache=none,discard=unmap") as guest:
        assert guest.run("cat /sys/block/vdb/vdb?/size") == ["40960", "81920"]
        # Blocks of 4 KiB, as on larger disks: else there is something in every 8 MiB, which no trimming frees.
        guest.run("/sbin/mke2fs -q -t ext4 -b 4096 /dev/vda && mount -t ext4 /dev/vda /mnt")
        guest.run("dd if=/dev/urandom of=/mnt/kept bs=1M count=8 2>/dev/null && sync")
        digest = guest.run("sha256sum /mnt/kept")[-1].split()[0]
        (daemon.path / ".snap/guest/early").touch()
        guest.run("dd if=/dev/urandom of=/mnt/bulk bs=1M count=64 2>/dev/null && sync")
        full = allocated(disk)
        assert full >= 72 * MIB
        guest.run("rm /mnt/bulk && sync && fstrim /mnt")
        assert allocated(disk) <= full - 50 * MIB
        assert guest.run("sha256sum /mnt/kept")[-1].split()[0] == digest
        guest.run("umount /mnt")
        guest.power_off()
    run("e2fsck", "-fn", disk)
    assert "/kept" in run("debugfs", "-R", "ls -p /", disk)
    assert "bulk" not in run("debugfs", "-R", "ls -p /", daemon.path / ".snap/guest/early")
