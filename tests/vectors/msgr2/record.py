"""Record what monitors and OSDs of a release answer to our handshakes: `python tests/vectors/msgr2/record.py 16.2 ...`.

Randomness is replaced by a fixed sequence, so that our side of a handshake can be played again byte for byte. Each file
has the keys of a cluster that is gone.
"""

import hashlib
import itertools
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent.parent.parent)]

from ceph_cluster import CephCluster, start_cluster  # noqa: E402

from rbdfs.ceph.cephx.credentials import Credentials  # noqa: E402
from rbdfs.ceph.config.keyring import read_key  # noqa: E402
from rbdfs.ceph.msgr2.handshake import Handshake  # noqa: E402
from rbdfs.ceph.msgr2.login import Login, Mode  # noqa: E402
from rbdfs.entities import EntityAddr, EntityType  # noqa: E402

NONCE = 0x1234567


def fixed_random(seed: str) -> Callable[[int], bytes]:
    """Bytes that are the same every time."""
    numbers = itertools.count()
    return lambda length: hashlib.shake_128(f"{seed} {next(numbers)}".encode()).digest(length)


def shake_hands(addr: EntityAddr, peer: EntityType, login: Login, mode: Mode) -> list[dict[str, str]]:
    """One handshake; what was received and sent, step by step."""
    handshake = Handshake(addr, peer, login, nonce=NONCE, modes=[mode])
    steps = [{"received": "", "sent": handshake.start().hex()}]
    with socket.create_connection((addr.host, addr.port), timeout=10) as sock:
        sock.sendall(bytes.fromhex(steps[0]["sent"]))
        while handshake.established is None:
            received = sock.recv(65536)
            sent = handshake.receive(received)
            steps.append({"received": received.hex(), "sent": sent.hex()})
            sock.sendall(sent)
    return steps


def record(cluster: CephCluster) -> dict[str, Any]:
    """Logins to a monitor (twice: anew, and with the old ticket) and to an OSD, in both modes."""
    key = read_key(cluster.keyring, "client.admin")
    osd = next(
        addr for addr in cluster.json("osd", "dump")["osds"][0]["public_addrs"]["addrvec"] if addr["type"] == "v2"
    )
    mon = cluster.json("mon", "dump")["mons"][0]["public_addrs"]["addrvec"][0]["addr"]
    mon_addr = EntityAddr(2, "127.0.0.1", int(mon.split(":")[1]))
    osd_addr = EntityAddr(2, "127.0.0.1", int(osd["addr"].split(":")[1]), osd["nonce"])
    result: dict[str, Any] = {"release": cluster.release, "key": key.to_text()}
    for mode in Mode:
        credentials = Credentials("client.admin", key, fixed_random(mode.name))
        result[mode.name] = {
            "mon": {"port": mon_addr.port, "nonce": 0, "steps": []},
            "again": {"port": mon_addr.port, "nonce": 0, "steps": []},
            "osd": {"port": osd_addr.port, "nonce": osd_addr.nonce, "steps": []},
        }
        for name in ("mon", "again"):
            steps = shake_hands(mon_addr, EntityType.MON, credentials.monitor_login(0.0), mode)
            result[mode.name][name]["steps"] = steps
        login = credentials.service_login(EntityType.OSD, 0.0)
        result[mode.name]["osd"]["steps"] = shake_hands(osd_addr, EntityType.OSD, login, mode)
    return result


if __name__ == "__main__":
    for release in sys.argv[1:]:
        with start_cluster(release) as cluster:
            (HERE / f"handshakes-{release}.json").write_text(json.dumps(record(cluster), indent=1) + "\n")
