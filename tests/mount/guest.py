"""A small Linux guest: Debian's cloud kernel, an initramfs of busybox and mke2fs, and a script on its serial line.

The kernel comes from /boot where one is installed that can do without more (CONFIG_EXT4_FS=y), else it is downloaded
with apt once, unpacked beside the test cache, and kept.
"""

import contextlib
import gzip
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("RBDFS_TEST_CACHE") or Path.home() / ".cache/rbdfs-tests")
# In the order in which they need each other.
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /mnt /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in %(modules)s; do insmod /modules/$module.ko || echo "guest: no module $module"; done
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 0.2; done
echo "guest: ready"
while read -r command; do
  if eval "$command"; then echo "guest: done"; else echo "guest: failed"; fi
done
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel image and the directory of its modules."""

    image: Path
    modules: Path


def find_kernel() -> Kernel:
    """The kernel to boot; skips the test where there is none to be had."""
    if not (CACHE / "guest-kernel/boot").is_dir():
        _download(CACHE / "guest-kernel")
    for image in sorted((CACHE / "guest-kernel/boot").glob("vmlinuz-*"), reverse=True):
        modules = CACHE / "guest-kernel/lib/modules" / image.name.removeprefix("vmlinuz-")
        if modules.is_dir():
            return Kernel(image, modules)
    pytest.skip("no kernel for the guest")


def _download(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], check=False, capture_output=True, text=True
    )
    package = re.search(r"Depends: (linux-image-\S+)", depends.stdout)
    if package is None:
        pytest.skip("apt knows no linux-image-cloud-amd64 (apt-get update?)")
    done = subprocess.run(
        ["apt-get", "download", package[1]], cwd=target, check=False, capture_output=True, text=True, timeout=300
    )
    if done.returncode != 0:
        pytest.skip(f"the guest's kernel cannot be downloaded: {done.stderr.strip()}")
    for archive in target.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive, target], check=True)
        archive.unlink()


def build_initramfs(kernel: Kernel, path: Path) -> None:
    """Write a gzipped cpio archive with all that the guest runs."""
    files: dict[str, bytes] = {"init": (INIT % {"modules": " ".join(MODULES)}).encode()}
    busybox = shutil.which("busybox")
    mke2fs = shutil.which("mke2fs", path="/sbin:/usr/sbin")
    if busybox is None or mke2fs is None:
        pytest.skip("needs busybox-static and e2fsprogs")
    files["bin/busybox"] = Path(busybox).read_bytes()
    files["sbin/mke2fs"] = Path(mke2fs).read_bytes()
    needed = subprocess.run(["ldd", mke2fs], check=True, capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+)", needed):
        files[library.lstrip("/")] = Path(library).read_bytes()
    for module in MODULES:
        found = next(kernel.modules.rglob(f"{module}.ko"), None)
        if found is None:
            pytest.skip(f"the guest's kernel has no module {module}")
        files[f"modules/{module}.ko"] = found.read_bytes()
    directories = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    with gzip.open(path, "wb", compresslevel=1) as archive:
        for name in sorted(directories):
            archive.write(_cpio_entry(name, stat.S_IFDIR | 0o755, b""))
        for name, content in files.items():
            archive.write(_cpio_entry(name, stat.S_IFREG | 0o755, content))
        archive.write(_cpio_entry("TRAILER!!!", 0, b""))


def _cpio_entry(name: str, mode: int, content: bytes) -> bytes:
    """One file in the "newc" format (cpio(5)): thirteen hexadecimal fields, name, content, each padded to 4 bytes."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4)


class Guest:
    """A running guest, driven by shell commands on its serial line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.log: list[str] = []

    def run(self, command: str) -> list[str]:
        """Run a shell command inside; its output. Fails the test where it fails."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        output = self.wait_for("guest: done", "guest: failed")
        assert output[-1] == "guest: done", "\n".join([command, *output])
        return output[:-1]

    def wait_for(self, *lines: str) -> list[str]:
        """The output up to one of these lines."""
        assert self._process.stdout is not None
        output = []
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").strip()
            self.log.append(line)
            output.append(line)
            if line in lines:
                return output
        raise AssertionError("the guest went away:\n" + "\n".join(self.log[-30:]))

    def power_off(self) -> None:
        """Shut down, and wait until QEMU has left."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"sync; poweroff -f\n")
        self._process.stdin.flush()
        assert self._process.wait(60) == 0


@contextlib.contextmanager
def booted(*disks: Path, work: Path, drive_options: str) -> Iterator[Guest]:
    """A guest with these files as its disks: /dev/vda, /dev/vdb, ..."""
    kernel = find_kernel()
    initramfs = work / "initramfs.gz"
    build_initramfs(kernel, initramfs)
    command = [
        "qemu-system-x86_64",
        *("-m", "256", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1"),
        *(word for disk in disks for word in ("-drive", f"file={disk},if=virtio,format=raw,{drive_options}")),
    ]
    process, guest = _boot(command)
    try:
        guest.run("stty -F /dev/console -echo 2>/dev/null || true")
        yield guest
    finally:
        process.kill()
        process.communicate()


def _boot(command: list[str]) -> tuple[subprocess.Popen[bytes], Guest]:
    accelerators = [("-accel", "tcg")]
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        accelerators.insert(0, ("-accel", "kvm", "-cpu", "host"))
    while True:
        accelerator = accelerators.pop(0)
        process = subprocess.Popen(
            [*command, *accelerator], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        guest = Guest(process)
        try:
            guest.wait_for("guest: ready")
        except BaseException as err:
            process.kill()
            process.communicate()
            if isinstance(err, AssertionError) and accelerators:
                continue  # a /dev/kvm that opens may still not work, as in some nested machines
            raise
        return process, guest
