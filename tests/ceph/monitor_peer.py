"""A monitor in this process: gives tickets, maps, and an end to sessions that are silent.

`TicketMonitor` is the other side of cephx. `MonitorPeer` speaks to a client over a socket pair, which its `connect`
makes in place of the messenger's own. There, bytes are at the other end at once, as simulated time needs it: over TCP
they are on their way for some real microseconds, in which an autojump clock sees nothing to do.
"""

import hmac
import os
import socket
import struct
from collections.abc import Callable, Sequence

import trio
from ceph.archives import members

from rbdfs.ceph.cephx.ciphers import Usage
from rbdfs.ceph.cephx.credentials import MonitorLogin
from rbdfs.ceph.cephx.keys import CryptoKey, KeyType
from rbdfs.ceph.cephx.structures import (
    GET_AUTH_SESSION_KEY,
    GET_PRINCIPAL_SESSION_KEY,
    Authenticate,
    AuthenticateReply,
    Authorize,
    MAuth,
    MAuthReply,
    MonitorHello,
    RenewalReply,
    RenewalRequest,
    ServerChallenge,
    TicketBlob,
    TicketEntry,
    TicketList,
    TicketSecret,
)
from rbdfs.ceph.messages import OSDMapMessage
from rbdfs.ceph.msgr2.buffers import BufferPool
from rbdfs.ceph.msgr2.frames import CRC, PREAMBLE_SIZE, CrcFrames, FrameCodec, Tag
from rbdfs.ceph.msgr2.login import Mode
from rbdfs.ceph.msgr2.secure import SECRET_SIZE, SecureFrames
from rbdfs.ceph.osdmap import OSDMap
from rbdfs.entities import AddrType, AddrVec, EntityAddr, EntityType, UTime
from rbdfs.wire import Buffer, Cursor, encode_value

AUTH, MON, OSD = EntityType.AUTH, EntityType.MON, EntityType.OSD


def new_key(key_type: KeyType) -> CryptoKey:
    """A secret that nobody knows."""
    return CryptoKey(key_type, os.urandom(16 * key_type))


def a_map() -> bytes:
    """Some map that a cluster once had, as a monitor sends it."""
    encoded = next(data for name, data in members("maps-16.2").items() if name.endswith(".osdmap"))
    osdmap = OSDMap.from_bytes(encoded)
    return OSDMapMessage(osdmap.fsid.bytes, {}, {osdmap.epoch: encoded}, osdmap.epoch, osdmap.epoch).to_bytes()


class UnsummedFrames(CrcFrames):
    """Those of a daemon whose ms_crc_data is false: no checksum but the preamble's."""

    def encode(self, tag: int, control: Buffer) -> bytes:
        """A frame of one segment."""
        return super().encode(tag, control)[: -CRC.size] + bytes(CRC.size)

    def encode_message(self, header: bytes, front: Buffer, data: Sequence[Buffer]) -> list[Buffer]:
        """A MESSAGE frame."""
        frame = bytearray(b"".join(super().encode_message(header, front, data)))
        control_end = PREAMBLE_SIZE + len(header)
        frame[control_end : control_end + CRC.size] = bytes(CRC.size)
        if len(frame) > control_end + CRC.size:
            frame[-3 * CRC.size :] = bytes(3 * CRC.size)
        return [bytes(frame)]


