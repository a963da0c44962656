#!/usr/bin/env python3
"""The Ceph client beside `rbd bench` and `rados bench`, on the same cluster, the same objects, in the same run.

    contrib/bench/rados.py [--conf FILE] [--pool POOL] [--seconds S] [--rounds N] [--only WORD] [--json FILE]

Without --conf a throwaway cluster of one OSD is started. An image of 256 MiB is filled; 4 KiB requests then go to
random places of its data objects, from `rbd bench` (without its cache, which would answer for the cluster) and from us.
Streams of 64 KiB and 4 MiB are compared with `rados bench`, and do what it does: new objects are written, each with the
hint that it will only be read, which spares the OSD fine checksums; to measure reading, each is then read once. Each
workload runs `--rounds` times, the programs in turn. Medians are shown: of the rates, of the ratios within one round (a
machine is not as fast in one minute as in the next), and of the CPU time that the client took per operation. What the
project promises itself and misses is said at the end; the exit code is 1 then.
"""

import argparse
import itertools
import json
import math
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import trio  # noqa: E402

from rbdfs.ceph.cluster import connect  # noqa: E402
from rbdfs.ceph.config import ConnectOptions, Flags, load  # noqa: E402
from rbdfs.ceph.ioctx import CephIoCtx  # noqa: E402
from rbdfs.ceph.msgr2.login import Mode  # noqa: E402
from rbdfs.rados.api import Outcome  # noqa: E402
from rbdfs.rados.ops import (  # noqa: E402
    AllocHint,
    Buffer,
    Read,
    ReadOp,
    Remove,
    Reply,
    SetAllocHint,
    Write,
    WriteOp,
)

NextOp = Callable[[], tuple[str, ReadOp | WriteOp]]  # an object, and what to do with it

IMAGE = "rbdfs-bench"
IMAGE_MIB = 256
OBJECT_SIZE = 4 << 20
KIB, MIB = 1 << 10, 1 << 20
STREAM_HINT = (  # that of `rados bench`
    AllocHint.SEQUENTIAL_WRITE | AllocHint.SEQUENTIAL_READ | AllocHint.APPEND_ONLY | AllocHint.IMMUTABLE
)
WHO = ("ours", "secure", "theirs")
MAX_READ_CPU = 25.0  # microseconds of a 4 KiB read at depth 16
MAX_SECURE_LOSS = 1.3


class Sample(NamedTuple):
    """One run of a workload: operations per second, and microseconds of client CPU per operation."""

    rate: float
    cpu: float


@dataclass(frozen=True)
class Workload:
    """What is done, and who else does it."""

    name: str
    size: int
    depth: int
    is_write: bool
    peer: str  # rbd or rados

    @property
    def label(self) -> str:
        """As the table has it."""
        return f"{self.name}, depth {self.depth}"


WORKLOADS = [
    Workload(f"4 KiB random {kind}", 4 * KIB, depth, kind == "write", "rbd")
    for depth in (1, 16, 64)
    for kind in ("read", "write")
] + [
    Workload(f"{name} sequential {kind}", size, 16, kind == "write", "rados")
    for name, size in (("64 KiB", 64 * KIB), ("4 MiB", 4 * MIB))
    for kind in ("write", "read")
]


@dataclass
class Result:
    """All samples of one workload, by program."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def median(self, who: str) -> Sample | None:
        """The median of rate and CPU."""
        samples = self.samples.get(who)
        if not samples:
            return None
        return Sample(statistics.median(s.rate for s in samples), statistics.median(s.cpu for s in samples))

    def ratio(self, who: str, other: str) -> float:
        """How often the other's rate, in the median of the rounds."""
        pairs = zip(self.samples[who], self.samples[other], strict=True)
        return statistics.median(sample.rate / other_sample.rate for sample, other_sample in pairs)


# Ours.


