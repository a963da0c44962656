"""Frames of messenger 2.1, with checksums; `secure` has the encrypted form.

    preamble 32   tag, number of segments, 4 x (length, alignment), flags, crc
    segment 0     control: of a MESSAGE the header, of all other frames all there is; then its crc
    segments 1-3  of a MESSAGE front, middle, data; then an epilogue of 13: late status, crc of each

A frame counts its segments up to the last that is not empty; with one segment there is no epilogue. Checksums are
CRC-32C without the final inversion, begun with 0 for the preamble and with 0xffffffff for all else
(doc/dev/msgr2.rst, `frames_v2.cc`). Every checksum is checked: what comes out of `decode` is what the peer sent. Only
where `ms_crc_data` is false may a segment's be 0, for "not computed": daemons after 16.2 then compute none but the
preamble's, and do not look at ours. We send ours all the same, for 16.2 checks them whatever that option says.

Two codecs have the same three methods, so the connection does not know which it has. Decoding takes a window of a
receive buffer and copies nothing: segments are views of the buffer (CRC) or of fresh plain text (secure).
"""

import itertools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, cast

import crc32c as _crc32c

from rbdfs.errors import WireError
from rbdfs.wire import Buffer

# the package's function takes any contiguous buffer; its annotation says so only in part
crc32c = cast(Callable[..., int], _crc32c.crc32c)


class Tag(IntEnum):
    """What a frame is (frames_v2.h)."""

    ABORTED = 0  # ours: the sender gave the frame up half-way, and it counts for nothing
    HELLO = 1
    AUTH_REQUEST = 2
    AUTH_BAD_METHOD = 3
    AUTH_REPLY_MORE = 4
    AUTH_REQUEST_MORE = 5
    AUTH_DONE = 6
    AUTH_SIGNATURE = 7
    CLIENT_IDENT = 8
    SERVER_IDENT = 9
    IDENT_MISSING_FEATURES = 10
    SESSION_RECONNECT = 11
    SESSION_RESET = 12
    SESSION_RETRY = 13
    SESSION_RETRY_GLOBAL = 14
    SESSION_RECONNECT_OK = 15
    WAIT = 16
    MESSAGE = 17
    KEEPALIVE2 = 18
    KEEPALIVE2_ACK = 19
    ACK = 20


Frame = tuple[int, Sequence[Buffer], int]  # tag, segments, bytes that it took in the buffer


class FrameCodec(Protocol):
    """Frames <-> bytes, for one connection in both directions."""

    is_fresh: bool  # whether segments are plain text of their own, not views of the receive buffer
    wanted: int  # how many bytes the frame that `decode` could not finish takes, as far as is known by now

    def encode(self, tag: int, control: Buffer) -> bytes:
        """A frame of one segment."""

    def encode_message(self, header: bytes, front: Buffer, data: Sequence[Buffer]) -> list[Buffer]:
        """A MESSAGE frame, as buffers to send in sequence; large data is not copied unless it is encrypted."""

    def decode(self, buffer: memoryview, start: int, end: int) -> Frame | None:
        """The frame that starts at `start`, None where it is not whole yet: then ask again with more of it."""


MAX_FRAME = 256 << 20  # osd_max_object_size is 128 MiB; more is no message but damage
PREAMBLE = struct.Struct("<BB IHIHIHIH BB")
CRC = struct.Struct("<I")
PREAMBLE_SIZE = PREAMBLE.size + CRC.size
ALIGNMENTS = (8, 8, 8, 4096)  # where the receiver may put the segments; only part of the checksum to us
COMPLETE, ABORTED = 0x0E, 0x01  # late status
LATE_STATUS_MASK = 0x0F

_EPILOGUE = struct.Struct("<BIII")
_ALL_ONES = 0xFFFFFFFF
_SMALL = 16384  # data up to this size is cheaper to copy than to carry as a buffer of its own
_LARGE = 256 << 10  # a frame from this size on is summed as it comes
_MAX_SHAPES = 512  # of each cache below