class TicketMonitor:
    """The other side of cephx: makes tickets, as far as a client can see."""

    def __init__(self, client_key: CryptoKey, service_type: KeyType = KeyType.AES, ttl: int = 60) -> None:
        self.client_key = client_key
        self.service_type = min(client_key.type, service_type)
        self.ttl, self.auth_ttl = ttl, 10 * ttl
        self.auth_key: CryptoKey | None = None
        self.service_keys: dict[int, CryptoKey] = {}
        self.granted = self.logins = self.renewals = 0

    def login(self, login: MonitorLogin, global_id: int = 4100) -> None:
        """Both sides of one login, without a wire."""
        hello = MonitorHello.from_bytes(login.request())
        proof = Authenticate.from_bytes(login.on_more(ServerChallenge(1, 77).to_bytes()))
        secrets = login.on_done(hello.global_id or global_id, self.answer(hello, proof, 77))
        assert self.auth_key is not None
        assert secrets.session_key == self.auth_key.secret
        login.on_established()

    def answer(self, hello: MonitorHello, proof: Authenticate, challenge: int, secret: bytes = b"") -> bytes:
        """The payload of AUTH_DONE, for a client that proved its key."""
        assert proof.proof == self.client_key.prove(challenge, proof.client_challenge, os.urandom)
        assert (hello.global_id != 0) == (proof.old_ticket.blob != b"")
        old = self.auth_key if hello.global_id else None
        self.auth_key = new_key(self.client_key.type)
        self.logins += 1
        first = TicketList(1, [self.entry(AUTH, self.client_key, self.auth_key, self.auth_ttl, old)])
        sealed = self.auth_key.seal(Usage.CONNECTION_SECRET, encode_value(bytes, secret), os.urandom)
        reply = AuthenticateReply(
            GET_AUTH_SESSION_KEY, 0, first, encode_value(bytes, sealed), self.services().to_bytes()
        )
        return reply.to_bytes()

    def services(self) -> TicketList:
        """New tickets."""
        assert self.auth_key is not None
        self.service_keys = {service: new_key(self.service_type) for service in (MON, OSD)}
        entries = [self.entry(s, self.auth_key, key, self.ttl, None) for s, key in self.service_keys.items()]
        return TicketList(1, entries)

    def entry(self, service: int, key: CryptoKey, session: CryptoKey, ttl: int, old: CryptoKey | None) -> TicketEntry:
        """One ticket; `old` is the session key that it replaces."""
        self.granted += 1
        secret = key.seal(Usage.TICKET_SESSION_KEY, TicketSecret(1, session, UTime(ttl)).to_bytes(), os.urandom)
        blob = TicketBlob(1, 2, b"opaque %d" % self.granted).to_bytes()
        if old is not None:
            blob = old.seal(Usage.TICKET_BLOB, encode_value(bytes, blob), os.urandom)
        return TicketEntry(service, 1, secret, old is not None, blob)

    def renew(self, front: bytes) -> bytes:
        """Answer an MAuth."""
        assert self.auth_key is not None
        self.renewals += 1
        request = RenewalRequest.from_bytes(MAuth.from_bytes(front).payload)
        assert request.request == GET_PRINCIPAL_SESSION_KEY
        Authorize.from_bytes(self.auth_key.unseal(Usage.AUTHORIZE, request.authorizer.authorize))
        reply = RenewalReply(GET_PRINCIPAL_SESSION_KEY, 0, self.services()).to_bytes()
        return MAuthReply(2, 0, 4100, reply, "").to_bytes()


MON_SUBSCRIBE, MAUTH, MAUTH_REPLY, OSD_MAP = 15, 17, 18, 41
SESSION_TIMEOUT = 300.0  # mon_session_timeout: a client that is silent for so long is gone
_HEADER = struct.Struct("<QQHHHIHQBHH")
_BANNER = b"ceph v2\n" + struct.pack("<HQQ", 16, 1, 0)


class MonitorPeer:
    """Every session is served like a monitor's, and counted."""

    def __init__(self, tickets: TicketMonitor, osd_map: bytes, codec: type[CrcFrames] = CrcFrames) -> None:
        """`osd_map` is the front of an MOSDMap message; `codec` for what is not secure."""
        self.tickets = tickets
        self.osd_map = osd_map
        self.codec = codec
        self.sessions = self.expired = 0
        self.sees = "127.0.0.1"  # the host that it tells clients to be
        self.clients: list[EntityAddr] = []  # who they say they are, one for each session
        self.address = EntityAddr(AddrType.MSGR2, "192.0.2.1", 3300)
        self._clients, self._waiting = trio.open_memory_channel[socket.socket](10)

    async def connect(self, address: EntityAddr) -> socket.socket:
        """The client's end of a new connection."""
        assert address == self.address
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        await self._clients.send(ours)
        return theirs

    async def serve(self) -> None:
        """Take clients until cancelled."""
        async with trio.open_nursery() as nursery:
            async for sock in self._waiting:
                nursery.start_soon(self._serve_client, trio.socket.from_stdlib_socket(sock))

    async def _serve_client(self, sock: "trio.socket.SocketType") -> None:
        with sock:
            session = _Session(self, sock)
            try:
                await session.greet()
                self.sessions += 1
                while True:
                    with trio.fail_after(SESSION_TIMEOUT):
                        tag, segments = await session.receive()
                    await session.answer(tag, segments)
            except trio.TooSlowError:
                self.expired += 1
            except (EOFError, OSError):
                pass


