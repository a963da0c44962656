"""Which store a command means."""

from pathlib import Path

import pytest

from rbdfs import connect
from rbdfs.connect import CephAddress, ConnectFlags, StoreAddress, choose_address, default_store
from rbdfs.errors import InvalidArgument

HOME = {"HOME": "/home/me"}


def test_store_flag_wins_over_everything_in_the_environment() -> None:
    environ = {**HOME, "RBDFS_STORE": "/other", "CEPH_CONF": "/c"}
    assert choose_address(ConnectFlags(store="/s"), environ) == (StoreAddress(Path("/s")), "")


def test_ceph_flag_wins_over_the_store_of_the_environment() -> None:
    flags = ConnectFlags(conf="/c")
    assert choose_address(flags, {**HOME, "RBDFS_STORE": "/other"}) == (CephAddress(flags), "")


def test_store_of_the_environment_wins_over_its_ceph_conf() -> None:
    environ = {**HOME, "RBDFS_STORE": "/s", "CEPH_CONF": "/c"}
    assert choose_address(ConnectFlags(), environ) == (StoreAddress(Path("/s")), "")


def test_ceph_conf_of_the_environment_means_a_cluster() -> None:
    assert choose_address(ConnectFlags(), {**HOME, "CEPH_CONF": "/c"}) == (CephAddress(ConnectFlags()), "")


@pytest.mark.parametrize(
    "arguments", ["-c /c", "-m 10.0.0.1", "--mon-host=10.0.0.1", "--cluster x", "--id me", "-n client.me"]
)
def test_arguments_of_the_environment_that_name_a_cluster_mean_it(arguments: str) -> None:
    address, _ = choose_address(ConnectFlags(), {**HOME, "CEPH_ARGS": arguments})
    assert address == CephAddress(ConnectFlags())


def test_arguments_of_the_environment_that_name_none_mean_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(connect, "SYSTEM_CONF_DIRECTORY", tmp_path)
    address, _ = choose_address(ConnectFlags(), {**HOME, "CEPH_ARGS": "--debug-ms 1 --no-mon-config"})
    assert isinstance(address, StoreAddress)


def test_ceph_conf_at_a_usual_place_means_a_cluster(tmp_path: Path) -> None:
    (tmp_path / ".ceph").mkdir()
    (tmp_path / ".ceph/ceph.conf").touch()
    assert isinstance(choose_address(ConnectFlags(), {"HOME": str(tmp_path)})[0], CephAddress)


def test_otherwise_the_store_in_the_users_data_directory_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "SYSTEM_CONF_DIRECTORY", tmp_path)
    environ = {"HOME": str(tmp_path), "XDG_DATA_HOME": "/data"}
    address, explanation = choose_address(ConnectFlags(), environ)
    assert address == StoreAddress(Path("/data/rbdfs"))
    assert "/data/rbdfs" in explanation


def test_two_stores_at_once_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="--store and --mon-host"):
        choose_address(ConnectFlags(store="/s", mon_host="h"), {})


def test_default_store_follows_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert default_store(HOME) == Path("/home/me/.local/share/rbdfs")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_store(HOME) == Path("/var/lib/rbdfs")