def make_preamble(tag: int, lengths: Sequence[int]) -> bytes:
    """The first 32 bytes of a frame; `lengths` without empty segments at the end."""
    slots = [0] * 8
    for index, length in enumerate(lengths):
        slots[2 * index : 2 * index + 2] = length, ALIGNMENTS[index]
    head = PREAMBLE.pack(tag, len(lengths), *slots, 0, 0)
    return head + CRC.pack(crc32c(head, _ALL_ONES) ^ _ALL_ONES)


def parse_preamble(preamble: bytes) -> tuple[int, tuple[int, ...]]:
    """Tag and lengths of the segments; checks all that can be checked."""
    tag, count, *slots, flags, _ = PREAMBLE.unpack_from(preamble)
    if crc32c(preamble[:-4], _ALL_ONES) ^ _ALL_ONES != CRC.unpack_from(preamble, PREAMBLE.size)[0]:
        raise WireError("frame with a wrong checksum of its preamble")
    lengths = tuple(slots[0 : 2 * count : 2])
    if not 1 <= count <= 4 or (count > 1 and not lengths[-1]) or any(slots[2 * count :: 2]):
        raise WireError(f"frame of {count} segments with lengths {slots[::2]}")
    if flags:
        raise WireError(f"frame with flags {flags:#x}")  # compression, which we do not announce
    if sum(lengths) > MAX_FRAME:
        raise WireError(f"frame of {sum(lengths)} bytes")
    return tag, lengths


def message_lengths(header: Buffer, front_length: int, data_length: int) -> tuple[int, ...]:
    """The lengths of a MESSAGE's segments, up to the last that is not empty."""
    if data_length:
        return len(header), front_length, 0, data_length
    return (len(header), front_length) if front_length else (len(header),)