class _Session:
    """One connection, the server's side."""

    def __init__(self, peer: MonitorPeer, sock: "trio.socket.SocketType") -> None:
        self._peer, self._socket = peer, sock
        self._codec: FrameCodec = peer.codec()
        self._buffer = b""
        self._received, self._sent = bytearray(), bytearray()
        self._seq = 0

    async def _take(self, wanted: Callable[[], int]) -> None:
        while len(self._buffer) < wanted():
            data = await self._socket.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data

    async def receive(self) -> tuple[int, list[bytes]]:
        """The next frame."""
        while True:
            window = memoryview(self._buffer)
            frame = self._codec.decode(window, 0, len(window))
            if frame is not None:
                tag, segments, size = frame
                self._received += self._buffer[:size]
                self._buffer = self._buffer[size:]
                return tag, [bytes(segment) for segment in segments]
            await self._take(lambda: self._codec.wanted)

    async def send(self, data: bytes) -> None:
        """All of it."""
        self._sent += data
        view = memoryview(data)
        while view:
            view = view[await self._socket.send(view) :]

    async def greet(self) -> None:
        """The handshake."""
        await self.send(_BANNER)
        await self._take(lambda: len(_BANNER))
        self._received += self._buffer[: len(_BANNER)]
        self._buffer = self._buffer[len(_BANNER) :]
        await self.receive()
        here = EntityAddr(AddrType.ANY, self._peer.sees, 0, 0)
        await self.send(self._codec.encode(Tag.HELLO, bytes([EntityType.MON]) + here.to_bytes()))

        _, [request] = await self.receive()
        cursor = Cursor(request)
        cursor.skip(4)
        mode, *_ = [cursor.u32() for _ in range(cursor.u32())]
        hello = MonitorHello.from_bytes(cursor.blob())
        more = encode_value(bytes, ServerChallenge(1, 77).to_bytes())
        await self.send(self._codec.encode(Tag.AUTH_REPLY_MORE, more))
        _, [proof] = await self.receive()
        secret = os.urandom(SECRET_SIZE) if mode == Mode.SECURE else b""
        answer = self._peer.tickets.answer(hello, Authenticate.from_bytes(Cursor(proof).blob()), 77, secret)
        done = struct.pack("<QI", hello.global_id or 4100, mode) + encode_value(bytes, answer)
        covered = bytes(self._received)
        await self.send(self._codec.encode(Tag.AUTH_DONE, done))

        assert self._peer.tickets.auth_key is not None
        key = self._peer.tickets.auth_key.secret
        ours = hmac.digest(key, covered, "sha256")
        theirs = hmac.digest(key, bytes(self._sent), "sha256")
        if mode == Mode.SECURE:
            self._codec = SecureFrames(secret, BufferPool(), as_server=True)
        await self.send(self._codec.encode(Tag.AUTH_SIGNATURE, ours))
        assert (await self.receive())[1] == [theirs]
        tag, [client] = await self.receive()
        assert tag == Tag.CLIENT_IDENT
        self._peer.clients += AddrVec.decode(Cursor(client)).addrs
        ident = AddrVec([self._peer.address]).to_bytes() + struct.pack("<qQQQQQ", 0, 1, 1 << 59, 1 << 59, 1, 0)
        await self.send(self._codec.encode(Tag.SERVER_IDENT, ident))

    async def answer(self, tag: int, segments: list[bytes]) -> None:
        """Do what a client asks for."""
        if tag == Tag.KEEPALIVE2:
            await self.send(self._codec.encode(Tag.KEEPALIVE2_ACK, segments[0]))
        elif tag == Tag.MESSAGE:
            kind = _HEADER.unpack(segments[0])[2]
            if kind == MAUTH:
                await self._send_message(MAUTH_REPLY, self._peer.tickets.renew(segments[1]))
            elif kind == MON_SUBSCRIBE:
                await self._send_message(OSD_MAP, self._peer.osd_map, version=4)

    async def _send_message(self, kind: int, front: bytes, version: int = 1) -> None:
        self._seq += 1
        header = _HEADER.pack(self._seq, 0, kind, 127, version, 0, 0, 0, 0, 1, 0)
        await self.send(b"".join(self._codec.encode_message(header, front, [])))
