"""A mount served by a process of its own, as `rbdfs mount -f` makes it, over any store."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mount.stores import Store

ROOT = Path(__file__).parent.parent.parent

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")
_COMPLAINT = re.compile(r"^.*(WARNING|ERROR|CRITICAL|Traceback).*$", re.MULTILINE)


@dataclass
class Daemon:
    """A store, a mountpoint, and the process between them."""

    work: Path
    store: Store
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    has_crashed: bool = False
    expected: list[str] = field(default_factory=list)  # complaints in the log that the test provokes

    @property
    def path(self) -> Path:
        """The mountpoint."""
        return self.work / "mnt"

    @property
    def pid(self) -> int:
        """The process that serves."""
        assert self.process is not None
        return self.process.pid

    @property
    def environment(self) -> dict[str, str]:
        """For commands on this store."""
        kept = {key: value for key, value in os.environ.items() if key not in ("RBDFS_STORE", "CEPH_CONF", "CEPH_ARGS")}
        return {**kept, **self.store.environment, "RBDFS_RUN_DIR": str(self.work / "run")}

    def spec(self, name: str) -> str:
        """An image, or `image@snap`, as commands name it."""
        return f"{self.store.pool}/{name}"

    def cli(self, *arguments: object, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run an rbdfs command on this store."""
        done = subprocess.run(
            [sys.executable, "-m", "rbdfs", *map(str, arguments)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stderr}"
        return done

    def start(self, *options: str) -> None:
        """Mount, and wait until the files can be used."""
        self.starts += 1
        log = (self.work / f"log.{self.starts}").open("wb")
        arguments = [part for option in options for part in ("-o", option)]
        with log:
            self.process = subprocess.Popen(
                [
                    *_ENDS_WITH_US,
                    sys.executable,
                    "-m",
                    "rbdfs",
                    "mount",
                    "-f",
                    *arguments,
                    self.store.pool,
                    str(self.path),
                ],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 90
        while not list((self.work / "run").glob("*.json")) or self.status()["pid"] != self.process.pid:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        text = next((self.work / "run").glob("*.json")).read_text()
        status: dict[str, Any] = json.loads(text)
        return status

    def stop(self) -> None:
        """Unmount, and wait until the process has left."""
        assert self.process is not None
        self.cli("umount", self.path)
        code = self.process.wait(30)
        assert code == 0, f"exit code {code}: {self.log()}"
        self.process = None

    def kill(self) -> None:
        """End the process as a crash would."""
        assert self.process is not None
        self.has_crashed = True
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        self.process = None

    def log(self) -> str:
        """What the last process said."""
        return (self.work / f"log.{self.starts}").read_text()

    def check(self) -> None:
        """The store is sound, and no process complained of what no test expected."""
        self.store.check(has_crashed=self.has_crashed)
        for number in range(1, self.starts + 1):
            for line in _COMPLAINT.finditer((self.work / f"log.{number}").read_text()):
                assert any(re.search(pattern, line[0]) for pattern in self.expected), line[0]

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind, whatever happened."""
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            if self.process.poll() is None:
                self.kill()
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


@contextlib.contextmanager
def mounted(work: Path, store: Store, *options: str) -> Iterator[Daemon]:
    """A store, mounted; afterwards unmounted, and checked."""
    with Daemon(work, store) as daemon:
        daemon.start(*options)
        yield daemon
        if daemon.process is not None:
            daemon.stop()
        daemon.check()


def run(*command: object, timeout: float = 60, check: bool = True) -> str:
    """Run a tool; its output."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def soon(check: Callable[[], bool]) -> None:
    """Wait until something holds, for not longer than a notification may take on a busy machine."""
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def allocated(path: Path) -> int:
    """Bytes that a file occupies."""
    return path.stat().st_blocks * 512
