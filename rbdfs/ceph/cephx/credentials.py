"""A client's name, key, global id and tickets: logging in to monitors and services, and renewing tickets.

The global id is the client's identity to the OSDs (they find a write that was sent twice by it), so it is kept from
login to login: a monitor grants it again to whoever shows the ticket for it. Every key brings its own type along:
on a cluster that changes over to new keys, the session keys of one client are of both types.

Tickets end. Those of services are renewed over the live session with a monitor, the AUTH ticket by a new login that
shows the old one, both when three quarters of their time have passed. A session that exists outlives its ticket. An
OSD that refuses one (its secrets have rotated) says so by AuthenticationFailed: renew, and try again; ticket numbers do
not tell old from new.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from rbdfs.ceph.cephx.ciphers import Random, Usage
from rbdfs.ceph.cephx.keys import CryptoKey
from rbdfs.ceph.cephx.structures import (
    GET_AUTH_SESSION_KEY,
    GET_PRINCIPAL_SESSION_KEY,
    MODE_AUTHORIZER,
    MODE_MONITOR,
    Authenticate,
    AuthenticateReply,
    Authorize,
    Authorizer,
    AuthorizeReply,
    MAuth,
    MAuthReply,
    MonitorHello,
    NoneAuthorizer,
    RenewalReply,
    RenewalRequest,
    ServerChallenge,
    TicketBlob,
    TicketEntry,
    TicketList,
    TicketSecret,
    expect_request,
)
from rbdfs.ceph.msgr2.login import Method, Secrets
from rbdfs.entities import EntityType
from rbdfs.errors import AuthenticationFailed, WireError
from rbdfs.wire import decode_value

_SERVICES = EntityType.MON | EntityType.OSD | EntityType.MGR
_RENEW_AFTER = 0.75  # of a ticket's time (CephXTicketHandler::verify_service_ticket_reply)
_MIN_RENEWAL = 1.0  # seconds; whatever a monitor thinks of, it is not asked in a loop
_EACCES = -13


@dataclass(slots=True)
class _Ticket:
    session_key: CryptoKey
    blob: TicketBlob
    renew_at: float
    expires_at: float


class Credentials:
    """Who a client is to a cluster; one per client, for all its connections."""

    def __init__(
        self,
        name: str,
        key: CryptoKey | None,
        random: Random,
        methods: Sequence[Method] = (Method.CEPHX, Method.NONE),
        key_source: str = "",
    ) -> None:
        """`name` such as client.admin; without a key only clusters that ask for none can be logged in to.

        `key_source` says, for error messages, where the key is from or where it was looked for.
        """
        kind, _, self.entity_id = name.partition(".")
        self.name = name
        self.entity_type = EntityType[kind.upper()]
        self.key = key
        self.key_source = key_source
        self.random = random
        self.methods = [method for method in methods if key is not None or method != Method.CEPHX]
        self.global_id = 0
        self._tickets: dict[int, _Ticket] = {}

    def monitor_login(self, now: float) -> "MonitorLogin":
        """A login to a monitor; with the tickets it brings, services can be logged in to."""
        if not self.methods:
            raise AuthenticationFailed(f"{self.name}: no key: {self.key_source}")
        return MonitorLogin(self, now)

    def service_login(self, service: EntityType, now: float) -> "ServiceLogin":
        """A login to an OSD or a manager, by the ticket for that service."""
        return ServiceLogin(self, service, now)

    @property
    def renew_at(self) -> float:
        """When tickets of services are to be renewed, over the live monitor session; infinity without tickets."""
        return min((t.renew_at for s, t in self._tickets.items() if s != EntityType.AUTH), default=math.inf)

    @property
    def login_again_at(self) -> float:
        """When a new login is due, because the AUTH ticket is about to end; infinity without one."""
        auth = self._tickets.get(EntityType.AUTH)
        return auth.renew_at if auth else math.inf

    def has_ticket(self, service: EntityType, now: float) -> bool:
        """Whether there is a ticket for the service that is good at `now`."""
        ticket = self._tickets.get(service)
        return ticket is not None and now < ticket.expires_at

    def forget_tickets(self) -> None:
        """Start anew with the next login, which then gives another global id."""
        self.global_id = 0
        self._tickets.clear()

    def renewal_request(self, now: float) -> bytes:
        """The front of an MAuth message that asks for new tickets of services."""
        auth = self._tickets.get(EntityType.AUTH)
        if auth is None or now >= auth.expires_at:
            raise AuthenticationFailed(f"{self.name}: no AUTH ticket to renew others with: log in again")
        authorizer = self.authorizer(EntityType.AUTH, auth.blob, auth.session_key, self._number())
        request = RenewalRequest(GET_PRINCIPAL_SESSION_KEY, authorizer, 1, _SERVICES)
        return MAuth(0, -1, 0, Method.CEPHX, request.to_bytes()).to_bytes()

    def on_renewal_reply(self, front: bytes | memoryview, now: float) -> None:
        """Take the MAuthReply: the tickets it brings replace the old ones."""
        reply = MAuthReply.from_bytes(front)
        if reply.result < 0:
            reason = reply.message or "no reason given"
            raise AuthenticationFailed(f"{self.name}: the monitor renewed no ticket (error {-reply.result}): {reason}")
        renewal = RenewalReply.from_bytes(reply.payload)
        expect_request(renewal.request, GET_PRINCIPAL_SESSION_KEY)
        auth = self._tickets.get(EntityType.AUTH)
        if auth is None:
            raise WireError("tickets that nobody asked for")
        renewed = self.unpack_tickets(renewal.tickets, auth.session_key, now)
        for service, ticket in self._tickets.items():
            if service != EntityType.AUTH and service not in renewed:
                ticket.renew_at = math.inf  # it is not given again: asking at once would be no use
        self._tickets |= renewed

    # for the logins below

    def session_key(self, service: int) -> CryptoKey:
        """The session key of a service's ticket."""
        return self._tickets[service].session_key

    def ticket_blob(self, service: int) -> TicketBlob:
        """The ticket to show; an empty one where there is none."""
        ticket = self._tickets.get(service)
        return ticket.blob if ticket else TicketBlob()

    def install(self, global_id: int, tickets: dict[int, _Ticket]) -> None:
        """Keep what a login brought."""
        self.global_id = global_id
        self._tickets |= tickets

    def unpack_tickets(self, tickets: TicketList, key: CryptoKey, now: float) -> dict[int, _Ticket]:
        """Decrypt a list of tickets; a blob may be encrypted with the session key that the ticket replaces."""
        return {entry.service: self._unpack_ticket(entry, key, now) for entry in tickets.entries}

    def _unpack_ticket(self, entry: TicketEntry, key: CryptoKey, now: float) -> _Ticket:
        secret = TicketSecret.from_bytes(key.unseal(Usage.TICKET_SESSION_KEY, entry.secret))
        blob = entry.blob
        if entry.is_blob_encrypted:
            old = self._tickets.get(entry.service)
            if old is None:
                raise WireError(f"ticket for service {entry.service:#x} encrypted with a key that we never had")
            blob = decode_value(bytes, old.session_key.unseal(Usage.TICKET_BLOB, blob))
        validity = float(secret.validity)
        renew_at = now + max(validity * _RENEW_AFTER, _MIN_RENEWAL)
        return _Ticket(secret.session_key, TicketBlob.from_bytes(blob), renew_at, now + validity)

    def authorizer(
        self, service: int, ticket: TicketBlob, key: CryptoKey, nonce: int, challenge: int | None = None
    ) -> Authorizer:
        """Show a ticket; `challenge` is the service's, from its answer to an authorizer without one."""
        answer = 0 if challenge is None else (challenge + 1) % 2**64
        body = Authorize(2, nonce, challenge is not None, answer).to_bytes()
        sealed = key.seal(Usage.AUTHORIZE, body, self.random)
        return Authorizer(MODE_AUTHORIZER, self.global_id, service, ticket, sealed)

    def _number(self) -> int:
        return int.from_bytes(self.random(8), "little")


