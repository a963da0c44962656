"""Real Ceph clusters that live as long as a test session, on loopback, in a directory of their own.

    def test_something(ceph_cluster: CephCluster) -> None:       one OSD; `ceph_cluster_3`: three OSDs, two replicas
        ceph_cluster.rbd("create", "data/vm", "--size", "1G")     that release's own tools; a failure raises
        ceph_cluster.json("osd", "dump")["epoch"]
        rbdfs.ceph.config.load(ceph_cluster.conf) ...

RBDFS_TEST_CEPH names the releases that tests run against ("16.2 18.2 20.2"; by default what is installed here, else
16.2); a test runs once for each. A release that cannot run skips its tests, and the reason stands in the summary.
Tests that need a cluster of another kind start one: `with start_cluster(...) as cluster`.

Daemons are children of the test process, stay in the foreground, and are killed with it however it ends.
"""

import base64
import contextlib
import functools
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ceph_roots import Unavailable, command_prefix

POOL = "data"
DEFAULT_RELEASE = "16.2"
_PLACE = Path("/tmp")  # the one place that roots see, too
_PREFIX = "rbdfs-ceph-"
_START_TIMEOUT = 60.0
_COMMAND_TIMEOUT = 120.0

_CONF = """\
[global]
fsid = {fsid}
mon host = {mon_host}
auth cluster required = {auth}
auth service required = {auth}
auth client required = {auth}
keyring = {directory}/keyring
run dir = {directory}
log file = {directory}/$name.log
admin socket = {directory}/$name.asok
public addr = {host}
ms bind ipv4 = {binds_ipv4}
ms bind ipv6 = {binds_ipv6}
osd pool default size = {replicas}
osd pool default min size = 1
osd pool default pg num = 16
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd class update on start = false
mon allow pool delete = true
mon allow pool size one = true
mon data avail warn = 2
mon data avail crit = 1
mon osd nearfull ratio = .90
mon osd backfillfull ratio = .92
mon osd full ratio = .95
mon osd min down reporters = 1
auth allow insecure global id reclaim = false
{extra}
[mon]
mon data = {directory}/mon.$id
mon cluster log file = {directory}/cluster.log
paxos propose interval = .1
paxos min wait = .01
[mgr]
mgr data = {directory}/mgr.$id
mgr initial modules = iostat
[osd]
osd data = {directory}/osd.$id
osd objectstore = bluestore
bluestore block size = 10737418240
bluestore fsck quick fix on mount = false
osd memory target = 939524096
osd recovery sleep hdd = 0
osd recovery sleep ssd = 0
osd recovery sleep hybrid = 0
osd snap trim sleep hdd = 0
osd snap trim sleep ssd = 0
osd snap trim sleep hybrid = 0
osd max trimming pgs = 8
"""


