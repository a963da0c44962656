"""librbd as the other client of an image: `rbd`, run beside our event loop, and qemu-io, which keeps an image open."""

import json
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import pytest
import trio
from ceph_cluster import CephCluster

from rbdfs.connect import CephAddress, ConnectFlags, open_cluster
from rbdfs.rados.api import IoCtx

_PROMPT = b"qemu-io> "
_SECONDS = 60


@asynccontextmanager
async def our_pool(ceph: CephCluster, namespace: str = "") -> AsyncIterator[IoCtx]:
    """The test pool, by our own client."""
    async with open_cluster(CephAddress(ConnectFlags(conf=str(ceph.conf)))) as cluster:
        yield await cluster.open_pool("data", namespace)


async def rbd(ceph: CephCluster, *arguments: str) -> str:
    """What an `rbd` command prints, while our event loop goes on; a failure raises."""
    return await trio.to_thread.run_sync(partial(ceph.rbd, *arguments))


async def rbd_fails(ceph: CephCluster, *arguments: str) -> int:
    """The exit code of an `rbd` command."""
    result = await trio.to_thread.run_sync(partial(ceph.run, "rbd", *arguments, check=False))
    return result.returncode


async def rbd_json(ceph: CephCluster, *arguments: str) -> Any:
    """What an `rbd` command prints as JSON."""
    return json.loads(await rbd(ceph, *arguments, "--format", "json"))


async def exported(ceph: CephCluster, spec: str) -> bytes:
    """The bytes of an image or a snapshot, as `rbd export` gives them."""
    path = ceph.directory / f"export-{re.sub('[^a-z0-9]', '-', spec)}"
    await rbd(ceph, "export", "--no-progress", spec, str(path))
    try:
        return path.read_bytes()
    finally:
        path.unlink()


async def imported(ceph: CephCluster, data: bytes, spec: str, *options: str) -> None:
    """Make an image of these bytes with `rbd import`."""
    path = ceph.directory / "import"
    path.write_bytes(data)
    await rbd(ceph, "import", "--no-progress", *options, str(path), spec)
    path.unlink()


async def check_object_map(ceph: CephCluster, spec: str) -> None:
    """The object map is as librbd thinks it should be, and the image is not flagged."""
    await trio.to_thread.run_sync(ceph.check_object_map, spec)


class QemuIo:
    """An image that QEMU has open through librbd; commands are those of qemu-io."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._seen = b""

    async def command(self, text: str) -> str:
        """What a command prints."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(text.encode() + b"\n")
        return await self.output()

    async def write(self, pattern: int, offset: int, length: int) -> None:
        """Fill a range with a byte."""
        answer = await self.command(f"write -P {pattern:#x} {offset} {length}")
        assert f"wrote {length}/{length} bytes" in answer, answer

    async def expect(self, pattern: int, offset: int, length: int) -> None:
        """The range holds nothing but that byte."""
        answer = await self.command(f"read -P {pattern:#x} {offset} {length}")
        assert f"read {length}/{length} bytes" in answer, answer
        assert "failed" not in answer, answer

    async def output(self) -> str:
        """What is printed up to the next prompt."""
        assert self._process.stdout is not None
        with trio.fail_after(_SECONDS):
            while _PROMPT not in self._seen:
                part = await self._process.stdout.receive_some()
                assert part, f"qemu-io ended: {self._seen.decode(errors='replace')}"
                self._seen += part
        text, _, self._seen = self._seen.partition(_PROMPT)
        return text.decode()

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()


def _has_qemu_io() -> bool:
    return shutil.which("qemu-io") is not None and any(Path("/usr/lib").glob("*/qemu/block-rbd.so"))


def qemu_source(ceph: CephCluster, image: str) -> str:
    """An image of the test pool, as QEMU names it; without librbd's cache."""
    login = "" if ceph.key_type == 1 else f":id=old:keyring={_old_client(ceph)}"
    return f"rbd:data/{image}:conf={ceph.conf}{login}:rbd_cache=false"


def _old_client(ceph: CephCluster) -> Path:
    """The keyring of a client with a key of type 1: this machine's librbd knows no others."""
    path = ceph.directory / "keyring.client.old"
    if not path.exists():
        ceph.ceph("mon", "set", "auth_allowed_ciphers", "aes,aes256k")
        caps = ("mon", "allow *", "osd", "allow *")
        for _ in range(60):  # the monitors follow in some seconds
            made = ceph.run("ceph", "auth", "get-or-create", "client.old", *caps, "--key-type", "aes", check=False)
            if made.returncode == 0:
                break
            time.sleep(0.5)
        assert made.returncode == 0, made.stderr
        path.write_text(made.stdout)
    return path


@asynccontextmanager
async def qemu_io(ceph: CephCluster, image: str, *options: str) -> AsyncIterator[QemuIo]:
    """Open an image of the test pool in QEMU, without librbd's cache."""
    if not _has_qemu_io():
        pytest.skip("qemu-io with rbd (qemu-utils, qemu-block-extra) is not installed")
    source = await trio.to_thread.run_sync(qemu_source, ceph, image)
    process = await trio.lowlevel.open_process(
        ["qemu-io", "-f", "raw", "-d", "unmap", *options, source], stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    session = QemuIo(process)
    try:
        await session.output()
        yield session
        if process.returncode is None:
            assert process.stdin is not None
            await process.stdin.aclose()
            with trio.fail_after(_SECONDS):
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
