"""From the banner to SERVER_IDENT, the client's side: bytes in, bytes out, an `Established` at the end.

    we                          the peer
    banner                      banner
    HELLO                       HELLO: what it is, and our address as it sees it
    AUTH_REQUEST                AUTH_BAD_METHOD: perhaps again with another method
    AUTH_REQUEST_MORE           AUTH_REPLY_MORE, as often as the method needs
                                AUTH_DONE: from here on in the mode that the peer chose
    AUTH_SIGNATURE              AUTH_SIGNATURE: over all bytes that came in up to here, so nobody changed the choice
    CLIENT_IDENT                SERVER_IDENT, or IDENT_MISSING_FEATURES

Our sessions are lossy (so are all of a client with monitors and OSDs), hence nothing of an earlier session is taken up
again: SESSION_RECONNECT is never sent, and its answers are errors (doc/dev/msgr2.rst, `ProtocolV2.cc`).
"""

import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

from rbdfs.ceph.msgr2 import features
from rbdfs.ceph.msgr2.buffers import BufferPool
from rbdfs.ceph.msgr2.frames import CrcFrames, FrameCodec, Tag
from rbdfs.ceph.msgr2.login import Login, Method, Mode
from rbdfs.ceph.msgr2.secure import SecureFrames
from rbdfs.entities import AddrType, AddrVec, EntityAddr, EntityType
from rbdfs.errors import NotSupported, ProtocolError
from rbdfs.wire import S32, S64, U8, U32, U64, Buffer, Raw, Record

_BANNER = b"ceph v2\n"
_OLD_BANNER = b"ceph v0"  # what a port of messenger 1 says
_BANNER_LENGTH = struct.Struct("<H")
_BANNER_FEATURES = struct.Struct("<QQ")
_REVISION_1 = 1  # msgr 2.1; the other bit is compression
_LOSSY = 1
_MAX_FRAME = 1 << 20  # no frame of a handshake comes near
_NO_SIGNATURE = bytes(32)
_EOPNOTSUPP = -95


@dataclass(slots=True)
class _Hello(Record):
    entity_type: U8
    address: EntityAddr  # the receiver's, as the sender sees it


@dataclass(slots=True)
class _AuthRequest(Record):
    method: U32
    modes: list[U32]
    payload: bytes


@dataclass(slots=True)
class _AuthBadMethod(Record):
    method: U32
    result: S32
    methods: list[U32]
    modes: list[U32]


@dataclass(slots=True)
class _AuthMore(Record):
    payload: bytes


@dataclass(slots=True)
class _AuthDone(Record):
    global_id: U64
    mode: U32
    payload: bytes


@dataclass(slots=True)
class _Signature(Record):
    digest: Annotated[bytes, Raw(32)]


@dataclass(slots=True)
class _ClientIdent(Record):
    addrs: AddrVec
    target: EntityAddr
    global_id: S64
    global_seq: U64
    supported: U64
    required: U64
    flags: U64
    cookie: U64


@dataclass(slots=True)
class _ServerIdent(Record):
    addrs: AddrVec
    id: S64  # of an OSD its number
    global_seq: U64
    supported: U64
    required: U64
    flags: U64
    cookie: U64


@dataclass(slots=True)
class _MissingFeatures(Record):
    bits: U64


class Established(NamedTuple):
    """What a handshake settled."""

    my_addr: EntityAddr
    peer_addrs: AddrVec
    peer_id: int
    peer_features: int
    global_id: int
    mode: Mode
    codec: FrameCodec
    leftover: bytes  # what came behind the handshake: the start of the first messages


