"""Buffers for large data that are used again once nobody looks at them any more.

Large data is not copied out of the buffer that it was received or decrypted into: whoever gets it holds a memoryview,
as long as they like. A buffer whose last view is gone is free again, pages and all, which for 4 MiB reads is worth a
third of their cost (a new buffer is 1000 page faults).
"""

_UNIT = 256 << 10
_MIN_ROOM = 16 << 10  # to receive into
_MAX_KEPT = 64 << 20  # bytes; beyond that the oldest are left to the garbage collector


class BufferPool:
    """Buffers made so far, in use or not."""

    def __init__(self) -> None:
        self._buffers: list[bytearray] = []
        self._kept = 0

    def take(self, size: int) -> memoryview:
        """A buffer of at least `size` bytes that nobody else looks at."""
        size = -(-size // _UNIT) * _UNIT
        for index, buffer in enumerate(self._buffers):
            if len(buffer) == size and _is_free(buffer):
                self._buffers.append(self._buffers.pop(index))  # the last used is the one that caches know
                return memoryview(buffer)
        buffer = bytearray(size)
        self._buffers.append(buffer)
        self._kept += size
        while self._kept > _MAX_KEPT:
            self._kept -= len(self._buffers.pop(0))
        return memoryview(buffer)


class ReceiveWindow:
    """Where bytes come in: `view[start:end]` has come and is not taken yet, `view[end:]` is room for more."""

    __slots__ = ("_buffers", "end", "is_lent", "start", "view")

    def __init__(self, buffers: BufferPool, first: bytes = b"") -> None:
        self._buffers = buffers
        self.view = buffers.take(max(_UNIT, len(first)))
        self.start, self.end = 0, len(first)
        self.view[: self.end] = first
        self.is_lent = False  # somebody looks at what was taken: it is not written over

    def make_room(self, wanted: int) -> None:
        """Let what begins at `start` grow to `wanted` bytes and more; moves it where it must."""
        if self.start == self.end and not (self.is_lent or len(self.view) > _UNIT):
            self.start = self.end = 0
            return
        needed = max(wanted, _MIN_ROOM)
        if self.start == self.end or len(self.view) - self.start < needed:
            old, length = self.view[self.start : self.end], self.end - self.start
            if self.is_lent or len(self.view) < needed or len(self.view) > max(_UNIT, needed):
                self.view, self.is_lent = self._buffers.take(max(_UNIT, needed)), False
            self.view[:length] = old
            self.start, self.end = 0, length


def _is_free(buffer: bytearray) -> bool:
    """Whether no view of the buffer exists: only then may its size change."""
    try:
        last = buffer.pop()
    except BufferError:
        return False
    buffer.append(last)  # within the memory that is allocated: nothing moves
    return True
