"""A real cluster that changes over between key types, with clients of both (20.2 and later)."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from ceph_cluster import CephCluster, selected_releases, start_cluster
from ceph_roots import Unavailable

from rbdfs.ceph.cephx.credentials import Credentials
from rbdfs.ceph.cephx.keys import KeyType
from rbdfs.ceph.config import Flags, load
from rbdfs.ceph.config.keyring import read_key
from rbdfs.ceph.msgr2.connection import Connection, ConnectionLost, Identity
from rbdfs.entities import AddrType, EntityAddr, EntityType
from rbdfs.errors import AuthenticationFailed

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

AUTH, AUTH_REPLY = 17, 18


@pytest.fixture(scope="module")
def mixed_cluster() -> Iterator[CephCluster]:
    """One that allows keys of both types."""
    release = next((release for release in selected_releases() if float(release) >= 20), None)
    if release is None:
        pytest.skip("keys of type 2 need Ceph 20.2 (RBDFS_TEST_CEPH)")
    try:
        with start_cluster(release) as cluster:
            cluster.ceph("mon", "set", "auth_allowed_ciphers", "aes,aes256k")
            yield cluster
    except Unavailable as reason:
        pytest.skip(str(reason))


def make_client(cluster: CephCluster, name: str, key_type: str) -> Path:
    """A client with a key of that type; the monitors take some seconds to allow it."""
    deadline = time.monotonic() + 30
    while True:
        command = ["ceph", "auth", "get-or-create", name, "mon", "allow *", "osd", "allow *", "--key-type", key_type]
        result = cluster.run(*command, check=time.monotonic() > deadline)
        if result.returncode == 0:
            path = cluster.directory / f"keyring.{name}"
            path.write_text(result.stdout)
            return path
        time.sleep(0.5)


class Client:
    """Connects to the monitor and to the OSD."""

    def __init__(self, cluster: CephCluster, name: str, keyring: Path) -> None:
        options = load(Flags(conf=str(cluster.conf), name=name, keyring=str(keyring)), {})
        self.credentials: Credentials = options.credentials()
        self.identity = Identity()
        self.monitor = options.monitors[0]
        addresses = cluster.json("osd", "dump")["osds"][0]["public_addrs"]["addrvec"]
        addr = next(addr for addr in addresses if addr["type"] == "v2")
        self.osd = EntityAddr(AddrType.MSGR2, "127.0.0.1", int(addr["addr"].split(":")[1]), addr["nonce"])

    @property
    def session_types(self) -> tuple[KeyType, KeyType]:
        """Of the AUTH and the OSD ticket's session keys."""
        auth, osd = (self.credentials.session_key(service) for service in (EntityType.AUTH, EntityType.OSD))
        return auth.type, osd.type

    async def log_in(self) -> Connection:
        login = self.credentials.monitor_login(trio.current_time())
        return await Connection.open(self.monitor, EntityType.MON, login, self.identity)

    async def use_osd(self) -> None:
        login = self.credentials.service_login(EntityType.OSD, trio.current_time())
        (await Connection.open(self.osd, EntityType.OSD, login, self.identity)).close()

    async def renew(self, connection: Connection) -> None:
        """Over a live session, which it ends."""

        def on_message(kind: int, tid: int, version: int, front: memoryview, data: object) -> None:
            if kind == AUTH_REPLY:
                self.credentials.on_renewal_reply(front, trio.current_time())
                connection.close()

        connection.send(AUTH, self.credentials.renewal_request(trio.current_time()))
        with trio.fail_after(20), pytest.raises(ConnectionLost, match="closed"):
            await connection.run(on_message)


async def test_cluster_changes_over_under_its_clients(mixed_cluster: CephCluster) -> None:
    new = Client(mixed_cluster, "client.admin", mixed_cluster.keyring)
    old = Client(mixed_cluster, "client.old", make_client(mixed_cluster, "client.old", "aes"))

    # services with secrets of type 2: each client has session keys of its own type
    session = await new.log_in()
    (await old.log_in()).close()
    await new.use_osd()
    await old.use_osd()
    assert new.session_types == (KeyType.AES256KRB5, KeyType.AES256KRB5)
    assert old.session_types == (KeyType.AES, KeyType.AES)

    # services go back to type 1: old tickets are refused, a renewal over the live session gives good ones
    mixed_cluster.ceph("mon", "set", "auth_service_cipher", "aes")
    mixed_cluster.ceph("auth", "wipe-rotating-service-keys")
    refused = False
    for _ in range(60):
        try:
            await new.use_osd()
        except AuthenticationFailed as err:
            refused = "refuses our ticket" in str(err)
            break
        await trio.sleep(0.25)
    assert refused
    await new.renew(session)
    await new.use_osd()
    assert new.session_types == (KeyType.AES256KRB5, KeyType.AES)


async def test_client_gets_a_new_key_and_stays_the_same_client(mixed_cluster: CephCluster) -> None:
    keyring = make_client(mixed_cluster, "client.turn", "aes")
    client = Client(mixed_cluster, "client.turn", keyring)
    session = await client.log_in()
    global_id = client.credentials.global_id

    keyring.write_text(mixed_cluster.ceph("auth", "rotate", "client.turn", "--key-type", "aes256k"))
    await client.renew(session)
    await client.use_osd()
    with pytest.raises(AuthenticationFailed, match="type AES"):
        await client.log_in()

    client.credentials.key = read_key(keyring, "client.turn")
    (await client.log_in()).close()
    assert client.credentials.global_id == global_id
    assert client.session_types[0] == KeyType.AES256KRB5
    assert client.credentials.login_again_at < math.inf