class _Login(ABC):
    """What logins to monitors and to services share: which method is tried."""

    def __init__(self, credentials: Credentials, method: Method) -> None:
        self._credentials = credentials
        self._method = method

    @property
    def method(self) -> int:
        """The method, as AUTH_REQUEST names it."""
        return self._method

    def on_refused(self, result: int, methods: list[int]) -> None:
        """Go on with a method that both sides allow; AuthenticationFailed where there is none."""
        others = [method for method in self._credentials.methods if method in methods and method < self._method]
        if self._method in methods or not others:
            raise AuthenticationFailed(f"{self._credentials.name}: {self._explain(result, methods)}")
        self._method = others[0]

    @abstractmethod
    def _explain(self, result: int, methods: list[int]) -> str:
        """Why no method is left, for a person."""


class MonitorLogin(_Login):
    """One login to a monitor: proves that we know our key, and brings tickets and a global id."""

    def __init__(self, credentials: Credentials, now: float) -> None:
        super().__init__(credentials, credentials.methods[0])
        self._now = now
        self._global_id = 0
        self._tickets: dict[int, _Ticket] = {}

    def request(self) -> bytes:
        """Who we are."""
        us = self._credentials
        return MonitorHello(MODE_MONITOR, us.entity_type, us.entity_id, us.global_id).to_bytes()

    def on_more(self, payload: bytes) -> bytes:
        """Answer the challenge."""
        us = self._credentials
        assert us.key is not None
        challenge = ServerChallenge.from_bytes(payload).challenge
        ours = int.from_bytes(us.random(8), "little")
        proof = us.key.prove(challenge, ours, us.random)
        old_ticket = us.ticket_blob(EntityType.AUTH)
        return Authenticate(GET_AUTH_SESSION_KEY, 3, ours, proof, old_ticket, _SERVICES | EntityType.AUTH).to_bytes()

    def on_done(self, global_id: int, payload: bytes) -> Secrets:
        """Take the tickets, but leave those that we have in use.

        A global id that is new may become known only together with the session: until then, ops that have been sent
        would be sent again under it, and the OSDs would not know them again.
        """
        us = self._credentials
        self._global_id = global_id
        if self._method == Method.NONE:
            return Secrets()
        assert us.key is not None
        reply = AuthenticateReply.from_bytes(payload)
        expect_request(reply.request, GET_AUTH_SESSION_KEY)
        try:
            tickets = us.unpack_tickets(reply.tickets, us.key, self._now)
        except WireError as err:
            raise AuthenticationFailed(f"{us.name}: the monitor does not know this client's key: {err}") from err
        auth = tickets.get(EntityType.AUTH)
        if auth is None:
            raise WireError("login without an AUTH ticket")
        if reply.extra:
            tickets |= us.unpack_tickets(TicketList.from_bytes(reply.extra), auth.session_key, self._now)
        secret = b""
        if reply.connection_secret:  # 16.2 leaves it out in CRC mode, 20.2 sends an empty string
            sealed = decode_value(bytes, reply.connection_secret)
            secret = decode_value(bytes, auth.session_key.unseal(Usage.CONNECTION_SECRET, sealed))
        self._tickets = tickets
        return Secrets(auth.session_key.secret, secret)

    def on_established(self) -> None:
        """Use what the login brought."""
        self._credentials.install(self._global_id, self._tickets)

    def _explain(self, result: int, methods: list[int]) -> str:
        us = self._credentials
        if self._method == Method.CEPHX and result == _EACCES and us.key is not None:
            source = f", from {us.key_source}" if us.key_source else ""
            ticket = ", or the ticket of the last login has ended" if us.global_id else ""
            return (
                "the monitor refuses this client: no such client, a wrong key, or a key of a type that the cluster"
                f" does not allow (ours is of type {us.key.type.name}{source}){ticket}"
            )
        if us.key is None and Method.CEPHX in methods:
            return f"the cluster wants a key, and there is none: {us.key_source}"
        return f"the monitor refuses method {_names([self._method])} (error {-result}), it allows {_names(methods)}"


