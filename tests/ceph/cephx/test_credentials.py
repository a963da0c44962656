"""Tickets: when they are renewed, what becomes of them, what goes wrong."""

import math
import os
import struct
from typing import Any

import pytest
from ceph.monitor_peer import TicketMonitor, new_key

from rbdfs.ceph.cephx.ciphers import Usage
from rbdfs.ceph.cephx.credentials import Credentials
from rbdfs.ceph.cephx.keys import CryptoKey, KeyType
from rbdfs.ceph.cephx.structures import (
    GET_AUTH_SESSION_KEY,
    GET_PRINCIPAL_SESSION_KEY,
    AuthenticateReply,
    Authorize,
    Authorizer,
    AuthorizeReply,
    MAuthReply,
    RenewalReply,
    ServerChallenge,
    TicketBlob,
    TicketEntry,
    TicketList,
    TicketSecret,
)
from rbdfs.ceph.msgr2.login import Method
from rbdfs.entities import EntityType, UTime
from rbdfs.errors import AuthenticationFailed, RbdfsError, WireError
from rbdfs.wire import encode_value

AUTH, MON, OSD = EntityType.AUTH, EntityType.MON, EntityType.OSD


def logged_in(client: KeyType, service: KeyType, **options: Any) -> tuple[Credentials, TicketMonitor]:
    key = new_key(client)
    credentials, monitor = Credentials("client.admin", key, os.urandom), TicketMonitor(key, service, **options)
    monitor.login(credentials.monitor_login(0.0))
    return credentials, monitor


TYPES = pytest.mark.parametrize(("client", "service"), [(c, s) for c in KeyType for s in KeyType])


@TYPES
def test_login_brings_tickets_and_a_global_id(client: KeyType, service: KeyType) -> None:
    credentials, _ = logged_in(client, service)
    assert credentials.global_id == 4100
    assert all(credentials.has_ticket(s, 59.0) for s in (AUTH, MON, OSD))
    assert not credentials.has_ticket(OSD, 61.0)


@TYPES
def test_new_login_shows_the_ticket_and_keeps_the_global_id(client: KeyType, service: KeyType) -> None:
    credentials, monitor = logged_in(client, service)
    monitor.login(credentials.monitor_login(100.0), global_id=9999)
    assert credentials.global_id == 4100
    credentials.forget_tickets()
    monitor.login(credentials.monitor_login(200.0), global_id=9999)
    assert credentials.global_id == 9999


@TYPES
def test_renewal_replaces_service_tickets(client: KeyType, service: KeyType) -> None:
    credentials, monitor = logged_in(client, service)
    assert credentials.renew_at == 45.0
    assert credentials.login_again_at == 450.0
    before = credentials.ticket_blob(OSD)
    credentials.on_renewal_reply(monitor.renew(credentials.renewal_request(45.0)), 45.0)
    assert credentials.renew_at == 90.0
    assert credentials.ticket_blob(OSD) != before
    assert credentials.session_key(OSD) == monitor.service_keys[OSD]


def test_monitor_that_gives_short_tickets_or_none_is_not_asked_in_a_loop() -> None:
    credentials, _ = logged_in(KeyType.AES, KeyType.AES, ttl=0)
    assert credentials.renew_at == credentials.login_again_at == 1.0
    nothing = RenewalReply(GET_PRINCIPAL_SESSION_KEY, 0, TicketList(1, [])).to_bytes()
    credentials.on_renewal_reply(MAuthReply(2, 0, 4100, nothing, "").to_bytes(), 1.0)
    assert credentials.renew_at == math.inf


def test_client_lives_a_week_on_tickets_of_a_minute() -> None:
    """Simulated time: renew and log in whenever due, and there is a good ticket at every moment."""
    credentials, monitor = logged_in(KeyType.AES256KRB5, KeyType.AES256KRB5)
    now, logins, renewals = 0.0, 1, 0
    while now < 7 * 86400:
        now = min(credentials.renew_at, credentials.login_again_at)
        assert all(credentials.has_ticket(s, now) for s in (AUTH, MON, OSD))
        if now == credentials.login_again_at:
            monitor.login(credentials.monitor_login(now))
            logins += 1
        else:
            credentials.on_renewal_reply(monitor.renew(credentials.renewal_request(now)), now)
            renewals += 1
        assert credentials.global_id == 4100
    assert (logins, renewals) == (pytest.approx(7 * 86400 / 450, rel=0.01), pytest.approx(7 * 86400 / 45, rel=0.1))


