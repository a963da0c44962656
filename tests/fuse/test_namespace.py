"""The namespace alone: what the kernel asks for is said by the test."""

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from image.conftest import Pools
from pyfuse3 import FUSEError, RequestContext

from rbdfs.errors import TimedOut
from rbdfs.fuse.inodes import ROOT_NUMBER
from rbdfs.fuse.namespace import Namespace
from rbdfs.fuse.notifier import Notifier
from rbdfs.fuse.options import MountOptions
from rbdfs.fuse.tree import Tree
from rbdfs.image import directory
from rbdfs.image.image import Image
from rbdfs.rados.api import IoCtx

CONTEXT = cast(RequestContext, SimpleNamespace(uid=os.geteuid(), gid=os.getegid()))


@pytest.fixture
def pools(tmp_path: Path) -> Pools:
    """A store with a pool."""
    return Pools(tmp_path / "store")


@asynccontextmanager
async def namespace_of(pools: Pools, **options: Any) -> AsyncIterator[tuple[Namespace, IoCtx]]:
    async with pools.client() as ioctx:
        chosen = MountOptions(**options)
        tree = Tree(ioctx, chosen, Notifier())
        async with tree.images.running():
            yield Namespace(tree, chosen), ioctx


def fails_with(number: int) -> "pytest.RaisesExc[FUSEError]":
    return pytest.raises(FUSEError, check=lambda err: err.errno == number)


async def test_what_another_client_made_since_the_kernel_looked_is_opened(pools: Pools) -> None:
    async with namespace_of(pools) as (namespace, ioctx):
        await directory.create(ioctx, "vm", 12345)
        info, entry = await namespace.create(ROOT_NUMBER, b"vm", 0o600, os.O_RDWR | os.O_CREAT, CONTEXT)
        assert entry.st_size == 12345
        await namespace.release(info.fh)
        with fails_with(errno.EEXIST):
            await namespace.create(ROOT_NUMBER, b"vm", 0o600, os.O_RDWR | os.O_CREAT | os.O_EXCL, CONTEXT)


async def test_a_name_that_the_mount_does_not_show_is_not_given(pools: Pools) -> None:
    async with namespace_of(pools, image="a*") as (namespace, ioctx):
        await directory.create(ioctx, "a1", 0)
        with fails_with(errno.EPERM):
            await namespace.rename(ROOT_NUMBER, b"a1", ROOT_NUMBER, b"zz", 0, CONTEXT)
        await namespace.rename(ROOT_NUMBER, b"a1", ROOT_NUMBER, b"a2", 0, CONTEXT)
        assert [*await directory.list_images(ioctx)] == ["a2"]


@pytest.mark.parametrize(("flags", "flushes"), [(os.O_DIRECT | os.O_SYNC, 1), (os.O_DIRECT, 0), (os.O_SYNC, 0)])
async def test_single_lane_syncs_what_the_kernel_does_not(
    pools: Pools, monkeypatch: pytest.MonkeyPatch, flags: int, flushes: int
) -> None:
    done = []
    async with namespace_of(pools, single_lane=True) as (namespace, _):
        info, _ = await namespace.create(ROOT_NUMBER, b"vm", 0o600, os.O_RDWR | flags, CONTEXT)
        flush = Image.flush

        async def count(image: Image) -> None:
            done.append(image)
            await flush(image)

        monkeypatch.setattr(Image, "flush", count)
        await namespace.write(info.fh, 0, b"x" * 4096)
        assert len(done) == flushes
        await namespace.release(info.fh)


@pytest.mark.complains("vm: no answer")
async def test_a_listing_that_cannot_read_an_open_file_gives_its_size(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel believes the size of a listing, and appends there."""
    listed: list[Any] = []

    def reply(_token: object, _name: bytes, entry: Any, _next: int) -> bool:
        listed.append(entry)
        return True

    async def fail(_tree: Tree, _inode: object) -> None:
        raise TimedOut("no answer")

    monkeypatch.setattr("pyfuse3.readdir_reply", reply)
    async with namespace_of(pools) as (namespace, _):
        info, _ = await namespace.create(ROOT_NUMBER, b"vm", 0o600, os.O_RDWR, CONTEXT)
        await namespace.write(info.fh, 0, b"x" * 777)
        listing = await namespace.opendir(ROOT_NUMBER, CONTEXT)
        monkeypatch.setattr(Tree, "attributes", fail)
        await namespace.readdir(listing, 0, cast(Any, None))
        assert [entry.st_size for entry in listed] == [777]
        await namespace.releasedir(listing)
        await namespace.release(info.fh)
