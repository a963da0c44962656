"""Connections to real daemons, in every mode, with good and with bad keys."""

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from ceph_cluster import CephCluster, make_key, selected_releases, start_cluster
from ceph_roots import Unavailable

from rbdfs.ceph.cephx.credentials import Credentials
from rbdfs.ceph.cephx.keys import CryptoKey
from rbdfs.ceph.config import ConnectOptions, Flags, load
from rbdfs.ceph.msgr2.connection import Connection, ConnectionLost, Identity
from rbdfs.ceph.msgr2.login import Mode
from rbdfs.entities import AddrType, EntityAddr, EntityType
from rbdfs.errors import AuthenticationFailed, NotSupported

pytestmark = pytest.mark.cluster

MON_SUBSCRIBE, AUTH, AUTH_REPLY, OSD_MAP = 15, 17, 18, 41
SUBSCRIBE_TO_OSDMAP = struct.pack("<II6sQBI", 1, 6, b"osdmap", 0, 0, 0)


def options_of(cluster: CephCluster, **flags: Any) -> ConnectOptions:
    return load(Flags(conf=str(cluster.conf), **flags), {})


async def open_monitor(options: ConnectOptions, credentials: Credentials, *modes: Mode) -> Connection:
    login = credentials.monitor_login(trio.current_time())
    identity = Identity(with_data_crc=options.with_data_crc)
    return await Connection.open(options.monitors[0], EntityType.MON, login, identity, modes=modes or tuple(Mode))


def osd_address(cluster: CephCluster) -> EntityAddr:
    addresses = cluster.json("osd", "dump")["osds"][0]["public_addrs"]["addrvec"]
    addr = next(addr for addr in addresses if addr["type"] == "v2")
    host, _, port = addr["addr"].rpartition(":")
    return EntityAddr(AddrType.MSGR2, host.strip("[]"), int(port), addr["nonce"])


async def first_message(connection: Connection, wanted: int) -> bytes:
    """Receive until a message of that type comes, then close."""
    found: list[bytes] = []

    def on_message(kind: int, tid: int, version: int, front: memoryview, data: object) -> None:
        if kind == wanted:
            found.append(bytes(front))
            connection.close()

    with trio.fail_after(20), pytest.raises(ConnectionLost):
        await connection.run(on_message)
    return found[0]


@pytest.mark.parametrize("mode", list(Mode))
async def test_monitor_sends_the_map_in_every_mode(ceph_cluster: CephCluster, mode: Mode) -> None:
    options = options_of(ceph_cluster)
    connection = await open_monitor(options, options.credentials(), mode)
    assert connection.mode == mode
    connection.send(MON_SUBSCRIBE, SUBSCRIBE_TO_OSDMAP, version=3)
    assert options.fsid is not None
    assert (await first_message(connection, OSD_MAP)).startswith(options.fsid.bytes)


@pytest.mark.parametrize("mode", list(Mode))
async def test_osd_takes_the_ticket_in_every_mode(ceph_cluster: CephCluster, mode: Mode) -> None:
    options = options_of(ceph_cluster)
    credentials = options.credentials()
    (await open_monitor(options, credentials)).close()
    login = credentials.service_login(EntityType.OSD, trio.current_time())
    connection = await Connection.open(osd_address(ceph_cluster), EntityType.OSD, login, Identity(), modes=[mode])
    assert connection.mode == mode
    assert connection.peer_id == 0
    assert connection.global_id == credentials.global_id
    connection.close()


async def test_first_mode_that_both_allow_is_taken(ceph_cluster: CephCluster) -> None:
    options = options_of(ceph_cluster)
    for modes in ((Mode.CRC, Mode.SECURE), (Mode.SECURE, Mode.CRC)):
        connection = await open_monitor(options, options.credentials(), *modes)
        assert connection.mode == modes[0]
        connection.close()


async def test_global_id_is_kept_and_tickets_renewed(ceph_cluster: CephCluster) -> None:
    options = options_of(ceph_cluster)
    credentials = options.credentials()
    (await open_monitor(options, credentials)).close()
    global_id = credentials.global_id
    connection = await open_monitor(options, credentials)
    assert connection.global_id == credentials.global_id == global_id
    before = credentials.ticket_blob(EntityType.OSD)
    connection.send(AUTH, credentials.renewal_request(trio.current_time()))
    credentials.on_renewal_reply(await first_message(connection, AUTH_REPLY), trio.current_time())
    assert credentials.ticket_blob(EntityType.OSD) != before
    login = credentials.service_login(EntityType.OSD, trio.current_time())
    (await Connection.open(osd_address(ceph_cluster), EntityType.OSD, login, Identity())).close()


