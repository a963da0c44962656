"""Frames of messenger 2.1, encrypted: AES-128-GCM in up to three blocks a frame.

    A   preamble and the first 48 bytes of the control segment                  96 bytes on the wire
    B   the rest of the control segment, if there is any
    C   segments 1-3, each padded to 16, and an epilogue of 16: late status     if there is any

A block is followed by its tag of 16 bytes. Each direction has a nonce of its own: four fixed bytes and a counter that
goes up with every block, so a block that is lost, repeated or changed is found out. All lengths in the preamble are
those before padding. The connection secret comes out of the authentication (doc/dev/msgr2.rst, `crypto_onwire.cc`).
"""

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rbdfs.ceph.msgr2.buffers import BufferPool
from rbdfs.ceph.msgr2.frames import (
    COMPLETE,
    LATE_STATUS_MASK,
    PREAMBLE_SIZE,
    Frame,
    Tag,
    make_preamble,
    message_lengths,
    parse_preamble,
    refuse_or_skip,
)
from rbdfs.errors import WireError
from rbdfs.wire import Buffer

SECRET_SIZE = 64

_NONCE = struct.Struct("<IQ")
_TAG = 16  # bytes that authenticate a block
_INLINE = 48  # bytes of the control segment in block A
_BLOCK_A = PREAMBLE_SIZE + _INLINE
_EPILOGUE = bytes([COMPLETE]) + bytes(15)
_ZEROES = bytes(_INLINE)
_MAX_SHAPES = 512
_LARGE = 64 << 10  # a block from this size on goes through a buffer that is used again


def _padding(length: int) -> bytes:
    return _ZEROES[: -length % 16]


def _padded(length: int) -> int:
    return length + -length % 16


def _nonces(first: bytes) -> Iterator[bytes]:
    """The nonces of one direction, in sequence."""
    fixed, counter = _NONCE.unpack(first)
    return map(partial(_NONCE.pack, fixed), itertools.chain(range(counter, 1 << 64), itertools.count()))


@dataclass(slots=True)
class _Shape:
    """What a preamble says: lengths of blocks as they travel, and where the segments are in the text of block C."""

    tag: int
    size: int
    control_end: int  # in the text of block A, were it as long
    rest: int
    body: int
    spans: list[tuple[int, int]]