class ServiceLogin(_Login):
    """One login to an OSD or a manager: shows the ticket, answers the challenge."""

    def __init__(self, credentials: Credentials, service: EntityType, now: float) -> None:
        has_ticket = bool(credentials.ticket_blob(service).blob)
        if not has_ticket and Method.NONE not in credentials.methods:
            raise AuthenticationFailed(f"{credentials.name}: no ticket for {service.name.lower()} services")
        super().__init__(credentials, Method.CEPHX if has_ticket else Method.NONE)
        self._service = service
        self._nonce = int.from_bytes(credentials.random(8), "little")
        if has_ticket:  # as of now: a renewal meanwhile must not mix two tickets
            self._key = credentials.session_key(service)
            self._ticket = credentials.ticket_blob(service)

    def request(self) -> bytes:
        """The authorizer."""
        us = self._credentials
        if self._method == Method.NONE:
            return NoneAuthorizer(MODE_AUTHORIZER, us.entity_type, us.entity_id, us.global_id).to_bytes()
        return us.authorizer(self._service, self._ticket, self._key, self._nonce).to_bytes()

    def on_more(self, payload: bytes) -> bytes:
        """The authorizer again, with the answer to the challenge."""
        challenge = ServerChallenge.from_bytes(self._key.unseal(Usage.AUTHORIZE_CHALLENGE, payload)).challenge
        return self._credentials.authorizer(self._service, self._ticket, self._key, self._nonce, challenge).to_bytes()

    def on_done(self, global_id: int, payload: bytes) -> Secrets:
        """Check that the service could read our authorizer."""
        if self._method == Method.NONE:
            return Secrets()
        sealed = decode_value(bytes, payload)
        try:
            reply = AuthorizeReply.from_bytes(self._key.unseal(Usage.AUTHORIZE_REPLY, sealed))
        except WireError as err:
            raise AuthenticationFailed(f"the {self._name()} does not know the ticket it was shown: {err}") from err
        if reply.nonce != (self._nonce + 1) % 2**64:
            raise AuthenticationFailed(f"the {self._name()} does not know the ticket it was shown")
        return Secrets(self._key.secret, reply.connection_secret)

    def on_established(self) -> None:
        """It brought nothing."""

    def _name(self) -> str:
        return self._service.name.lower()

    def _explain(self, result: int, methods: list[int]) -> str:
        if result == _EACCES:
            return f"the {self._name()} refuses our ticket: expired, or its secrets have rotated"
        return (
            f"the {self._name()} refuses method {_names([self._method])} (error {-result}), it allows {_names(methods)}"
        )


def _names(methods: Sequence[int]) -> str:
    known = {method.value: method.name.lower() for method in Method}
    return ", ".join(known.get(method, str(method)) for method in methods) or "none at all"
