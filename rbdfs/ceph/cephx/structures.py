"""What travels in cephx (`CephxProtocol.h`). Most of it begins with a version byte and has no envelope."""

from dataclasses import dataclass
from typing import Self

from rbdfs.ceph.cephx.keys import CryptoKey
from rbdfs.entities import UTime
from rbdfs.errors import WireError
from rbdfs.wire import S16, S32, U8, U16, U32, U64, Cursor, Record

GET_AUTH_SESSION_KEY = 0x0100
GET_PRINCIPAL_SESSION_KEY = 0x0200
MODE_AUTHORIZER = 1  # how AUTH_REQUEST begins at an OSD; also the version of what follows
MODE_MONITOR = 10  # and at a monitor


@dataclass(slots=True)
class MonitorHello(Record):
    """Payload of AUTH_REQUEST to a monitor."""

    mode: U8
    entity_type: U32
    entity_id: str
    global_id: U64


@dataclass(slots=True)
class ServerChallenge(Record):
    """Payload of a monitor's AUTH_REPLY_MORE, and of an OSD's once it is decrypted."""

    version: U8
    challenge: U64


@dataclass(slots=True)
class TicketBlob(Record):
    """A ticket as its service made it: for us only to be shown."""

    version: U8 = 1
    secret_id: U64 = 0
    blob: bytes = b""


@dataclass(slots=True)
class Authenticate(Record):
    """Our proof to a monitor, behind GET_AUTH_SESSION_KEY."""

    request: U16
    version: U8
    client_challenge: U64
    proof: U64
    old_ticket: TicketBlob
    other_services: U32


@dataclass(slots=True)
class TicketSecret(Record):
    """The part of a ticket that is for us: the session key, and for how long it is good."""

    version: U8
    session_key: CryptoKey
    validity: UTime


@dataclass(slots=True)
class TicketEntry(Record):
    """One ticket of a list: `secret` is encrypted for us, `blob` perhaps with the session key it replaces."""

    service: U32
    version: U8
    secret: bytes
    is_blob_encrypted: bool
    blob: bytes


@dataclass(slots=True)
class TicketList(Record):
    """All tickets of one answer."""

    version: U8
    entries: list[TicketEntry]


@dataclass(slots=True)
class AuthenticateReply(Record):
    """Payload of a monitor's AUTH_DONE."""

    request: U16
    status: S32
    tickets: TicketList
    connection_secret: bytes  # a string, encrypted with the AUTH session key
    extra: bytes  # a TicketList: services, their secrets encrypted with the AUTH session key


@dataclass(slots=True)
class Authorizer(Record):
    """Payload of AUTH_REQUEST to a service: its ticket, and what only the ticket's owner can encrypt."""

    version: U8
    global_id: U64
    service: U32
    ticket: TicketBlob
    authorize: bytes


@dataclass(slots=True)
class Authorize(Record):
    """The encrypted part of an authorizer."""

    version: U8
    nonce: U64
    has_challenge: bool
    challenge: U64  # the server's, plus one


@dataclass(slots=True)
class AuthorizeReply:
    """The encrypted part of a service's AUTH_DONE: that it knows the session key, too."""

    version: int
    nonce: int
    connection_secret: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; the secret is there from version 2 on."""
        cursor = Cursor(data)
        version, nonce = cursor.u8(), cursor.u64()
        return cls(version, nonce, cursor.blob() if version >= 2 else b"")


@dataclass(slots=True)
class NoneAuthorizer(Record):
    """Payload of AUTH_REQUEST to a service that asks for no proof."""

    version: U8
    entity_type: U32
    entity_id: str
    global_id: U64


@dataclass(slots=True)
class RenewalRequest(Record):
    """Payload of MAuth: the AUTH ticket shown, tickets of services wanted."""

    request: U16
    authorizer: Authorizer
    version: U8
    services: U32


@dataclass(slots=True)
class RenewalReply(Record):
    """Payload of MAuthReply."""

    request: U16
    status: S32
    tickets: TicketList


@dataclass(slots=True)
class MAuth(Record):
    """Message 17, version 1."""

    paxos_version: U64
    paxos_mon: S16
    paxos_tid: U64
    protocol: U32
    payload: bytes
    monmap_epoch: U32 = 0


@dataclass(slots=True)
class MAuthReply(Record):
    """Message 18, version 1."""

    protocol: U32
    result: S32
    global_id: U64
    payload: bytes
    message: str


def expect_request(found: int, wanted: int) -> None:
    """Refuse the answer to another question."""
    if found != wanted:
        raise WireError(f"cephx answer of type {found:#x}, not {wanted:#x}")