async def test_wrong_key_and_unknown_client_are_refused_with_a_hint(ceph_cluster: CephCluster, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    key = make_key(ceph_cluster.key_type)
    keyring.write_text(f"[client.admin]\nkey = {key}\n[client.nobody]\nkey = {key}\n")
    for name in ("client.admin", "client.nobody"):
        options = options_of(ceph_cluster, name=name, keyring=str(keyring))
        with pytest.raises(AuthenticationFailed, match=rf"{name}: .*no such client, a wrong key.*{keyring}"):
            await open_monitor(options, options.credentials())


async def test_key_of_the_other_type_is_refused_by_type(ceph_cluster: CephCluster, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text(f"[client.admin]\nkey = {make_key(3 - ceph_cluster.key_type)}\n")
    options = options_of(ceph_cluster, keyring=str(keyring))
    assert options.key is not None
    with pytest.raises(AuthenticationFailed, match=rf"type {options.key.type.name}\b"):
        await open_monitor(options, options.credentials())


async def test_client_without_a_key_is_told_where_it_was_looked_for(ceph_cluster: CephCluster) -> None:
    options = options_of(ceph_cluster, keyring="/nonexistent/keyring")
    with pytest.raises(AuthenticationFailed, match="no keyring at /nonexistent/keyring"):
        await open_monitor(options, options.credentials())


async def test_tampered_ticket_is_refused(ceph_cluster: CephCluster) -> None:
    options = options_of(ceph_cluster)
    credentials = options.credentials()
    (await open_monitor(options, credentials)).close()
    credentials.ticket_blob(EntityType.OSD).blob = bytes(len(credentials.ticket_blob(EntityType.OSD).blob))
    login = credentials.service_login(EntityType.OSD, trio.current_time())
    with pytest.raises(AuthenticationFailed, match="osd refuses our ticket"):
        await Connection.open(osd_address(ceph_cluster), EntityType.OSD, login, Identity())


async def test_daemon_at_that_address_with_another_nonce_is_another_daemon(ceph_cluster: CephCluster) -> None:
    options = options_of(ceph_cluster)
    credentials = options.credentials()
    (await open_monitor(options, credentials)).close()
    stale = replace(osd_address(ceph_cluster), nonce=1)
    login = credentials.service_login(EntityType.OSD, trio.current_time())
    with pytest.raises(ConnectionLost):
        await Connection.open(stale, EntityType.OSD, login, Identity())


# clusters of other kinds: monitors alone


def start_monitors(release: str, **options: Any) -> Iterator[CephCluster]:
    try:
        with start_cluster(release, osds=0, **options) as cluster:
            yield cluster
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module", params=selected_releases())
def open_cluster(request: pytest.FixtureRequest) -> Iterator[CephCluster]:
    """Without authentication."""
    yield from start_monitors(request.param, auth="none")


@pytest.fixture(scope="module", params=selected_releases())
def secure_cluster(request: pytest.FixtureRequest) -> Iterator[CephCluster]:
    """Secure connections only, and tickets that are good for a minute and ten."""
    modes = "".join(f"ms {peer} mode = secure\n" for peer in ("mon client", "client", "mon service", "service"))
    conf = f"{modes}auth mon ticket ttl = 600\nauth service ticket ttl = 60\n"
    yield from start_monitors(request.param, conf=conf)


@pytest.fixture(scope="module", params=selected_releases())
def ipv6_cluster(request: pytest.FixtureRequest) -> Iterator[CephCluster]:
    """On ::1 only."""
    yield from start_monitors(request.param, host="::1")


@pytest.fixture(scope="module", params=selected_releases())
def unsummed_cluster(request: pytest.FixtureRequest) -> Iterator[CephCluster]:
    """Without checksums of segments, as far as the release knows how (16.2 does not)."""
    yield from start_monitors(request.param, conf="ms crc data = false\n")


@pytest.mark.parametrize("mode", list(Mode))
async def test_cluster_without_checksums(unsummed_cluster: CephCluster, mode: Mode) -> None:
    options = options_of(unsummed_cluster)
    connection = await open_monitor(options, options.credentials(), mode)
    connection.send(MON_SUBSCRIBE, SUBSCRIBE_TO_OSDMAP, version=3)
    assert await first_message(connection, OSD_MAP)


async def test_cluster_on_ipv6(ipv6_cluster: CephCluster) -> None:
    options = options_of(ipv6_cluster)
    assert options.monitors[0].host == "::1"
    connection = await open_monitor(options, options.credentials())
    assert connection.my_addr.host == "::1"
    connection.send(MON_SUBSCRIBE, SUBSCRIBE_TO_OSDMAP, version=3)
    assert await first_message(connection, OSD_MAP)


async def test_cluster_without_authentication(open_cluster: CephCluster) -> None:
    for credentials in (
        Credentials("client.admin", None, os.urandom),
        Credentials("client.admin", CryptoKey.from_text(make_key(1)), os.urandom),  # tries cephx first
    ):
        connection = await open_monitor(options_of(open_cluster), credentials)
        connection.send(MON_SUBSCRIBE, SUBSCRIBE_TO_OSDMAP, version=3)
        assert await first_message(connection, OSD_MAP)
        assert credentials.global_id


async def test_cluster_that_wants_secure_says_so(secure_cluster: CephCluster) -> None:
    options = options_of(secure_cluster)
    assert options.modes == options.monitor_modes == (Mode.SECURE,)
    (await open_monitor(options, options.credentials(), Mode.CRC, Mode.SECURE)).close()
    with pytest.raises(NotSupported, match="allows connection modes secure, we offer crc"):
        await open_monitor(options, options.credentials(), Mode.CRC)


async def test_short_tickets_are_renewed_in_time(secure_cluster: CephCluster) -> None:
    options = options_of(secure_cluster)
    credentials = options.credentials()
    now = trio.current_time()
    connection = await open_monitor(options, credentials)
    assert credentials.renew_at - now == pytest.approx(45, abs=1)
    assert credentials.login_again_at - now == pytest.approx(450, abs=1)
    connection.send(AUTH, credentials.renewal_request(now + 45))
    credentials.on_renewal_reply(await first_message(connection, AUTH_REPLY), now + 45)
    assert credentials.renew_at - now == pytest.approx(90, abs=1)
