"""Whoever configures how new images are laid out finds it so, whether `rbd` or we make them."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ceph_cluster import CephCluster
from interop.librbd import rbd, rbd_json

from rbdfs.connect import CephAddress, ConnectFlags, open_cluster
from rbdfs.errors import ConfigError, NotFound, NotSupported, OutOfDomain
from rbdfs.image import directory
from rbdfs.image.image import open_image
from rbdfs.image.transfer import copy_image
from rbdfs.rados.api import IoCtx

pytestmark = pytest.mark.cluster

OPTIONS = ("order", "features", "stripe_unit", "stripe_count", "data_pool")


class Configured:
    """Options set in the four places that there are."""

    def __init__(self, ceph: CephCluster, conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ceph = ceph
        self.conf = conf
        self._monkeypatch = monkeypatch
        self.arguments: list[str] = []
        shutil.copy(ceph.conf, conf)

    def in_pool(self, **options: object) -> None:
        for name, value in options.items():
            self.ceph.rbd("config", "pool", "set", "data", f"rbd_default_{name}", str(value))

    def in_database(self, **options: object) -> None:
        for name, value in options.items():
            self.ceph.ceph("config", "set", "client", f"rbd_default_{name}", str(value))

    def in_file(self, **options: object) -> None:
        lines = [f"rbd default {name.replace('_', ' ')} = {value}" for name, value in options.items()]
        with self.conf.open("a") as file:
            file.write("\n[client]\n" + "\n".join(lines) + "\n")

    def in_arguments(self, **options: object) -> None:
        self.arguments = [f"--rbd-default-{name.replace('_', '-')}={value}" for name, value in options.items()]
        self._monkeypatch.setenv("CEPH_ARGS", " ".join(self.arguments))

    def reset(self) -> None:
        for option in OPTIONS:
            self.ceph.run("rbd", "config", "pool", "remove", "data", f"rbd_default_{option}", check=False)
            self.ceph.ceph("config", "rm", "client", f"rbd_default_{option}")

    @asynccontextmanager
    async def pool(self, namespace: str = "") -> AsyncIterator[IoCtx]:
        async with open_cluster(CephAddress(ConnectFlags(conf=str(self.conf)))) as cluster:
            yield await cluster.open_pool("data", namespace)

    async def agrees(self, namespace: str = "") -> dict[str, Any]:
        """Make an image with `rbd` and one of our own, and give the layout that both have."""
        where = f"data/{namespace}/" if namespace else "data/"
        await rbd(self.ceph, "-c", str(self.conf), *self.arguments, "create", "--size", "10M", f"{where}theirs")
        async with self.pool(namespace) as ioctx:
            await directory.create(ioctx, "ours", 10 << 20)
        layouts = []
        for name in ("theirs", "ours"):
            info = await rbd_json(self.ceph, "info", f"{where}{name}")
            layouts.append(
                {key: info.get(key) for key in ("order", "features", "stripe_unit", "stripe_count", "data_pool")}
            )
            await rbd(self.ceph, "rm", "--no-progress", f"{where}{name}")
        assert layouts[0] == layouts[1]
        return layouts[0]


@pytest.fixture
def configured(ceph_cluster: CephCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configured]:
    made = Configured(ceph_cluster, ceph_cluster.directory / f"{tmp_path.name}.conf", monkeypatch)
    yield made
    made.reset()


async def test_nothing_configured(configured: Configured) -> None:
    layout = await configured.agrees()
    assert layout["order"] == 22
    assert len(layout["features"]) == 5


async def test_the_nearer_place_wins(configured: Configured) -> None:
    configured.in_database(order=21, features="layering,exclusive-lock")
    layout = await configured.agrees()
    assert (layout["order"], layout["features"]) == (21, ["layering", "exclusive-lock"])
    configured.in_file(order=19, features=1)
    layout = await configured.agrees()
    assert (layout["order"], layout["features"]) == (19, ["layering"])
    configured.in_arguments(order=18)
    layout = await configured.agrees()
    assert (layout["order"], layout["features"]) == (18, ["layering"])
    configured.in_pool(order=20, features="layering, deep-flatten")
    layout = await configured.agrees()
    assert (layout["order"], layout["features"]) == (20, ["layering", "deep-flatten"])


async def test_striping_a_data_pool_and_a_namespace(configured: Configured) -> None:
    ceph = configured.ceph
    ceph.ceph("osd", "pool", "create", "elsewhere", "8", "8")
    ceph.rbd("namespace", "create", "data/apart")
    try:
        configured.in_pool(stripe_unit=65536, stripe_count=4)
        configured.in_file(data_pool="elsewhere")
        layout = await configured.agrees("apart")
        assert {"striping", "data-pool"} < set(layout["features"])
        assert (layout["stripe_unit"], layout["stripe_count"], layout["data_pool"]) == (65536, 4, "elsewhere")
    finally:
        ceph.rbd("namespace", "remove", "data/apart")
        ceph.ceph("osd", "pool", "rm", "elsewhere", "elsewhere", "--yes-i-really-really-mean-it")


async def test_what_is_asked_for_or_copied_is_no_matter_of_defaults(configured: Configured) -> None:
    async with configured.pool() as ioctx:
        await directory.create(ioctx, "asked", 10 << 20)
    configured.in_pool(order=20, stripe_unit=65536, stripe_count=4)
    configured.in_arguments(features="bogus")
    async with configured.pool() as ioctx:
        await directory.create(ioctx, "mine", 10 << 20, order=19, features=5, stripe_unit=4096, stripe_count=2)
        async with open_image(ioctx, "asked", read_only=True) as source:
            await copy_image(source, ioctx, "copied")
    info = await rbd_json(configured.ceph, "info", "data/mine")
    assert (info["order"], info["features"]) == (19, ["layering", "striping", "exclusive-lock"])
    assert (info["stripe_unit"], info["stripe_count"]) == (4096, 2)
    info = await rbd_json(configured.ceph, "info", "data/copied")
    assert (info["order"], len(info["features"]), info.get("stripe_count")) == (22, 5, None)
    for name in ("asked", "mine", "copied"):
        await rbd(configured.ceph, "rm", "--no-progress", f"data/{name}")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": "big"}, ConfigError, r"\.conf:\d+: rbd_default_order = big: not a number"),
        ({"order": 99}, OutOfDomain, "order 99 is not between 12 and 25"),
        ({"features": "layering,bogus"}, ConfigError, r"\.conf:\d+: rbd_default_features = .*: no feature 'bogus'"),
        ({"features": 64 + 5}, NotSupported, "feature journaling is not supported"),
        ({"data_pool": "nowhere"}, NotFound, "pool nowhere: no such pool"),
    ],
)
async def test_values_that_make_no_sense_are_named(
    configured: Configured, options: dict[str, object], error: type[Exception], message: str
) -> None:
    configured.in_file(**options)
    async with configured.pool() as ioctx:
        with pytest.raises(error, match=message):
            await directory.create(ioctx, "none", 10 << 20)
        assert await directory.list_images(ioctx) == {}