def service_answers(key: CryptoKey, authorizer: bytes, challenge: int, reply_key: CryptoKey | None = None) -> bytes:
    """What an OSD answers to the second authorizer, after checking it."""
    shown = Authorizer.from_bytes(authorizer)
    body = Authorize.from_bytes(key.unseal(Usage.AUTHORIZE, shown.authorize))
    assert (body.has_challenge, body.challenge) == (True, (challenge + 1) % 2**64)
    reply = struct.pack("<BQ", 2, (body.nonce + 1) % 2**64) + encode_value(bytes, b"s" * 64)
    return encode_value(bytes, (reply_key or key).seal(Usage.AUTHORIZE_REPLY, reply, os.urandom))


@TYPES
def test_authorizer_answers_the_challenge(client: KeyType, service: KeyType) -> None:
    credentials, monitor = logged_in(client, service)
    login, key = credentials.service_login(OSD, 0.0), monitor.service_keys[OSD]
    assert Authorizer.from_bytes(login.request()).service == OSD
    challenge = 2**64 - 1  # plus one is zero
    sealed = key.seal(Usage.AUTHORIZE_CHALLENGE, ServerChallenge(1, challenge).to_bytes(), os.urandom)
    secrets = login.on_done(4100, service_answers(key, login.on_more(sealed), challenge))
    assert secrets == (key.secret, b"s" * 64)


def test_renewal_in_the_middle_of_a_login_does_not_mix_tickets() -> None:
    credentials, monitor = logged_in(KeyType.AES, KeyType.AES)
    login, key = credentials.service_login(OSD, 0.0), monitor.service_keys[OSD]
    login.request()
    credentials.on_renewal_reply(monitor.renew(credentials.renewal_request(1.0)), 1.0)
    sealed = key.seal(Usage.AUTHORIZE_CHALLENGE, ServerChallenge(1, 5).to_bytes(), os.urandom)
    assert login.on_done(4100, service_answers(key, login.on_more(sealed), 5)).session_key == key.secret


def test_service_that_does_not_know_the_ticket_is_refused() -> None:
    credentials, monitor = logged_in(KeyType.AES256KRB5, KeyType.AES256KRB5)
    login, key = credentials.service_login(OSD, 0.0), monitor.service_keys[OSD]
    sealed = key.seal(Usage.AUTHORIZE_CHALLENGE, ServerChallenge(1, 5).to_bytes(), os.urandom)
    answer = service_answers(key, login.on_more(sealed), 5, reply_key=new_key(KeyType.AES256KRB5))
    with pytest.raises(AuthenticationFailed, match="does not know the ticket"):
        login.on_done(4100, answer)
    wrong_nonce = key.seal(Usage.AUTHORIZE_REPLY, struct.pack("<BQ", 1, 0), os.urandom)
    with pytest.raises(AuthenticationFailed, match="does not know the ticket"):
        login.on_done(4100, encode_value(bytes, wrong_nonce))


@TYPES
def test_monitor_that_does_not_know_our_key_is_refused(client: KeyType, service: KeyType) -> None:
    impostor = TicketMonitor(new_key(client), service)
    credentials = Credentials("client.admin", new_key(client), os.urandom)
    login = credentials.monitor_login(0.0)
    impostor.auth_key = new_key(client)
    first = TicketList(1, [impostor.entry(AUTH, impostor.client_key, impostor.auth_key, 60, None)])
    with pytest.raises(AuthenticationFailed, match="does not know this client's key"):
        login.on_done(1, AuthenticateReply(GET_AUTH_SESSION_KEY, 0, first, b"", b"").to_bytes())
    assert credentials.global_id == 0