class SecureFrames:
    """Encrypted frames of one connection, as the client or (in tests) as the server."""

    is_fresh = True

    def __init__(self, secret: bytes, buffers: BufferPool, *, as_server: bool = False) -> None:
        if len(secret) != SECRET_SIZE:
            raise WireError(f"connection secret of {len(secret)} bytes")
        self._buffers = buffers
        self._aes = algorithms.AES(secret[:16])
        self._cipher = AESGCM(secret[:16])
        receive, transmit = _nonces(secret[16:28]), _nonces(secret[28:40])
        self._receive, self._transmit = (transmit, receive) if as_server else (receive, transmit)
        self._head: tuple[_Shape, bytes] | None = None  # block A of the frame being received
        self._preambles: dict[tuple[int, int], bytes] = {}  # those of our messages, by front and data length
        self._shapes: dict[bytes, _Shape] = {}  # the peer's frames, by preamble
        self.wanted = _BLOCK_A + _TAG

    def encode(self, tag: int, control: Buffer) -> bytes:
        """A frame of one segment."""
        return b"".join(self._encode_control(make_preamble(tag, (len(control),)), control))

    def encode_message(self, header: bytes, front: Buffer, data: Sequence[Buffer]) -> list[Buffer]:
        """A MESSAGE frame, encrypted: the buffers given are not needed any more."""
        data_length = sum(map(len, data))
        shape = len(front), data_length
        preamble = self._preambles.get(shape)
        if preamble is None:
            if len(self._preambles) >= _MAX_SHAPES:
                self._preambles.clear()
            preamble = self._preambles[shape] = make_preamble(Tag.MESSAGE, message_lengths(header, *shape))
        out: list[Buffer] = self._encode_control(preamble, header)
        if front or data_length:
            parts = (front, _padding(len(front)), *data, _padding(data_length), _EPILOGUE)
            large = data_length >= _LARGE
            out.append(self._encrypt_parts(parts) if large else self._encrypt(b"".join(parts)))
        return out

    def _encode_control(self, preamble: bytes, control: Buffer) -> list[Buffer]:
        if len(control) <= _INLINE:
            return [self._encrypt(b"".join((preamble, control, _ZEROES[len(control) :])))]
        rest = control[_INLINE:]
        return [
            self._encrypt(b"".join((preamble, control[:_INLINE]))),
            self._encrypt(b"".join((rest, _padding(len(rest))))),
        ]

    def decode(self, buffer: memoryview, start: int, end: int) -> Frame | None:
        """The frame that starts at `start`, None where it is not whole yet."""
        position = start + _BLOCK_A + _TAG
        if self._head is None:
            if end < position:
                self.wanted = _BLOCK_A + _TAG
                return None
            plain = self._decrypt(buffer[start:position])
            preamble = plain[:PREAMBLE_SIZE]
            self._head = self._shapes.get(preamble) or self._remember_shape(preamble), plain
        shape, plain = self._head
        if end - start < shape.size:
            self.wanted = shape.size
            return None
        self._head = None
        control: Buffer = plain[PREAMBLE_SIZE : shape.control_end]
        if shape.rest:
            rest = self._decrypt(buffer[position : position + shape.rest])
            control = b"".join((control, rest[: shape.control_end - _BLOCK_A]))
            position += shape.rest
        segments = [control]
        if shape.body:
            block = buffer[position : position + shape.body]
            text = self._decrypt_large(block) if shape.body >= _LARGE else memoryview(self._decrypt(block))
            segments += [text[begin:after] for begin, after in shape.spans]
            late_status = text[-len(_EPILOGUE)]
            if late_status & LATE_STATUS_MASK != COMPLETE:
                return refuse_or_skip(late_status, shape.size)
        return shape.tag, segments, shape.size

    def _remember_shape(self, preamble: bytes) -> "_Shape":
        tag, lengths = parse_preamble(preamble)
        if len(self._shapes) >= _MAX_SHAPES:
            self._shapes.clear()
        begins = list(itertools.accumulate(map(_padded, lengths[1:]), initial=0))
        rest = _padded(lengths[0] - _INLINE) + _TAG if lengths[0] > _INLINE else 0
        body = begins[-1] + len(_EPILOGUE) + _TAG if len(lengths) > 1 else 0
        shape = self._shapes[preamble] = _Shape(
            tag=tag,
            size=_BLOCK_A + _TAG + rest + body,
            control_end=PREAMBLE_SIZE + lengths[0],
            rest=rest,
            body=body,
            spans=[(begin, begin + length) for begin, length in zip(begins, lengths[1:], strict=False)],
        )
        return shape

    def _encrypt(self, plain: bytes) -> bytes:
        return self._cipher.encrypt(next(self._transmit), plain, None)

    def _decrypt(self, block: memoryview) -> bytes:
        try:
            return self._cipher.decrypt(next(self._receive), block, None)
        except InvalidTag as err:
            raise WireError("frame that does not decrypt") from err

    def _encrypt_parts(self, parts: Sequence[Buffer]) -> memoryview:
        """The same without joining the parts first."""
        window = self._buffers.take(sum(map(len, parts)) + _TAG)
        encryptor = Cipher(self._aes, modes.GCM(next(self._transmit))).encryptor()
        position = 0
        for part in parts:
            position += encryptor.update_into(part, window[position:])
        encryptor.finalize()
        window[position : position + _TAG] = encryptor.tag
        return window[: position + _TAG]

    def _decrypt_large(self, block: memoryview) -> memoryview:
        window = self._buffers.take(len(block))
        decryptor = Cipher(self._aes, modes.GCM(next(self._receive), bytes(block[-_TAG:]))).decryptor()
        length = decryptor.update_into(block[:-_TAG], window)
        try:
            decryptor.finalize()
        except InvalidTag as err:
            raise WireError("frame that does not decrypt") from err
        return window[:length]