def cpu_seconds(who: int) -> float:
    """CPU time of this process or of its children."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


class Runner:
    """Keeps a number of ops in flight for some time, each submitted from the completion of another."""

    def __init__(self, ioctx: CephIoCtx, next_op: NextOp, seconds: float, most: int = 1 << 62) -> None:
        self.ioctx = ioctx
        self.next_op = next_op
        self.seconds = seconds
        self.left = most
        self.done = 0
        self.in_flight = 0
        self.failure: Outcome | None = None
        self.finished = trio.Event()
        self.end = 0.0

    async def run(self, depth: int) -> Sample:
        """Run, and measure."""
        cpu, start = cpu_seconds(resource.RUSAGE_SELF), time.perf_counter()
        self.end = start + self.seconds
        for _ in range(min(depth, self.left)):
            self.submit()
        await self.finished.wait()
        elapsed, cpu = time.perf_counter() - start, cpu_seconds(resource.RUSAGE_SELF) - cpu
        if self.failure is not None:
            raise SystemExit(f"rados.py: {self.failure}")
        return Sample(self.done / elapsed, cpu / self.done * 1e6)

    def submit(self) -> None:
        """One more."""
        self.in_flight += 1
        self.left -= 1
        name, op = self.next_op()
        self.ioctx.submit(name, op, self.on_complete)

    def on_complete(self, outcome: Outcome) -> None:
        """One less; and one more until all is done or the time is over."""
        self.in_flight -= 1
        self.done += 1
        if type(outcome) is not Reply:
            self.failure = outcome
        elif self.left and time.perf_counter() < self.end:
            self.submit()
            return
        if not self.in_flight:
            self.finished.set()


async def run_ours(options: ConnectOptions, pool: str, prefix: str, workload: Workload, seconds: float) -> Sample:
    """One run of a workload with our client."""
    async with connect(options) as cluster:
        ioctx = await cluster.open_pool(pool)
        data = b"z" * workload.size  # one byte throughout, as theirs: some disks are faster with it
        if workload.peer == "rbd":
            return await Runner(ioctx, random_ops(workload, prefix, data), seconds).run(workload.depth)
        return await run_stream(ioctx, workload, data, seconds)


async def run_stream(ioctx: CephIoCtx, workload: Workload, data: Buffer, seconds: float) -> Sample:
    """Write new objects, and where reading is measured read each of them once; then remove them."""
    hint = SetAllocHint(workload.size, workload.size, STREAM_HINT)
    writing = Runner(ioctx, stream(workload, lambda: WriteOp([hint, Write(0, data)])), seconds)
    sample = await writing.run(workload.depth)
    if not workload.is_write:
        reading = Runner(ioctx, stream(workload, lambda: ReadOp([Read(0, workload.size)])), seconds, writing.done)
        sample = await reading.run(workload.depth)
    removing = Runner(ioctx, stream(workload, lambda: WriteOp([Remove()])), math.inf, writing.done)
    await removing.run(workload.depth)
    return sample


def stream(workload: Workload, make_op: Callable[[], ReadOp | WriteOp]) -> NextOp:
    """One object after the other."""
    numbers = itertools.count()
    return lambda: (f"rbdfs-bench.{workload.size}.{next(numbers)}", make_op())


def random_ops(workload: Workload, prefix: str, data: Buffer) -> NextOp:
    """Requests to random places of the image's data objects."""
    names = [f"{prefix}.{number:016x}" for number in range(IMAGE_MIB * MIB // OBJECT_SIZE)]
    places = range(0, OBJECT_SIZE, workload.size)
    choose = random.Random(1).choice

    def read() -> tuple[str, ReadOp | WriteOp]:
        return choose(names), ReadOp([Read(choose(places), workload.size)])

    def write() -> tuple[str, ReadOp | WriteOp]:
        return choose(names), WriteOp([Write(choose(places), data)])

    return write if workload.is_write else read


# Theirs.


def run_tool(conf: Path, *command: str) -> tuple[str, float]:
    """What a tool printed, and its CPU time."""
    before = cpu_seconds(resource.RUSAGE_CHILDREN)
    environ = os.environ | {"CEPH_CONF": str(conf), "CEPH_ARGS": ""}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout, cpu_seconds(resource.RUSAGE_CHILDREN) - before


def run_rbd_bench(conf: Path, pool: str, workload: Workload, seconds: float, expected_rate: float) -> Sample:
    """One run of `rbd bench`, of about as many seconds."""
    total = max(1000, int(expected_rate * seconds)) * workload.size
    kind = "write" if workload.is_write else "read"
    output, cpu = run_tool(
        conf,
        *("rbd", "bench", f"{pool}/{IMAGE}", "--io-type", kind, "--io-size", str(workload.size)),
        *("--io-threads", str(workload.depth), "--io-pattern", "rand", "--io-total", str(total)),
        "--rbd_cache=false",
    )
    found = re.search(r"ops/sec: ([\d.]+)", output)
    assert found, output
    return Sample(float(found[1]), cpu / (total / workload.size) * 1e6)


def run_rados_bench(conf: Path, pool: str, workload: Workload, seconds: float) -> Sample:
    """One run of `rados bench`, which can only read what it has written before."""
    command = ["rados", "-p", pool, "bench", f"{seconds:.0f}"]
    common = ["-t", str(workload.depth), "--run-name", f"bench{workload.size}"]
    write = [*command, "write", "-b", str(workload.size), *common, "--no-cleanup"]
    output, cpu = run_tool(conf, *write)
    if not workload.is_write:
        output, cpu = run_tool(conf, *command, "seq", *common)
    run_tool(conf, "rados", "-p", pool, "cleanup", "--run-name", f"bench{workload.size}")
    found = re.search(r"Total (?:writes|reads) made:\s+(\d+)", output)
    rate = re.search(r"Average IOPS:\s+(\d+)", output)
    bandwidth = re.search(r"Bandwidth \(MB/sec\):\s+([\d.]+)", output)
    assert found, output
    assert rate, output
    assert bandwidth, output
    return Sample(float(bandwidth[1]) * MIB / workload.size, cpu / int(found[1]) * 1e6)


# The table.


def row(workload: Workload, result: Result) -> list[str]:
    """One line."""
    ours, secure, theirs = (result.median(who) for who in ("ours", "secure", "theirs"))
    assert ours
    assert theirs

    def rate(sample: Sample | None) -> str:
        if sample is None:
            return ""
        if workload.size < MIB:
            return f"{sample.rate:,.0f}/s, {sample.cpu:.0f} µs"
        return f"{sample.rate * workload.size / MIB:,.0f} MiB/s, {sample.cpu / workload.size * MIB:.0f} µs/MiB"

    return [
        workload.label,
        rate(ours),
        rate(secure),
        f"{rate(theirs)} (`{workload.peer} bench`)",
        f"**{result.ratio('ours', 'theirs'):.2f}**",
        "" if secure is None else f"{result.ratio('ours', 'secure'):.2f}",
    ]


def misses(workload: Workload, result: Result) -> Iterator[str]:
    """Which promises this workload breaks."""
    if workload.depth != 16 or workload.size == 64 * KIB:
        return
    to_theirs = result.ratio("ours", "theirs")
    if to_theirs < 1:
        yield f"{workload.label}: {to_theirs:.2f} times {workload.peer} bench, wanted 1"
    if workload.size == 4 * KIB:
        ours = result.median("ours")
        assert ours
        if not workload.is_write and ours.cpu > MAX_READ_CPU:
            yield f"{workload.label}: {ours.cpu:.1f} µs of CPU, wanted {MAX_READ_CPU:g}"
        to_secure = result.ratio("ours", "secure")
        if to_secure > MAX_SECURE_LOSS:
            yield f"{workload.label}: CRC is {to_secure:.2f} times secure mode, wanted {MAX_SECURE_LOSS}"


@contextmanager
def cluster_of(arguments: argparse.Namespace) -> Iterator[Path]:
    """The ceph.conf of the cluster that is measured."""
    if arguments.conf:
        yield Path(arguments.conf)
        return
    from ceph_cluster import start_cluster

    with start_cluster() as cluster:
        yield cluster.conf


def measure(conf: Path, arguments: argparse.Namespace) -> dict[Workload, Result]:
    """Everything."""
    pool, seconds = arguments.pool, arguments.seconds
    run_tool(conf, "rbd", "create", f"{pool}/{IMAGE}", "--size", f"{IMAGE_MIB}M")
    try:
        fill = ["--io-type", "write", "--io-size", "4M", "--io-total", f"{IMAGE_MIB}M", "--io-pattern", "seq"]
        run_tool(conf, "rbd", "bench", f"{pool}/{IMAGE}", *fill)
        info = json.loads(run_tool(conf, "rbd", "info", f"{pool}/{IMAGE}", "--format", "json")[0])
        options = {
            "ours": load(Flags(conf=str(conf)), {}),
            "secure": load(Flags(conf=str(conf)), {"CEPH_ARGS": "--ms-client-mode secure"}),
        }
        assert options["secure"].modes == (Mode.SECURE,)
        results = {workload: Result() for workload in WORKLOADS if arguments.only in workload.label}
        for round_ in range(arguments.rounds):
            for workload, result in results.items():
                for step in range(len(WHO)):  # each goes first as often as the others: it finds the quietest disk
                    who = WHO[(round_ + step) % len(WHO)]
                    if who != "theirs":
                        prefix = info["block_name_prefix"]
                        sample = trio.run(run_ours, options[who], pool, prefix, workload, seconds)
                    elif workload.peer == "rbd":
                        rate = result.samples["ours"][0].rate
                        sample = run_rbd_bench(conf, pool, workload, seconds, rate)
                    else:
                        sample = run_rados_bench(conf, pool, workload, seconds)
                    result.samples.setdefault(who, []).append(sample)
                print(f"round {round_ + 1}: {workload.label}", file=sys.stderr)
        return results
    finally:
        run_tool(conf, "rbd", "rm", "--no-progress", f"{pool}/{IMAGE}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--conf", help="the ceph.conf of a cluster")
    parser.add_argument("--pool", default="data")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="workloads whose name has this word")
    parser.add_argument("--json", type=Path, help="write all samples to a file")
    arguments = parser.parse_args()
    with cluster_of(arguments) as conf:
        results = measure(conf, arguments)
    print("| workload | rbdfs (CRC) | rbdfs (secure) | Ceph's own | ours / theirs | CRC / secure |")
    print("|---|---|---|---|---|---|")
    for workload, result in results.items():
        print("| " + " | ".join(row(workload, result)) + " |")
    if arguments.json:
        samples = {workload.label: result.samples for workload, result in results.items()}
        arguments.json.write_text(json.dumps(samples, indent=1))
    missed = [miss for workload, result in results.items() for miss in misses(workload, result)]
    print("\n".join(missed), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