def test_refusals_say_what_to_look_at() -> None:
    keyed = Credentials("client.vm", new_key(KeyType.AES), os.urandom, key_source="/etc/ceph/k:2")
    with pytest.raises(AuthenticationFailed, match=r"client\.vm.*wrong key.*type AES, from /etc/ceph/k:2"):
        keyed.monitor_login(0).on_refused(-13, [2])
    keyless = Credentials("client.vm", None, os.urandom, key_source="no keyring at /etc/ceph/x")
    with pytest.raises(AuthenticationFailed, match="wants a key, and there is none: no keyring at /etc/ceph/x"):
        keyless.monitor_login(0).on_refused(-95, [2])
    only_cephx = Credentials("client.vm", None, os.urandom, [Method.CEPHX], key_source="no keyring at /etc/ceph/x")
    with pytest.raises(AuthenticationFailed, match="no keyring at /etc/ceph/x"):
        only_cephx.monitor_login(0)
    with pytest.raises(AuthenticationFailed, match="no ticket for osd"):
        Credentials("client.vm", new_key(KeyType.AES), os.urandom, [Method.CEPHX]).service_login(OSD, 0)
    credentials, _ = logged_in(KeyType.AES, KeyType.AES)
    with pytest.raises(AuthenticationFailed, match="osd refuses our ticket: expired"):
        credentials.service_login(OSD, 0).on_refused(-13, [2])
    with pytest.raises(AuthenticationFailed, match=r"renewed no ticket.*go away"):
        credentials.on_renewal_reply(MAuthReply(2, -13, 0, b"", "go away").to_bytes(), 0)


def test_cluster_without_authentication_gives_no_tickets() -> None:
    credentials = Credentials("client.admin", None, os.urandom)
    login = credentials.monitor_login(0.0)
    assert login.method == Method.NONE
    assert login.on_done(4200, b"") == (b"", b"")
    login.on_established()
    assert credentials.global_id == 4200
    assert credentials.renew_at == credentials.login_again_at == math.inf
    osd = credentials.service_login(OSD, 0.0)
    assert osd.method == Method.NONE
    assert osd.request() == b"\1" + struct.pack("<I", 8) + b"\5\0\0\0admin" + struct.pack("<Q", 4200)


STRUCTURES = [
    AuthenticateReply(GET_AUTH_SESSION_KEY, 0, TicketList(1, [TicketEntry(4, 1, b"x", True, b"y")]), b"c", b"e"),
    RenewalReply(GET_PRINCIPAL_SESSION_KEY, 0, TicketList(1, [TicketEntry(4, 1, b"x", False, b"y")])),
    TicketSecret(1, new_key(KeyType.AES256KRB5), UTime(60)),
    MAuthReply(2, 0, 4100, b"payload", "message"),
    TicketBlob(1, 2, b"blob"),
]


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: type(structure).__name__)
def test_structures_cut_anywhere_are_wire_errors(structure: Any) -> None:
    encoded = structure.to_bytes()
    assert type(structure).from_bytes(encoded) == structure
    for end in range(len(encoded)):
        with pytest.raises(WireError):
            type(structure).from_bytes(encoded[:end])


def test_damaged_answers_are_errors_of_ours() -> None:
    for place in range(0, 400, 3):
        credentials, monitor = logged_in(KeyType.AES, KeyType.AES)
        reply = bytearray(monitor.renew(credentials.renewal_request(1.0)))
        reply[place % len(reply)] ^= 1 << place % 8
        try:
            credentials.on_renewal_reply(bytes(reply), 1.0)
        except RbdfsError:
            assert credentials.has_ticket(OSD, 1.0)


def test_authorize_reply_without_secret_is_version_1() -> None:
    assert AuthorizeReply.from_bytes(struct.pack("<BQ", 1, 5)) == AuthorizeReply(1, 5)
    assert AuthorizeReply.from_bytes(struct.pack("<BQI", 2, 5, 0)) == AuthorizeReply(2, 5)
    with pytest.raises(WireError):
        AuthorizeReply.from_bytes(struct.pack("<BQI", 2, 5, 9))
