"""Joining the completions of the ops that one read or write of an image is."""

from collections.abc import Callable

from rbdfs.errors import NotFound, RbdfsError
from rbdfs.image.striping import ObjectExtent
from rbdfs.rados.api import Outcome
from rbdfs.rados.ops import Buffer, Reply

OnRead = Callable[[list[Buffer] | RbdfsError], None]
OnWrite = Callable[[RbdfsError | None], None]

_ZEROES = memoryview(bytes(4 << 20))


def zeroes(length: int) -> Buffer:
    """A buffer of zeroes, without making one."""
    return _ZEROES[:length] if length <= len(_ZEROES) else bytes(length)


def finish_read(length: int, on_complete: OnRead, outcome: Outcome) -> None:
    """Complete a read of `length` bytes of one object: what the object lacks is zero."""
    if isinstance(outcome, Reply):
        data = outcome.outputs[0]
        missing = length - len(data)
        if not missing:
            on_complete([data])
        elif missing == length:
            on_complete([zeroes(length)])
        else:
            on_complete([data, zeroes(missing)])
    elif isinstance(outcome, NotFound):
        on_complete([zeroes(length)])
    else:
        on_complete(outcome)


class ReadJoin:
    """A read of several object extents; completes with the first error, or with the buffers in image order."""

    __slots__ = ("_error", "_extents", "_length", "_on_complete", "_pieces", "_remaining")

    def __init__(self, extents: list[ObjectExtent], length: int, on_complete: OnRead) -> None:
        self._extents = extents
        self._length = length
        self._on_complete = on_complete
        self._remaining = len(extents)
        self._pieces: list[tuple[int, Buffer]] = []
        self._error: RbdfsError | None = None

    def finish(self, index: int, outcome: Outcome) -> None:
        """The op on one extent is complete."""
        extent = self._extents[index]
        if isinstance(outcome, Reply):
            self._place(extent, outcome.outputs[0])
        elif isinstance(outcome, NotFound):
            self._place(extent, b"")
        else:
            self._error = self._error or outcome
        self._remaining -= 1
        if not self._remaining:
            if self._error is not None:
                self._on_complete(self._error)
            else:
                self._pieces.sort(key=lambda piece: piece[0])
                self._on_complete([buffer for _, buffer in self._pieces])

    def _place(self, extent: ObjectExtent, data: Buffer) -> None:
        view = memoryview(data)
        position = 0
        for start, size in extent.parts:
            piece = view[position : position + size]
            position += size
            if len(piece):
                self._pieces.append((start, piece))
            if len(piece) < size:
                self._pieces.append((start + len(piece), zeroes(size - len(piece))))


class WriteJoin:
    """A write of several object extents; completes with the first error."""

    __slots__ = ("_error", "_on_complete", "_remaining")

    def __init__(self, count: int, on_complete: "Callable[[WriteJoin, RbdfsError | None], None]") -> None:
        self._remaining = count
        self._on_complete = on_complete
        self._error: RbdfsError | None = None

    def finish(self, outcome: Outcome) -> None:
        """The op on one extent is complete."""
        if not isinstance(outcome, Reply):
            self._error = self._error or outcome
        self._remaining -= 1
        if not self._remaining:
            self._on_complete(self, self._error)
