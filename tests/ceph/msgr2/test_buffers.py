"""Receive buffers: used again only when nobody looks, and nothing that came is ever lost."""

import random

from rbdfs.ceph.msgr2.buffers import BufferPool, ReceiveWindow

UNIT = 256 << 10


def test_buffer_is_used_again_once_its_last_view_is_gone() -> None:
    pool = BufferPool()
    first = pool.take(100)
    first[:3] = b"abc"
    part = first[1:2]
    del first
    other = pool.take(100)
    other[:3] = b"xyz"
    assert part == b"b"
    del part
    assert pool.take(100)[:3] == b"abc"


def test_buffers_of_another_size_are_not_given() -> None:
    pool = BufferPool()
    pool.take(UNIT)
    assert len(pool.take(UNIT + 1)) == 2 * UNIT


def test_pool_keeps_no_more_than_it_may() -> None:
    pool = BufferPool()
    views = [pool.take(16 << 20) for _ in range(8)]
    for number, view in enumerate(views):
        view[:1] = bytes([number])
    assert [view[0] for view in views] == list(range(8))
    del view, views
    assert pool.take(16 << 20)[0] == 4  # the oldest were let go


def test_window_keeps_what_came_and_what_was_lent() -> None:
    """Frames of random sizes come in random pieces; some are looked at until the end."""
    dice = random.Random(3)
    sizes = [dice.randrange(1, 700_000) for _ in range(60)]
    stream = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    window = ReceiveWindow(BufferPool())
    kept: list[memoryview] = []
    received = 0
    for number, size in enumerate(sizes):
        while window.end - window.start < size:
            window.make_room(size if window.start != window.end else 0)
            room = len(window.view) - window.end
            piece = stream[received : received + dice.randrange(1, room + 1)]
            window.view[window.end : window.end + len(piece)] = piece
            window.end += len(piece)
            received += len(piece)
        frame = window.view[window.start : window.start + size]
        window.start += size
        assert frame == bytes([number]) * size
        if dice.random() < 0.4:
            window.is_lent = True
            kept.append(frame)
    assert all(frame == bytes([frame[0]]) * sizes[frame[0]] for frame in kept)


def test_window_is_small_again_after_a_large_frame() -> None:
    window = ReceiveWindow(BufferPool())
    window.end = 100
    window.make_room(4 << 20)
    assert len(window.view) >= 4 << 20
    window.start = window.end = 4 << 20
    window.is_lent = True
    window.make_room(0)
    assert len(window.view) == UNIT