class CrcFrames:
    """Frames with checksums, in the clear."""

    is_fresh = False

    def __init__(self, *, with_data_crc: bool = True) -> None:
        """`with_data_crc`: the peer has to sum its segments, too, not only its preambles."""
        self.wanted = PREAMBLE_SIZE
        self._with_data_crc = with_data_crc
        self._preambles: dict[tuple[int, int], bytes] = {}  # those of our messages, by front and data length
        self._shapes: dict[bytes, _Shape] = {}  # the peer's frames, by preamble
        self._ahead: tuple[int, int] | None = None  # of a frame that is not whole: where its checksum stands, and it

    def encode(self, tag: int, control: Buffer) -> bytes:
        """A frame of one segment."""
        return b"".join((make_preamble(tag, (len(control),)), control, CRC.pack(crc32c(control) ^ _ALL_ONES)))

    def encode_message(self, header: bytes, front: Buffer, data: Sequence[Buffer]) -> list[Buffer]:
        """A MESSAGE frame; data above 16 KiB is passed on as it is."""
        data_length = data_crc = 0
        for part in data:
            data_length += len(part)
            data_crc = crc32c(part, data_crc)
        shape = len(front), data_length
        preamble = self._preambles.get(shape) or self._remember_preamble(header, shape)
        header_crc = CRC.pack(crc32c(header) ^ _ALL_ONES)
        if data_length:
            epilogue = _EPILOGUE.pack(COMPLETE, crc32c(front) ^ _ALL_ONES, _ALL_ONES, data_crc ^ _ALL_ONES)
            if data_length > _SMALL:
                return [b"".join((preamble, header, header_crc, front)), *data, epilogue]
            return [b"".join((preamble, header, header_crc, front, *data, epilogue))]
        if front:
            epilogue = _EPILOGUE.pack(COMPLETE, crc32c(front) ^ _ALL_ONES, 0, 0)
            return [b"".join((preamble, header, header_crc, front, epilogue))]
        return [preamble + header + header_crc]

    def _remember_preamble(self, header: bytes, shape: tuple[int, int]) -> bytes:
        if len(self._preambles) >= _MAX_SHAPES:
            self._preambles.clear()
        preamble = self._preambles[shape] = make_preamble(Tag.MESSAGE, message_lengths(header, *shape))
        return preamble

    def decode(self, buffer: memoryview, start: int, end: int) -> Frame | None:
        """The frame that starts at `start`, None where it is not whole yet."""
        if end - start < PREAMBLE_SIZE:
            self.wanted = PREAMBLE_SIZE
            return None
        preamble = bytes(buffer[start : start + PREAMBLE_SIZE])
        shape = self._shapes.get(preamble) or self._remember_shape(preamble)
        if end - start < shape.size:
            self.wanted = shape.size
            if shape.size >= _LARGE and shape.spans:
                self._sum_ahead(shape, buffer[start:end])
            return None
        frame = buffer[start : start + shape.size]
        control = frame[PREAMBLE_SIZE : shape.control_end]
        if crc32c(control) ^ _ALL_ONES != CRC.unpack_from(frame, shape.control_end)[0]:
            self._refuse_or_excuse(CRC.unpack_from(frame, shape.control_end)[0], shape.tag, "its control segment")
        segments = [control]
        if shape.spans:
            late_status, *crcs = _EPILOGUE.unpack_from(frame, shape.size - _EPILOGUE.size)
            for (begin, after), crc in zip(shape.spans, crcs, strict=False):
                segment = frame[begin:after]
                if self._ahead is not None and len(segments) == len(shape.spans):
                    (summed, found), self._ahead = self._ahead, None
                    found = crc32c(frame[summed:after], found)
                else:
                    found = crc32c(segment)
                if found ^ _ALL_ONES != crc:
                    self._refuse_or_excuse(crc, shape.tag, f"segment {len(segments)}")
                segments.append(segment)
            if late_status & LATE_STATUS_MASK != COMPLETE:
                return refuse_or_skip(late_status, shape.size)
        return shape.tag, segments, shape.size

    def _refuse_or_excuse(self, crc: int, tag: int, segment: str) -> None:
        """What to make of a checksum that is not its segment's."""
        if crc or self._with_data_crc:
            hint = "" if crc else " (is ms_crc_data false there?)"
            raise WireError(f"frame {tag} with a wrong checksum of {segment}{hint}")

    def _sum_ahead(self, shape: "_Shape", part: memoryview) -> None:
        """Take what has come of the last segment into its checksum, while the CPU's cache still has it."""
        begin, after = shape.spans[-1]
        summed, found = self._ahead or (begin, 0)
        upto = min(len(part), after)
        if upto > summed:
            self._ahead = upto, crc32c(part[summed:upto], found)

    def _remember_shape(self, preamble: bytes) -> "_Shape":
        tag, lengths = parse_preamble(preamble)
        if len(self._shapes) >= _MAX_SHAPES:
            self._shapes.clear()
        control_end = PREAMBLE_SIZE + lengths[0]
        ends = list(itertools.accumulate(lengths[1:], initial=control_end + CRC.size))
        size = ends[-1] + (_EPILOGUE.size if len(lengths) > 1 else 0)
        shape = self._shapes[preamble] = _Shape(tag, size, control_end, list(itertools.pairwise(ends)))
        return shape


@dataclass(slots=True)
class _Shape:
    """What a preamble that was found correct says; offsets count from the start of the frame."""

    tag: int
    size: int
    control_end: int
    spans: list[tuple[int, int]]  # of the segments behind the control segment


def refuse_or_skip(late_status: int, size: int) -> Frame:
    """What to make of a frame that its sender did not call complete."""
    if late_status & LATE_STATUS_MASK == ABORTED:
        return Tag.ABORTED, (), size
    raise WireError(f"frame with late status {late_status:#x}")
