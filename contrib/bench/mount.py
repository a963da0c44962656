#!/usr/bin/env python3
"""The mount beside QEMU's FUSE export of a raw file in the same directory, and beside that raw file itself.

    contrib/bench/mount.py [--directory DIR] [--size MIB] [--seconds S] [--rounds N] [--only WORD] [--json FILE]

One image, one raw file behind qemu-storage-daemon and one raw file are filled with the same number of random bytes.
Each workload runs on all three in turn, `--rounds` times, each of them first in turn. Medians are shown: of operations
or MiB per second, of the ratios to QEMU's export and to the raw file in the same round (a machine is not as fast in one
minute as in the next), and of the CPU time that each server took per operation. `wanted` is the ratio that the project
promises itself; the exit code is 1 where one is missed.

The last line is about snapshots: random writes, each to another block, after a snapshot beside the same before it.
"""

import argparse
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
RBDFS = [sys.executable, "-m", "rbdfs"]
TICKS = os.sysconf("SC_CLK_TCK")

Job = dict[str, Any]  # of fio's report


@dataclass(frozen=True)
class Workload:
    """A fio job."""

    name: str
    arguments: tuple[str, ...]
    counts_bytes: bool
    wanted: float  # at least this often QEMU's export


def _random(rw: str, depth: int) -> tuple[str, ...]:
    return (f"--rw={rw}", "--bs=4k", "--direct=1", "--ioengine=libaio", f"--iodepth={depth}")


def _direct(rw: str) -> tuple[str, ...]:
    return (f"--rw={rw}", "--bs=1m", "--direct=1", "--ioengine=libaio", "--iodepth=4")


def _buffered(rw: str) -> tuple[str, ...]:
    return (f"--rw={rw}", "--bs=1m", "--ioengine=psync", "--end_fsync=1", "--invalidate=1")


WORKLOADS = (
    Workload("4 KiB random read, depth 16", _random("randread", 16), False, 1.5),
    Workload("4 KiB random write, depth 16", _random("randwrite", 16), False, 1.2),
    Workload("4 KiB random read, depth 1", _random("randread", 1), False, 0),
    Workload("4 KiB random write, depth 1", _random("randwrite", 1), False, 0),
    Workload("1 MiB sequential read, direct", _direct("read"), True, 1.0),
    Workload("1 MiB sequential write, direct", _direct("write"), True, 1.0),
    Workload("1 MiB sequential read, buffered", _buffered("read"), True, 1.0),
    Workload("1 MiB sequential write, buffered", _buffered("write"), True, 1.0),
)
AFTER_SNAPSHOT_WANTED = 0.5


@dataclass
class Target:
    """A file to measure, and the process that serves it."""

    name: str
    path: Path
    pid: int = 0
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)  # microseconds of the server per operation

    def cpu_seconds(self) -> float:
        """CPU time that the server has used so far."""
        if not self.pid:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def measure(target: Target, workload: Workload, seconds: float, size: int) -> None:
    """Run one workload once on one target."""
    before = target.cpu_seconds()
    job = fio(target.path, size, *workload.arguments, "--time_based", f"--runtime={seconds}")
    record(target, workload.name, job, workload.counts_bytes, target.cpu_seconds() - before)


def record(target: Target, name: str, job: Job, counts_bytes: bool, cpu: float) -> None:
    """Keep what fio says of a job."""
    side = job["read"] if job["read"]["total_ios"] else job["write"]
    target.rates.setdefault(name, []).append(side["bw_bytes"] / (1 << 20) if counts_bytes else side["iops"])
    target.cpu.setdefault(name, []).append(cpu * 1e6 / side["total_ios"])


