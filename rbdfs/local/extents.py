"""From bytes of an object to bytes of the data file, and back: where a state's bytes lie, and reading them."""

from array import array
from typing import NamedTuple

from rbdfs.local.blocks import BLOCK_BITS, BLOCK_SIZE
from rbdfs.local.media import Media
from rbdfs.local.objects import State


class Piece(NamedTuple):
    """Bytes of a state that lie in one piece in the data file."""

    offset: int  # in the object
    length: int
    file_offset: int


def pieces(blocks: "array[int]", offset: int, end: int) -> list[Piece]:
    """The mapped parts of a range, neighbours in the file joined."""
    found: list[Piece] = []
    if offset >= end:
        return found
    index, last = offset >> BLOCK_BITS, min((end - 1) >> BLOCK_BITS, len(blocks) - 1)
    while index <= last:
        block = blocks[index]
        if not block:
            index += 1
            continue
        first = index
        index += 1
        while index <= last and blocks[index] == block + index - first:
            index += 1
        start = max(offset, first << BLOCK_BITS)
        stop = min(end, index << BLOCK_BITS)
        found.append(Piece(start, stop - start, (block - first << BLOCK_BITS) + start))
    return found


def blocks_of(plan: list[Piece]) -> list[int]:
    """The blocks that pieces lie in."""
    return [
        block
        for piece in plan
        for block in range(piece.file_offset >> BLOCK_BITS, (piece.file_offset + piece.length - 1 >> BLOCK_BITS) + 1)
    ]


def clip(size: int, offset: int, length: int) -> int:
    """The end of a read, given the object's size; length 0 means up to the end."""
    return min(size, offset + length) if length else size


def read(media: Media, state: State, offset: int, end: int) -> bytearray:
    """Bytes of a state, waiting for the disk where it must; `end` is not past its size."""
    data = bytearray(max(end - offset, 0))
    with memoryview(data) as view:
        for piece in pieces(state.blocks, offset, end):
            start = piece.offset - offset
            media.read(piece.file_offset, view[start : start + piece.length])
    return data


def mapped(plan: list[Piece]) -> list[tuple[int, int]]:
    """Pieces as extents (offset, length) of the object, neighbours joined."""
    extents: list[tuple[int, int]] = []
    for offset, length, _ in plan:
        if extents and sum(extents[-1]) == offset:
            extents[-1] = (extents[-1][0], extents[-1][1] + length)
        else:
            extents.append((offset, length))
    return extents


def shared(older: State, newer: State) -> tuple[tuple[int, int], ...]:
    """The extents (offset, length) that two states have in common, block by block, up to the smaller size."""
    end = min(older.size, newer.size)
    extents: list[tuple[int, int]] = []
    for index in range((end + BLOCK_SIZE - 1) >> BLOCK_BITS):
        if block_at(older.blocks, index) == block_at(newer.blocks, index):
            start, stop = index << BLOCK_BITS, min(end, index + 1 << BLOCK_BITS)
            if extents and sum(extents[-1]) == start:
                extents[-1] = (extents[-1][0], stop - extents[-1][0])
            else:
                extents.append((start, stop - start))
    return tuple(extents)


def block_at(blocks: "array[int]", index: int) -> int:
    """The block at an index, 0 for a hole."""
    return blocks[index] if index < len(blocks) else 0
