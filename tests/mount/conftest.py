"""What the tests of real mounts share: each runs on every store, or says why not.

`daemon` is a store with its pool mounted; who mounts with options of their own takes `store`, who depends on what only
the local engine does, `local_store`.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ceph_cluster import CephCluster
from mount.daemon import Daemon, mounted
from mount.stores import STORES, LocalStore, Store, new_store


@pytest.fixture(autouse=True)
def _needs_fuse() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")


@pytest.fixture
def local_store(tmp_path: Path) -> LocalStore:
    """A directory that will be a store."""
    return LocalStore(tmp_path / "store")


@pytest.fixture(params=STORES)
def store(
    request: pytest.FixtureRequest, tmp_path: Path, ceph_clusters: Callable[[str], CephCluster]
) -> Iterator[Store]:
    """A store without images: a directory, or a namespace of a cluster."""
    with new_store(request.param, tmp_path, ceph_clusters) as made:
        yield made


@pytest.fixture
def daemon(tmp_path: Path, store: Store) -> Iterator[Daemon]:
    """A store, mounted."""
    with mounted(tmp_path, store) as running:
        yield running