def fio(path: Path, size: int, *arguments: str) -> Job:
    """Run fio on one file; its report."""
    command = ["fio", "--name=bench", f"--filename={path}", f"--size={size}m", "--output-format=json", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    job: Job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return job


def fill(path: Path, size: int) -> None:
    """Random bytes, all of it allocated."""
    block = os.urandom(1 << 20)
    with path.open("r+b" if path.exists() else "wb") as file:
        for number in range(size):
            file.write(number.to_bytes(8, "little") + block[8:])
        os.fsync(file.fileno())


def start_rbdfs(directory: Path) -> Target:
    """Mount a new store."""
    mountpoint = directory / "mnt"
    subprocess.run(
        [*RBDFS, "mount", "--store", str(directory / "store"), "bench", str(mountpoint)], check=True, cwd=ROOT
    )
    states = subprocess.run(
        [*RBDFS, "status", "--format", "json"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    pid = next(state["pid"] for state in json.loads(states.stdout) if state["mountpoint"] == str(mountpoint))
    return Target("rbdfs", mountpoint / "image", pid)


def start_qemu(directory: Path) -> tuple[Target, subprocess.Popen[bytes]]:
    """Export a raw file by qemu-storage-daemon."""
    raw, export = directory / "qemu.raw", directory / "qemu"
    raw.touch()
    export.touch()
    daemon = subprocess.Popen(
        [
            "qemu-storage-daemon",
            *("--blockdev", f"driver=file,node-name=file,filename={raw},discard=unmap"),
            *("--blockdev", "driver=raw,node-name=raw,file=file,discard=unmap"),
            *("--export", f"type=fuse,id=export,node-name=raw,mountpoint={export},writable=on,growable=on"),
        ]
    )
    deadline = time.monotonic() + 20
    while os.stat(export).st_dev == directory.stat().st_dev:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("qemu-storage-daemon did not export the file")
        time.sleep(0.05)
    return Target("qemu", export, daemon.pid), daemon


def touch_memory(mebibytes: int) -> None:
    """Use memory and give it back: a virtual machine's pages that were not used of late are the host's to find."""
    with mmap.mmap(-1, mebibytes << 20) as memory:
        for at in range(0, len(memory), mmap.PAGESIZE):
            memory[at] = 1


def after_snapshots(target: Target, size: int, rounds: int) -> tuple[list[float], list[float]]:
    """Random writes per second before and just after each of some snapshots: as many, of the same blocks, each time."""
    writes = (*_random("randwrite", 16), f"--io_size={size // 16}m", "--randseed=7")
    before, after = [], []
    for round_ in range(rounds):
        os.sync()
        touch_memory(4 * size)
        before.append(fio(target.path, size, *writes)["write"]["iops"])
        (target.path.parent / ".snap" / target.path.name / f"bench{round_}").touch()
        touch_memory(4 * size)
        after.append(fio(target.path, size, *writes)["write"]["iops"])
    return before, after


def ratio(rates: list[float], others: list[float]) -> float:
    """How often the others' rate, in the median of the rounds."""
    return statistics.median(rate / other for rate, other in zip(rates, others, strict=True))


def table(targets: list[Target], workloads: list[Workload]) -> tuple[str, bool]:
    """The results, and whether every wanted ratio was reached."""
    heading = ("", "raw file", "qemu", "rbdfs", "/ qemu", "wanted", "/ raw", "CPU us/op qemu", "rbdfs")
    rows: list[tuple[str, ...]] = [heading]
    is_good = True
    for workload in workloads:
        raw, qemu, rbdfs = (target.rates[workload.name] for target in targets)
        _, qemu_cpu, rbdfs_cpu = (statistics.median(target.cpu[workload.name]) for target in targets)
        to_qemu, to_raw = ratio(rbdfs, qemu), ratio(rbdfs, raw)
        is_reached = to_qemu >= workload.wanted
        is_good &= is_reached
        unit = " MiB/s" if workload.counts_bytes else " /s"
        rows.append(
            (
                workload.name,
                *(f"{statistics.median(rates):,.0f}{unit}" for rates in (raw, qemu, rbdfs)),
                f"{to_qemu:.2f}" + ("" if is_reached else " !"),
                f"{workload.wanted:.1f}" if workload.wanted else "",
                f"{to_raw:.2f}",
                f"{qemu_cpu:.1f}",
                f"{rbdfs_cpu:.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if not index else cell.rjust(width) for index, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join(lines), is_good


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where all three files live (default: a temporary directory)")
    parser.add_argument("--size", type=int, default=512, metavar="MIB")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="WORD", help="only workloads with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all single results, too")
    arguments = parser.parse_args()
    for tool in ("fio", "qemu-storage-daemon"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not installed (packages fio, qemu-utils)")
    directory = Path(tempfile.mkdtemp(prefix="rbdfs-bench-", dir=arguments.directory))
    workloads = [workload for workload in WORKLOADS if arguments.only in workload.name]
    daemon = None
    try:
        rbdfs = start_rbdfs(directory)
        qemu, daemon = start_qemu(directory)
        targets = [Target("raw", directory / "raw"), qemu, rbdfs]
        touch_memory(4 * arguments.size)
        for target in targets:
            fill(target.path, arguments.size)
        for round_ in range(arguments.rounds):
            for workload in workloads:
                for step in range(len(targets)):
                    target = targets[(round_ + step) % len(targets)]
                    os.sync()  # not its work to write back what another one left
                    measure(target, workload, arguments.seconds, arguments.size)
        lines, is_good = table(targets, workloads)
        print(lines)
        before, after = after_snapshots(rbdfs, arguments.size, arguments.rounds)
        kept = ratio(after, before)
        is_good &= kept >= AFTER_SNAPSHOT_WANTED
        print(
            f"\n4 KiB random writes, depth 16, to rbdfs: {statistics.median(before):,.0f} /s before a snapshot,"
            f" {statistics.median(after):,.0f} /s just after it, {kept:.2f} of that (wanted {AFTER_SNAPSHOT_WANTED})"
        )
        if arguments.json:
            results: dict[str, object] = {target.name: {"rates": target.rates, "cpu": target.cpu} for target in targets}
            results["snapshot"] = {"before": before, "after": after}
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        if daemon is not None:
            daemon.terminate()
            daemon.wait()
        subprocess.run([*RBDFS, "umount", str(directory / "mnt")], check=False, cwd=ROOT)
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
