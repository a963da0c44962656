"""Records maps from real clusters, and what Ceph's own tools make of maps, into the archives beside this file.

    python tests/ceph/vectors/record.py [maps-16.2 | maps-18.2 | maps-20.2 | crush | placement ...]

Needs what tests/ceph_cluster.py needs. Nothing in an archive depends on the machine that it was recorded on.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent.parent.parent)]

from ceph import crush_maps, osd_maps  # noqa: E402
from ceph_cluster import CephCluster, start_cluster  # noqa: E402
from ceph_roots import command_prefix  # noqa: E402

CHECKPOINT = 12  # a full map, and its mappings, every so many epochs


def tool(release: str) -> Callable[..., str]:
    """A function that runs a tool of that release and gives what it printed."""
    prefix = command_prefix(release)

    def run(*command: str) -> str:
        result = subprocess.run([*prefix, *command], capture_output=True, text=True, check=False)
        assert result.returncode == 0, (command, result.stdout, result.stderr)
        return result.stdout + result.stderr

    return run


def archive(name: str) -> zipfile.ZipFile:
    """The archive to write, whose bytes depend on its content alone."""
    return zipfile.ZipFile(HERE / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9)


def put(target: zipfile.ZipFile, name: str, data: bytes | str) -> None:
    """Add a member without a date."""
    target.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def record_crush() -> None:
    """Random maps with what crushtool makes of them: Pacific's, and Tentacle's with MSR rules."""
    with archive("crush") as target, tempfile.TemporaryDirectory(dir="/tmp") as directory:
        for release, seeds, msr in (("16.2", range(30), False), ("20.2", range(100, 110), True)):
            run = tool(release)
            for seed in seeds:
                crush, weights = crush_maps.compile_map(run, Path(directory), seed, msr=msr)
                mappings = crush_maps.mappings(run, Path(directory), crush, weights, 4)
                put(target, f"{seed}.crush", crush)
                rows = [[*key, *devices] for key, devices in mappings.devices.items()]
                put(target, f"{seed}.json", json.dumps({"weights": weights, "mappings": rows}, separators=(",", ":")))


def record_placement() -> None:
    """Random OSD maps with what osdmaptool makes of them."""
    with archive("placement") as target, tempfile.TemporaryDirectory(dir="/tmp") as directory:
        for release, seeds, is_new in (("16.2", range(14), False), ("20.2", range(100, 108), True)):
            run = tool(release)
            for seed in seeds:
                crush, _ = crush_maps.compile_map(run, Path(directory), seed, msr=is_new)
                _, data = osd_maps.random_map(seed, crush, upmap_primaries=is_new)
                put_map(target, str(seed), data, run, Path(directory))


def put_map(target: zipfile.ZipFile, name: str, data: bytes, run: Callable[..., str], directory: Path) -> None:
    """Add a full map and its mappings."""
    path = directory / "osdmap"
    path.write_bytes(data)
    put(target, f"{name}.osdmap", data)
    rows = [[*pg, *mapping] for pg, mapping in osd_maps.mappings(run, path).items()]
    put(target, f"{name}.json", json.dumps(rows, separators=(",", ":")))


def record_maps(release: str) -> None:
    """Epochs of a cluster to which much happens: increments, full maps now and then, the monitor map."""
    run = tool(release)
    with start_cluster(release, osds=4, replicas=2) as cluster, archive(f"maps-{release}") as target:
        live_through_much(cluster, float(release))
        last = cluster.json("osd", "dump")["epoch"]
        monmap = cluster.directory / "monmap.now"
        cluster.ceph("mon", "getmap", "-o", str(monmap))
        put(target, "monmap", monmap.read_bytes())
        fulls = [epoch for epoch in range(2, last) if (epoch - 2) % CHECKPOINT == 0] + [last]
        for epoch in fulls:
            path = cluster.directory / f"full.{epoch}"
            cluster.ceph("osd", "getmap", str(epoch), "-o", str(path))
            put_map(target, f"full.{epoch}", path.read_bytes(), run, cluster.directory)
        time.sleep(3)  # for the last epoch to get there
        cluster.stop("osd.0", signal.SIGTERM)
        for epoch in range(3, last + 1):
            path = cluster.directory / f"inc.{epoch}"
            where = ("--data-path", str(cluster.directory / "osd.0"), "--no-mon-config")
            cluster.run(
                "ceph-objectstore-tool", *where, "--op", "get-inc-osdmap", "--epoch", str(epoch), "--file", str(path)
            )
            put(target, f"inc.{epoch}", path.read_bytes())


def live_through_much(cluster: CephCluster, release: float) -> None:
    """Change everything that an increment can carry."""
    lines = """\
        osd set-require-min-compat-client luminous
        osd erasure-code-profile set k2m1 k=2 m=1 crush-failure-domain=osd
        osd pool create ec 8 8 erasure k2m1
        osd pool set ec allow_ec_overwrites true
        osd pool application enable ec rbd
        osd pool create doomed 4 4
        osd pool create plain 3 3
        osd pool rename plain renamed
        osd pool set-quota renamed max_bytes 1000000000
        osd pool set-quota renamed max_objects 1000
        osd pool mksnap renamed one
        osd pool set data pg_num 19
        osd pool set data pgp_num 19
        osd pool set data size 3
        osd primary-affinity 1 0.5
        osd reweight 2 0.7
        osd pg-upmap-items 1.1 0 1 2 3
        osd pg-upmap 1.2 3 2 1
        osd pg-upmap 1.3 1 2 0
        osd rm-pg-upmap 1.3
        osd pg-upmap-items 1.4 1 3
        osd rm-pg-upmap-items 1.4
        osd pg-temp 1.5 3 2
        osd primary-temp 1.6 2
        osd blocklist add 10.1.2.3:0/77 600
        osd blocklist add 10.1.2.4 600
        osd blocklist rm 10.1.2.4
        osd crush set-device-class ssd osd.0 osd.1
        osd crush set-device-class hdd osd.2 osd.3
        osd crush rule create-replicated on-ssd default osd ssd
        osd pool set renamed crush_rule on-ssd
        osd crush weight-set create-compat
        osd crush weight-set reweight-compat osd.1 0.3
        osd crush reweight osd.3 0.5
        osd crush add-bucket elsewhere host
        osd crush move elsewhere root=default
        osd crush set osd.3 0.01 host=elsewhere
        osd set noout
        osd set pause
        osd unset pause
        osd out 3
        osd in 3
        osd down 2
        osd pool rm doomed doomed --yes-i-really-really-mean-it
        osd erasure-code-profile set k3m1 k=3 m=1 crush-failure-domain=osd
        osd erasure-code-profile rm k3m1
        osd pool set data pg_num 12
        osd primary-affinity 1 1
        osd unset noout""".splitlines()
    if release >= 18:
        lines += """\
        osd set-require-min-compat-client reef --yes-i-really-mean-it
        osd pool create primaries 4 4
        osd blocklist range add 10.9.0.0/16 600
        osd blocklist range add 10.8.0.0/16 600
        osd blocklist range rm 10.8.0.0/16""".splitlines()
    if release >= 20:
        lines += """\
        osd set-require-min-compat-client squid --yes-i-really-mean-it
        osd erasure-code-profile set msr k=2 m=1 crush-osds-per-failure-domain=2 crush-num-failure-domains=2
        osd pool create spread 8 8 erasure msr
        osd pool set ec allow_ec_optimizations true""".splitlines()
    for line in lines:
        result = cluster.run("ceph", *line.split(), check=False)
        print(f"{line.strip()}: {result.stderr.strip()}", flush=True)
    if release >= 18:
        pools = {pool["pool_name"]: pool["pool"] for pool in cluster.json("osd", "dump")["pools"]}
        for seed in range(3):
            pg = f"{pools['primaries']}.{seed}"
            cluster.ceph("osd", "pg-upmap-primary", pg, str(cluster.json("pg", "map", pg)["up"][1]))
        cluster.ceph("osd", "rm-pg-upmap-primary", f"{pools['primaries']}.1")
    cluster.stop("osd.1")
    cluster.ceph("osd", "down", "1")
    cluster.run("rados", "-p", "data", "mksnap", "x", check=False)
    cluster.start("osd.1")
    time.sleep(8)


if __name__ == "__main__":
    for what in sys.argv[1:] or ("crush", "placement", "maps-16.2", "maps-18.2", "maps-20.2"):
        kind, _, release = what.partition("-")
        if kind == "maps":
            record_maps(release)
        else:
            {"crush": record_crush, "placement": record_placement}[kind]()
