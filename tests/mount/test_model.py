"""Random operations on a mounted image, beside a bytearray: every byte, size and snapshot agrees at every step."""

import ctypes
import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mount.daemon import Daemon

pytestmark = pytest.mark.mount

LIMIT = 9 << 20  # a little more than two objects
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
libc = ctypes.CDLL(None, use_errno=True)

offsets = st.one_of(st.integers(0, LIMIT), st.sampled_from([0, 1, 4095, 65536, (4 << 20) - 1, 4 << 20, (8 << 20) + 7]))
lengths = st.one_of(st.integers(1, 200_000), st.sampled_from([1, 511, 4096, 65536, 65537, 1 << 20, 5 << 20]))


class ImageMachine(RuleBasedStateMachine):
    """An image through the kernel, and what it must hold."""

    root: Path
    count = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).count += 1
        self.path = self.root / f"disk-{self.count}"
        self.snaps = self.root / ".snap" / self.path.name
        self.model = bytearray()
        self.snapshots: dict[str, bytes] = {}
        self.fd = -1
        self.writes = 0

    @initialize(size=st.integers(0, LIMIT))
    def create(self, size: int) -> None:
        self.fd = os.open(self.path, os.O_CREAT | os.O_RDWR)
        os.ftruncate(self.fd, size)
        self.model = bytearray(size)

    def teardown(self) -> None:
        if self.fd >= 0:
            assert self.path.read_bytes() == self.model
            for name, content in self.snapshots.items():
                assert (self.snaps / name).read_bytes() == content
            os.close(self.fd)
            for name in self.snapshots:
                (self.snaps / name).unlink()
            self.path.unlink()

    def set_range(self, offset: int, data: bytes) -> None:
        self.model.extend(bytes(max(0, offset - len(self.model))))
        self.model[offset : offset + len(data)] = data

    @rule(offset=offsets, length=lengths)
    def write(self, offset: int, length: int) -> None:
        self.writes += 1
        data = (self.writes.to_bytes(3, "little") + b"\1") * (length // 4 + 1)
        data = data[: min(length, LIMIT + 4096 - offset)]
        if data:
            os.pwrite(self.fd, data, offset)
            self.set_range(offset, data)

    @rule(offset=offsets, length=lengths)
    def read(self, offset: int, length: int) -> None:
        assert os.pread(self.fd, length, offset) == self.model[offset : offset + length]

    @rule(offset=offsets, length=lengths)
    def read_directly(self, offset: int, length: int) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.pread(fd, length, offset) == self.model[offset : offset + length]
        finally:
            os.close(fd)

    @rule(size=offsets)
    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    @rule(offset=offsets, length=lengths, mode=st.sampled_from([PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE | KEEP_SIZE]))
    def zero(self, offset: int, length: int, mode: int) -> None:
        assert libc.fallocate(self.fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) == 0
        end = min(offset + length, len(self.model))
        if end > offset:
            self.model[offset:end] = bytes(end - offset)

    @rule(source=offsets, offset=offsets, length=lengths)
    def copy(self, source: int, offset: int, length: int) -> None:
        length = min(length, LIMIT + 4096 - offset)
        if length <= 0 or (source < offset + length and offset < source + length):
            return  # the kernel refuses to copy onto itself
        data = bytes(self.model[source : source + length])
        if not data:
            return
        copied = os.copy_file_range(self.fd, self.fd, len(data), source, offset)
        assert copied == len(data)
        self.set_range(offset, data)

    @rule()
    def look_for_holes(self) -> None:
        at = 0
        while at < len(self.model):
            try:
                data = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:
                data = len(self.model)
            assert not any(self.model[at:data])
            at = os.lseek(self.fd, data, os.SEEK_HOLE) if data < len(self.model) else data

    @precondition(lambda self: len(self.snapshots) < 4)
    @rule()
    def snapshot(self) -> None:
        name = f"s{self.writes}-{len(self.snapshots)}"
        if name not in self.snapshots:
            (self.snaps / name).touch()
            self.snapshots[name] = bytes(self.model)

    @precondition(lambda self: self.snapshots)
    @rule(number=st.integers(0, 3))
    def remove_snapshot(self, number: int) -> None:
        name = list(self.snapshots)[number % len(self.snapshots)]
        assert (self.snaps / name).read_bytes() == self.snapshots.pop(name)
        (self.snaps / name).unlink()

    @rule()
    def reopen(self) -> None:
        os.fsync(self.fd)
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    @invariant()
    def size_agrees(self) -> None:
        if self.fd >= 0:
            assert os.fstat(self.fd).st_size == len(self.model)


@pytest.fixture
def machine(daemon: Daemon) -> type[ImageMachine]:
    """The machine, on a mount of its own."""
    return type("MountedImageMachine", (ImageMachine,), {"root": daemon.path})


def test_image_is_what_a_bytearray_is(machine: type[ImageMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("RBDFS_MODEL_EXAMPLES", "25")),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