@dataclass
class CephCluster:
    """A running cluster; `conf` and `keyring` (client.admin) are what a client needs."""

    release: str
    directory: Path
    osds: int
    prefix: tuple[str, ...]
    key_type: int
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        """The cluster's ceph.conf."""
        return self.directory / "ceph.conf"

    @property
    def keyring(self) -> Path:
        """A keyring with client.admin's key, and the daemons'."""
        return self.directory / "keyring"

    @property
    def fsid(self) -> str:
        """The cluster's id."""
        return next(line.split()[2] for line in self.conf.read_text().splitlines() if line.startswith("fsid"))

    # tools of this release

    def run(self, *command: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a tool of this release against the cluster; paths under /tmp are the same for it."""
        result = subprocess.run(
            [*self.prefix, *command],
            input=input,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT,
            check=False,
            env=os.environ | {"CEPH_CONF": str(self.conf), "CEPH_ARGS": ""},
        )
        if check and result.returncode:
            raise AssertionError(f"{' '.join(command)}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def ceph(self, *arguments: str) -> str:
        """`ceph ...`: what it printed."""
        return self.run("ceph", *arguments).stdout

    def json(self, *arguments: str) -> Any:
        """`ceph ... --format json`, decoded."""
        return json.loads(self.run("ceph", *arguments, "--format", "json").stdout)

    def rbd(self, *arguments: str) -> str:
        """`rbd ...`: what it printed."""
        return self.run("rbd", *arguments).stdout

    def check_object_map(self, spec: str) -> None:
        """Whether librbd finds the map of an image or a snapshot right: `rbd` tells by a flag, not by its exit code."""
        flags = json.loads(self.rbd("info", "--format", "json", spec))["flags"]
        assert flags == [], f"{spec}: flagged by who wrote it"
        check = self.run("rbd", "object-map", "check", "--no-progress", spec)
        flags = json.loads(self.rbd("info", "--format", "json", spec))["flags"]
        assert flags == [], f"{spec}: {check.stderr}"

    def rados(self, *arguments: str) -> str:
        """`rados ...`: what it printed."""
        return self.run("rados", *arguments).stdout

    def tools(self) -> Path:
        """A directory for PATH with this release's `ceph`, `rbd` and `rados`."""
        directory = self.directory / "bin"
        directory.mkdir(exist_ok=True)
        for tool in ("ceph", "rbd", "rados"):
            path = directory / tool
            path.write_text(f'#!/bin/sh\nexec {shlex.join([*self.prefix, shutil.which(tool) or tool])} "$@"\n')
            path.chmod(0o755)
        return directory

    def add_client(self, name: str, *caps: str) -> Path:
        """Make a client such as `client.ro` with caps ("mon", "allow r", "osd", ...); gives its keyring."""
        path = self.directory / f"keyring.{name}"
        path.write_text(self.ceph("auth", "get-or-create", name, *caps))
        return path

    # daemons, such as `osd.0` or `mon.a`

    def start(self, daemon: str) -> None:
        """Start a daemon that does not run."""
        kind, _, number = daemon.partition(".")
        assert daemon not in self.daemons, f"{daemon} runs"
        log = (self.directory / f"{daemon}.out").open("ab")
        command = [f"ceph-{kind}", "-f", "-i", number, "-c", str(self.conf), "--keyring", str(self.keyring)]
        with log:
            self.daemons[daemon] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the tests, which then end it
                env=os.environ | {"CEPH_ARGS": "", "TMPDIR": "/tmp"},
            )

    def send_signal(self, daemon: str, number: signal.Signals) -> None:
        """Send a signal to a daemon (SIGSTOP, SIGCONT)."""
        self.daemons[daemon].send_signal(number)

    def stop(self, daemon: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a daemon, by default as a crash would."""
        process = self.daemons.pop(daemon)
        process.send_signal(number)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End every daemon, at once."""
        for process in self.daemons.values():
            process.kill()
        for process in self.daemons.values():
            process.wait()
        self.daemons.clear()

    def wait_until_clean(self, seconds: float = 60.0) -> None:
        """Wait until all placement groups are active and clean."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.run("ceph", "pg", "stat", "--format", "json", check=False)
            if state.returncode == 0:
                summary = json.loads(state.stdout)
                summary = summary.get("pg_summary", summary)
                by_state = {entry["name"]: entry["num"] for entry in summary["num_pg_by_state"]}
                if by_state and set(by_state) == {"active+clean"}:
                    return
            if time.monotonic() > deadline:
                raise AssertionError(f"not clean after {seconds:g} s: {state.stdout}{state.stderr}")
            time.sleep(0.3)


def selected_releases() -> list[str]:
    """The releases that tests run against."""
    return os.environ.get("RBDFS_TEST_CEPH", DEFAULT_RELEASE).replace(",", " ").split()


@contextlib.contextmanager
def start_cluster(
    release: str = DEFAULT_RELEASE,
    *,
    osds: int = 1,
    monitors: int = 1,
    replicas: int = 1,
    auth: str = "cephx",
    host: str = "127.0.0.1",
    conf: str = "",
) -> Iterator[CephCluster]:
    """A cluster with a pool `data`; `conf` is more for its [global] section. Raises Unavailable.

    `auth` may be none, `host` an IPv6 address.

    Without OSDs there is neither pool nor manager: monitors only, in three seconds.
    """
    prefix = command_prefix(release)
    _remove_abandoned()
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_PLACE))
    cluster = CephCluster(release, directory, osds, prefix, key_type=2 if float(release) >= 20 else 1)
    try:
        _make_monitors(cluster, monitors, host=host, auth=auth, replicas=replicas, extra=conf)
        if osds:
            cluster.start("mgr.x")
            _make_osds(cluster)
        else:
            cluster.ceph("mon", "stat")
        yield cluster
    finally:
        cluster.stop_all()
        shutil.rmtree(directory, ignore_errors=True)


def make_key(key_type: int) -> str:
    """A new secret, as keyrings have it: type 1 is AES-128, type 2 AES256KRB5."""
    length = {1: 16, 2: 32}[key_type]
    return base64.b64encode(struct.pack("<HIIH", key_type, int(time.time()), 0, length) + os.urandom(length)).decode()


def _make_monitors(cluster: CephCluster, count: int, *, host: str, **settings: Any) -> None:
    fsid, directory = str(uuid.uuid4()), cluster.directory
    names = [chr(ord("a") + index) for index in range(count)]
    ports = _free_ports(2 * count)
    shown = f"[{host}]" if ":" in host else host
    addresses = {
        name: f"[v2:{shown}:{ports[2 * index]},v1:{shown}:{ports[2 * index + 1]}]" for index, name in enumerate(names)
    }
    cluster.conf.write_text(
        _CONF.format(
            fsid=fsid,
            mon_host=",".join(addresses.values()),
            directory=directory,
            host=host,
            binds_ipv4=str(":" not in host).lower(),
            binds_ipv6=str(":" in host).lower(),
            **settings,
        )
    )
    everything = {"mon": "allow *", "osd": "allow *", "mgr": "allow *", "mds": "allow *"}
    daemon = {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"}
    keys = {"client.admin": everything, "mon.": {"mon": "allow *"}, "mgr.x": everything | {"mon": "allow profile mgr"}}
    keys |= {f"osd.{number}": daemon for number in range(cluster.osds)}
    cluster.keyring.write_text(
        "".join(
            f"[{name}]\n\tkey = {make_key(cluster.key_type)}\n"
            + "".join(f'\tcaps {service} = "{cap}"\n' for service, cap in caps.items())
            for name, caps in keys.items()
        )
    )
    monmap = str(directory / "monmap")
    added = [word for name, address in addresses.items() for word in ("--addv", name, address)]
    cluster.run("monmaptool", "--create", "--fsid", fsid, *added, monmap)
    for name in names:
        (directory / f"mon.{name}").mkdir()
        cluster.run("ceph-mon", "--mkfs", "-i", name, "--monmap", monmap, "--keyring", str(cluster.keyring))
        cluster.start(f"mon.{name}")
    (directory / "mgr.x").mkdir()


def _make_osds(cluster: CephCluster) -> None:
    ids = [str(uuid.uuid4()) for _ in range(cluster.osds)]
    commands = [f"osd new {osd_id} {number}" for number, osd_id in enumerate(ids)]
    commands += [f"osd pool create {POOL} 16 16", f"osd pool application enable {POOL} rbd"]
    makers = []
    for number, osd_id in enumerate(ids):
        (cluster.directory / f"osd.{number}").mkdir()
        command = ["ceph-osd", "-i", str(number), "--mkfs", "--osd-uuid", osd_id, "-c", str(cluster.conf)]
        with (cluster.directory / f"osd.{number}.out").open("ab") as log:
            makers.append(subprocess.Popen([*cluster.prefix, *command], stdout=log, stderr=log))
    cluster.run("ceph", input="\n".join(commands) + "\n")  # one start of that slow tool for all of them
    for number, maker in enumerate(makers):
        if maker.wait():
            raise AssertionError((cluster.directory / f"osd.{number}.out").read_text())
        cluster.start(f"osd.{number}")
    deadline = time.monotonic() + _START_TIMEOUT
    while cluster.run("timeout", "5", "rados", "-p", POOL, "stat", "x", check=False).stderr.find("No such file") < 0:
        for daemon, process in cluster.daemons.items():
            if process.poll() is not None:
                raise AssertionError(f"{daemon} ended:\n{(cluster.directory / f'{daemon}.out').read_text()[-2000:]}")
        if time.monotonic() > deadline:
            raise AssertionError(f"no cluster after {_START_TIMEOUT:g} s: {cluster.ceph('-s')}")


def _remove_abandoned() -> None:
    """Remove the directories of test processes that were killed; their daemons went with them."""
    for directory in _PLACE.glob(f"{_PREFIX}*-*"):
        pid = directory.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(directory, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def _cluster_or_skip(release: str, **options: Any) -> Iterator[CephCluster]:
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(start_cluster(release, **options))
        except Unavailable as reason:
            pytest.skip(str(reason))
        yield cluster


@pytest.fixture(scope="session")
def ceph_clusters() -> Iterator[Callable[[str], CephCluster]]:
    """Clusters of one OSD by release, each started when it is first asked for; one that cannot run skips the test."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def get(release: str) -> CephCluster | str:
            try:
                return stack.enter_context(start_cluster(release))
            except Unavailable as reason:
                return str(reason)

        def get_or_skip(release: str) -> CephCluster:
            cluster = get(release)
            return pytest.skip(cluster) if isinstance(cluster, str) else cluster

        yield get_or_skip


@pytest.fixture(scope="session", params=selected_releases())
def ceph_cluster(request: pytest.FixtureRequest, ceph_clusters: Callable[[str], CephCluster]) -> CephCluster:
    """A cluster of one OSD, of each selected release in turn."""
    return ceph_clusters(request.param)


@pytest.fixture(scope="session", params=selected_releases())
def ceph_cluster_3(request: pytest.FixtureRequest) -> Iterator[CephCluster]:
    """A cluster of three OSDs and two replicas, of each selected release in turn."""
    yield from _cluster_or_skip(request.param, osds=3, replicas=2)