class Handshake:
    """One handshake with the peer at `target`, which must be its own address, nonce included."""

    def __init__(
        self,
        target: EntityAddr,
        peer_type: EntityType,
        login: Login,
        *,
        nonce: int,
        host: str = "",
        global_seq: int = 1,
        modes: Sequence[Mode] = (Mode.CRC, Mode.SECURE),
        buffers: BufferPool | None = None,
        with_data_crc: bool = True,
    ) -> None:
        """`host` is where we say we are, else as the peer sees us; `with_data_crc` is for all that is not secure.

        `buffers` are for large data in secure mode.
        """
        self.established: Established | None = None
        self._target, self._peer_type, self._login = target, peer_type, login
        self._nonce, self._host, self._global_seq, self._modes = nonce, host, global_seq, list(modes)
        self._buffers = buffers or BufferPool()
        self._codec: FrameCodec = CrcFrames(with_data_crc=with_data_crc)
        self._buffer = bytearray()
        self._received = bytearray()  # what the signatures cover
        self._sent = bytearray()
        self._is_signing = True
        self._expected: tuple[Tag, ...] = ()  # none before the banner
        self._my_addr = EntityAddr()
        self._global_id = 0
        self._mode = Mode.CRC
        self._server_signature = _NO_SIGNATURE

    def start(self) -> bytes:
        """What to send first."""
        payload = _BANNER_FEATURES.pack(_REVISION_1, _REVISION_1)
        return self._record(_BANNER + _BANNER_LENGTH.pack(len(payload)) + payload)

    def receive(self, data: Buffer) -> bytes:
        """Take what came in; gives what to send. It is over once `established` is set.

        Raises WireError and ProtocolError for what a peer must not do, NotSupported, and what the login raises.
        """
        self._buffer += data
        out = bytearray()
        if not self._expected:
            out += self._take_banner()
        while self._expected and self.established is None:
            window = memoryview(bytes(self._buffer))
            frame = self._codec.decode(window, 0, len(window))
            if frame is None:
                if self._codec.wanted > _MAX_FRAME:
                    raise ProtocolError(f"{self._target}: frame of {self._codec.wanted} bytes in the handshake")
                break
            tag, segments, size = frame
            if self._is_signing:
                self._received += window[:size]
            del self._buffer[:size]
            out += self._take_frame(tag, segments)
        return bytes(out)

    def _record(self, data: bytes) -> bytes:
        if self._is_signing:
            self._sent += data
        return data

    def _encode(self, tag: Tag, body: Record) -> bytes:
        return self._record(self._codec.encode(tag, body.to_bytes()))

    def _take_banner(self) -> bytes:
        head = bytes(self._buffer[: len(_BANNER)])
        # Nothing protects a banner yet. What a monitor's says, the user must hear, who gave its address; what stands at
        # an OSD's may be somebody else by now, or be damaged: there the map, or another attempt, will tell.
        wrong = NotSupported if self._peer_type == EntityType.MON else ProtocolError
        if head.startswith(_OLD_BANNER):
            raise wrong(f"{self._target} speaks messenger 1 only: not a v2 port")
        if not _BANNER.startswith(head):
            raise wrong(f"{self._target} is no Ceph daemon: it greets with {head!r}")
        begin = len(_BANNER) + _BANNER_LENGTH.size
        if len(self._buffer) < begin:
            return b""
        (length,) = _BANNER_LENGTH.unpack_from(self._buffer, len(_BANNER))
        if length < _BANNER_FEATURES.size:
            raise ProtocolError(f"{self._target}: banner of {length} bytes")
        if len(self._buffer) < begin + length:
            return b""
        supported, required = _BANNER_FEATURES.unpack_from(self._buffer, begin)
        if required & ~_REVISION_1 or not supported & _REVISION_1:
            raise wrong(f"{self._target}: messenger features {supported:#x}, of which required {required:#x}")
        self._received += self._buffer[: begin + length]
        del self._buffer[: begin + length]
        self._expected = (Tag.HELLO,)
        return self._encode(Tag.HELLO, _Hello(EntityType.CLIENT, self._target))

    def _take_frame(self, tag: int, segments: Sequence[Buffer]) -> bytes:
        if tag not in self._expected:
            name = Tag(tag).name if tag in Tag.__members__.values() else f"frame {tag}"
            raise ProtocolError(f"{self._target}: {name} where {'/'.join(e.name for e in self._expected)} was due")
        if len(segments) != 1:
            raise ProtocolError(f"{self._target}: {Tag(tag).name} of {len(segments)} segments")
        return self._TAKE[tag](self, segments[0])

    def _take_hello(self, control: Buffer) -> bytes:
        hello = _Hello.from_bytes(control)
        if hello.entity_type != self._peer_type:
            raise ProtocolError(f"{self._target} is of type {hello.entity_type}, not {self._peer_type.name.lower()}")
        self._my_addr = EntityAddr(AddrType.ANY, self._host or hello.address.host, 0, self._nonce)
        return self._request_authentication()

    def _request_authentication(self) -> bytes:
        self._expected = (Tag.AUTH_BAD_METHOD, Tag.AUTH_DONE)
        if self._login.method != Method.NONE:
            self._expected += (Tag.AUTH_REPLY_MORE,)
        body = _AuthRequest(self._login.method, [int(mode) for mode in self._modes], self._login.request())
        return self._encode(Tag.AUTH_REQUEST, body)

    def _take_bad_method(self, control: Buffer) -> bytes:
        refusal = _AuthBadMethod.from_bytes(control)
        if refusal.result == _EOPNOTSUPP and not set(refusal.modes) & set(self._modes):
            raise NotSupported(
                f"{self._target} allows connection modes {_names(refusal.modes)}, we offer {_names(self._modes)}"
            )
        self._login.on_refused(refusal.result, refusal.methods)
        return self._request_authentication()

    def _take_reply_more(self, control: Buffer) -> bytes:
        more = self._login.on_more(_AuthMore.from_bytes(control).payload)
        return self._encode(Tag.AUTH_REQUEST_MORE, _AuthMore(more))

    def _take_auth_done(self, control: Buffer) -> bytes:
        done = _AuthDone.from_bytes(control)
        if done.mode not in self._modes:
            raise ProtocolError(f"{self._target} chose connection mode {done.mode}, which we did not offer")
        self._mode, self._global_id = Mode(done.mode), done.global_id
        secrets = self._login.on_done(done.global_id, done.payload)
        self._is_signing = False
        signature = _NO_SIGNATURE
        if secrets.session_key:
            signature = hmac.digest(secrets.session_key, bytes(self._received), "sha256")
            self._server_signature = hmac.digest(secrets.session_key, bytes(self._sent), "sha256")
        if self._mode == Mode.SECURE:
            self._codec = SecureFrames(secrets.connection_secret, self._buffers)
        self._expected = (Tag.AUTH_SIGNATURE,)
        return self._encode(Tag.AUTH_SIGNATURE, _Signature(signature))

    def _take_signature(self, control: Buffer) -> bytes:
        if not hmac.compare_digest(_Signature.from_bytes(control).digest, self._server_signature):
            # Not AuthenticationFailed: the network may have damaged what was signed, our tickets are as good as before.
            raise ProtocolError(f"{self._target}: the handshake was damaged or tampered with, its signature is wrong")
        self._expected = (Tag.SERVER_IDENT, Tag.IDENT_MISSING_FEATURES)
        ident = _ClientIdent(
            addrs=AddrVec([self._my_addr]),
            target=self._target,
            global_id=self._global_id,
            global_seq=self._global_seq,
            supported=features.SUPPORTED,
            required=features.REQUIRED,
            flags=_LOSSY,
            cookie=0,
        )
        return self._encode(Tag.CLIENT_IDENT, ident)

    def _take_missing_features(self, control: Buffer) -> bytes:
        missing = features.describe(_MissingFeatures.from_bytes(control).bits)
        raise NotSupported(f"{self._target} requires features that rbdfs does not have: {missing}")

    def _take_server_ident(self, control: Buffer) -> bytes:
        ident = _ServerIdent.from_bytes(control)
        if ident.required & ~features.SUPPORTED:
            missing = features.describe(ident.required & ~features.SUPPORTED)
            raise NotSupported(f"{self._target} requires features that rbdfs does not have: {missing}")
        if self._target not in ident.addrs.addrs:
            raise ProtocolError(f"{self._target} calls itself {ident.addrs}")
        self.established = Established(
            my_addr=self._my_addr,
            peer_addrs=ident.addrs,
            peer_id=ident.id,
            peer_features=ident.supported,
            global_id=self._global_id,
            mode=self._mode,
            codec=self._codec,
            leftover=bytes(self._buffer),
        )
        self._login.on_established()
        return b""

    _TAKE: ClassVar[dict[int, Callable[["Handshake", Buffer], bytes]]] = {
        Tag.HELLO: _take_hello,
        Tag.AUTH_BAD_METHOD: _take_bad_method,
        Tag.AUTH_REPLY_MORE: _take_reply_more,
        Tag.AUTH_DONE: _take_auth_done,
        Tag.AUTH_SIGNATURE: _take_signature,
        Tag.SERVER_IDENT: _take_server_ident,
        Tag.IDENT_MISSING_FEATURES: _take_missing_features,
    }


def _names(modes: Sequence[int]) -> str:
    known = {mode.value: mode.name.lower() for mode in Mode}
    return "/".join(known.get(mode, str(mode)) for mode in modes) or "none"
