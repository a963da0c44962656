"""A cluster under verified load while it suffers: what contrib/faults and tests/faults/test_faults.py run."""

import argparse
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial

import trio
from ceph_cluster import CephCluster, start_cluster
from cluster.client import connect_to
from faults.faults import CONF, FAULTS, Faults
from faults.image import Written
from faults.load import Blocks, Counter, Records, Task, Watched

from rbdfs.ceph.msgr2.login import Mode

PROGRESS_SECONDS = 60.0  # in which every task must get on after a fault: to notice, to peer, to answer


@dataclass
class Report:
    """What happened."""

    faults: dict[str, list[float]] = field(default_factory=dict)  # name -> slowest op of each time, in seconds
    ops: int = 0
    watches_lost: int = 0
    notifies_unanswered: int = 0
    seconds: float = 0.0


@asynccontextmanager
async def loaded(cluster: CephCluster, seed: int, **options: object) -> AsyncIterator[list[Task]]:
    """Tasks of all kinds, on a replicated and on an erasure-coded pool; verified at the end of the block."""
    async with connect_to(cluster, **options) as client, connect_to(cluster) as other:
        namespace = f"seed {seed}"
        replicated, erasure = [await client.open_pool(pool, namespace) for pool in ("data", "erasure")]
        tasks = [
            Blocks(replicated, "blocks", seed),
            Blocks(erasure, "blocks", seed + 1),
            Records(replicated, "records"),
            Records(erasure, "records"),
            Counter(replicated, "counter"),
            Counter(erasure, "counter", has_omap=False),
            Watched(replicated, "watched"),
            Written(await client.open_pool("data"), f"image{seed}", seed, cluster),
        ]
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task.run)
            await all_progress(tasks)
            yield tasks
            for task in tasks:
                task.stopping = True
        for task in tasks:
            await task.verify()
        for task in tasks:  # and what another client finds
            if not isinstance(task, Watched):
                task.ioctx = await other.open_pool(task.ioctx.pool_id, task.ioctx.namespace)
                await task.verify()


async def all_progress(tasks: Iterable[Task], ops: int = 4) -> None:
    """Wait until every task has got on, and fail where one does not."""
    with trio.fail_after(PROGRESS_SECONDS):
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task.progress, ops)


async def suffer(cluster: CephCluster, tasks: list[Task], names: Iterable[str], report: Report, seed: int) -> None:
    """One fault after the other; after each, every task must get on, and the cluster recover."""
    faults = Faults(cluster, seed)
    for name in names:
        for task in tasks:
            task.slowest = 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(FAULTS[name], faults)
        await all_progress(tasks)
        await faults.recovered()
        slowest = max(task.slowest for task in tasks if not isinstance(task, Watched))
        report.faults.setdefault(name, []).append(round(slowest, 1))
        report.ops = sum(task.done for task in tasks)
        watched = [task for task in tasks if isinstance(task, Watched)]
        report.watches_lost = sum(task.lost for task in watched)
        report.notifies_unanswered = sum(task.unanswered for task in watched)


@contextmanager
def start(release: str) -> Iterator[CephCluster]:
    """The cluster of the suite: three monitors, three OSDs, a pool of two replicas and an erasure-coded one."""
    with start_cluster(release, osds=3, monitors=3, replicas=2, conf=CONF) as cluster:
        for flag in ("noscrub", "nodeep-scrub"):
            cluster.ceph("osd", "set", flag)
        cluster.ceph("osd", "erasure-code-profile", "set", "k2m1", "k=2", "m=1", "crush-failure-domain=osd")
        cluster.ceph("osd", "pool", "create", "erasure", "8", "8", "erasure", "k2m1")
        cluster.ceph("osd", "pool", "set", "erasure", "allow_ec_overwrites", "true")
        cluster.wait_until_clean()
        yield cluster


async def run(cluster: CephCluster, names: Iterable[str], seed: int, **options: object) -> Report:
    """All of it on a running cluster."""
    report, began = Report(), time.monotonic()
    async with loaded(cluster, seed, **options) as tasks:
        await suffer(cluster, tasks, names, report, seed)
    report.seconds = round(time.monotonic() - began)
    return report


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(prog="contrib/faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15, help="how long (default: %(default)s)")
    parser.add_argument("--release", default="16.2", help="of Ceph: 16.2, 18.2 or 20.2 (default: %(default)s)")
    parser.add_argument("--secure", action="store_true", help="encrypt the connections to OSDs")
    parser.add_argument("--only", nargs="+", choices=FAULTS, help="these faults and no others")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="for the same faults again")
    arguments = parser.parse_args()
    rng, end = random.Random(arguments.seed), time.monotonic() + 60 * arguments.minutes

    def names() -> Iterator[str]:
        while time.monotonic() < end:
            some = arguments.only or list(FAULTS)
            rng.shuffle(some)
            for name in some:
                if time.monotonic() < end:
                    print(time.strftime("%H:%M:%S"), name, file=sys.stderr, flush=True)
                    yield name

    print(f"seed {arguments.seed}", file=sys.stderr)
    modes = (Mode.SECURE,) if arguments.secure else (Mode.CRC,)
    with start(arguments.release) as cluster:
        report = trio.run(partial(run, cluster, names(), arguments.seed, modes=modes))
    print(json.dumps(asdict(report), indent=1))


if __name__ == "__main__":
    main()
