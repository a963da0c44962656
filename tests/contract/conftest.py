"""Runs every test of the contract on every store.

A test asks for `ioctx`, a handle on an empty namespace, and where it needs another client of the same store and
namespace, for `peer`. A new store is one more fixture that gives a `Store`, named in `STORES`.
"""

from pathlib import Path
from typing import Any

import pytest
from ceph_cluster import selected_releases
from contract.stores import Store, ceph, local

from rbdfs.ceph.msgr2.login import Mode

STORES = [
    "local_store",
    "attached_store",
    *(
        pytest.param((release, mode), id=f"ceph-{release}-{mode.name.lower()}", marks=pytest.mark.cluster)
        for release in selected_releases()
        for mode in Mode
    ),
]
CLIENTS = ["ioctx", "peer"]


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    """The local engine, in this process."""
    return local(tmp_path / "store", attached=False)


@pytest.fixture
def attached_store(tmp_path: Path) -> Store:
    """The local engine, over its socket."""
    return local(tmp_path / "store", attached=True)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    """The store that a test runs on."""
    if isinstance(request.param, str):
        return request.getfixturevalue(request.param)
    release, mode = request.param
    return ceph(request.getfixturevalue("ceph_clusters")(release), mode)


@pytest.fixture
def ioctx(store: Store) -> None:
    """Stands for the first client; made where the test runs."""


@pytest.fixture
def peer(store: Store) -> None:
    """Stands for the second client; made where the test runs."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Open the clients that a test asks for around it."""
    store = pyfuncitem.funcargs.get("store")
    test = pyfuncitem.obj
    wanted = [name for name in CLIENTS if name in pyfuncitem.funcargs]
    if isinstance(store, Store) and wanted:

        async def run(**arguments: Any) -> None:
            async with store.clients(len(wanted)) as handles:
                await test(**arguments | dict(zip(wanted, handles, strict=True)))

        pyfuncitem.obj = run
