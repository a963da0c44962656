"""The client's side of a handshake, played against what real daemons sent."""

import contextlib
import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rbdfs.ceph.cephx.credentials import Credentials
from rbdfs.ceph.cephx.keys import CryptoKey
from rbdfs.ceph.msgr2.frames import CrcFrames, Tag
from rbdfs.ceph.msgr2.handshake import Handshake
from rbdfs.ceph.msgr2.login import Login, Mode
from rbdfs.entities import EntityAddr, EntityType
from rbdfs.errors import AuthenticationFailed, NotSupported, ProtocolError, RbdfsError, WireError

VECTORS = {
    path.stem.removeprefix("handshakes-"): json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[2] / "vectors/msgr2").glob("handshakes-*.json"))
}
NONCE = 0x1234567
BANNER_SIZE = 26
SIGNATURE_SIZE = 68  # the frame
PEERS = {"mon": EntityType.MON, "again": EntityType.MON, "osd": EntityType.OSD}


def fixed_random(seed: str) -> Callable[[int], bytes]:
    """As in the recording."""
    numbers = itertools.count()
    return lambda length: hashlib.shake_128(f"{seed} {next(numbers)}".encode()).digest(length)


def recorded_client(release: str, mode: Mode) -> Credentials:
    return Credentials("client.admin", CryptoKey.from_text(VECTORS[release]["key"]), fixed_random(mode.name))


def recorded(
    release: str, mode: Mode, credentials: Credentials | None = None
) -> Iterator[tuple[str, Handshake, list[tuple[bytes, bytes]]]]:
    """The three handshakes of one client, each to be played before the next is asked for."""
    credentials = credentials or recorded_client(release, mode)
    for name, handshake in VECTORS[release][mode.name].items():
        login: Login = (
            credentials.service_login(EntityType.OSD, 0.0) if name == "osd" else credentials.monitor_login(0.0)
        )
        target = EntityAddr(2, "127.0.0.1", handshake["port"], handshake["nonce"])
        steps = [(bytes.fromhex(step["received"]), bytes.fromhex(step["sent"])) for step in handshake["steps"]]
        yield name, Handshake(target, PEERS[name], login, nonce=NONCE, modes=[mode]), steps


def play(handshake: Handshake, steps: list[tuple[bytes, bytes]]) -> Handshake:
    assert handshake.start() == steps[0][1]
    for received, sent in steps[1:]:
        assert handshake.receive(received) == sent
    assert handshake.established is not None
    return handshake


BOTH_MODES = pytest.mark.parametrize("mode", list(Mode))
EVERY_RELEASE = pytest.mark.parametrize("release", VECTORS)


@EVERY_RELEASE
@BOTH_MODES
def test_recorded_handshakes_end_well(release: str, mode: Mode) -> None:
    established: dict[str, Any] = {}
    for name, handshake, steps in recorded(release, mode):
        established[name] = play(handshake, steps).established
    assert {session.mode for session in established.values()} == {mode}
    assert established["again"].global_id == established["mon"].global_id == established["osd"].global_id
    assert established["osd"].my_addr == EntityAddr(3, "127.0.0.1", 0, NONCE)
    assert established["osd"].peer_id == 0


@EVERY_RELEASE
@BOTH_MODES
def test_tickets_and_global_id_are_in_use_once_the_session_stands(release: str, mode: Mode) -> None:
    credentials = recorded_client(release, mode)
    _, handshake, steps = next(recorded(release, mode, credentials))
    handshake.start()
    for received, _ in steps[1:]:
        assert (credentials.global_id, credentials.has_ticket(EntityType.OSD, 0.0)) == (0, False)
        handshake.receive(received)
    assert handshake.established is not None
    assert credentials.global_id == handshake.established.global_id
    assert credentials.has_ticket(EntityType.OSD, 0.0)


@EVERY_RELEASE
@BOTH_MODES
def test_bytes_may_come_one_by_one(release: str, mode: Mode) -> None:
    for _, handshake, steps in recorded(release, mode):
        sent = handshake.start()
        for byte in b"".join(received for received, _ in steps):
            sent += handshake.receive(bytes([byte]))
        assert sent == b"".join(step for _, step in steps)
        assert handshake.established is not None


@EVERY_RELEASE
@BOTH_MODES
def test_damage_ends_the_handshake_or_leaves_it_waiting(release: str, mode: Mode) -> None:
    dice = random.Random(f"{release} {mode}")
    for _ in range(60):
        for name, handshake, steps in recorded(release, mode):
            if dice.random() < 0.5:
                play(handshake, steps)
                continue
            received = bytearray(b"".join(step for step, _ in steps))
            place = dice.randrange(len(received))
            received[place] ^= 1 << dice.randrange(8)
            handshake.start()
            with contextlib.suppress(RbdfsError):
                handshake.receive(received)
            # what only our signature protects, the peer would find
            assert handshake.established is None or place < BANNER_SIZE, (name, place)
            break


def greeted(target: EntityType = EntityType.MON, modes: list[Mode] | None = None) -> Handshake:
    """A handshake that has had the peer's banner and HELLO."""
    vectors = VECTORS["16.2"]["CRC"]["mon"]
    credentials = Credentials("client.admin", CryptoKey.from_text(VECTORS["16.2"]["key"]), fixed_random("x"))
    address = EntityAddr(2, "127.0.0.1", vectors["port"], 0)
    handshake = Handshake(address, target, credentials.monitor_login(0.0), nonce=NONCE, modes=modes or [Mode.CRC])
    handshake.start()
    for step in vectors["steps"][1:3]:
        handshake.receive(bytes.fromhex(step["received"]))
    return handshake


def receive_unsummed_greeting(*, with_data_crc: bool) -> bytes:
    """What we answer to a HELLO without its checksum."""
    login = Credentials("client.x", None, bytes).monitor_login(0)
    target = EntityAddr(2, "10.0.0.1", 3300)
    handshake = Handshake(target, EntityType.MON, login, nonce=1, with_data_crc=with_data_crc)
    handshake.start()
    greeting = bytes.fromhex(VECTORS["20.2"]["CRC"]["mon"]["steps"][1]["received"])
    return handshake.receive(greeting[:-4] + bytes(4))


def test_handshake_may_have_no_checksums_where_that_is_agreed() -> None:
    assert receive_unsummed_greeting(with_data_crc=False)
    with pytest.raises(WireError, match="is ms_crc_data false there"):
        receive_unsummed_greeting(with_data_crc=True)


def test_our_signature_covers_every_byte_received() -> None:
    _, handshake, steps = next(recorded("16.2", Mode.CRC))
    handshake.start()
    greeting = bytearray(steps[1][0])
    greeting[10] ^= 2  # a feature more in the banner than the peer said
    assert handshake.receive(greeting) == steps[1][1]
    assert handshake.receive(steps[2][0]) == steps[2][1]
    signature = handshake.receive(steps[3][0][:-SIGNATURE_SIZE])
    assert len(signature) == SIGNATURE_SIZE
    assert signature != steps[3][1][:SIGNATURE_SIZE]


def test_wrong_signature_is_damage_and_no_refusal_of_the_login() -> None:
    _, handshake, steps = next(recorded("16.2", Mode.CRC))
    handshake.start()
    handshake.receive(b"".join(received for received, _ in steps[:4])[:-SIGNATURE_SIZE])
    with pytest.raises(ProtocolError, match="its signature is wrong"):
        handshake.receive(CrcFrames().encode(Tag.AUTH_SIGNATURE, bytes(32)))


def test_wrong_kind_of_daemon_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not osd"):
        greeted(target=EntityType.OSD)


def bad_method(result: int, methods: list[int], modes: list[int]) -> bytes:
    body = b"".join(
        number.to_bytes(4, "little", signed=number < 0)
        for number in [2, result, len(methods), *methods, len(modes), *modes]
    )
    return CrcFrames().encode(Tag.AUTH_BAD_METHOD, body)


def test_refused_key_names_client_and_key_type() -> None:
    with pytest.raises(AuthenticationFailed, match=r"client\.admin: .* wrong key.* AES"):
        greeted().receive(bad_method(-13, [2], [1, 2]))


def test_refused_mode_names_both_sides_modes() -> None:
    with pytest.raises(NotSupported, match="allows connection modes secure, we offer crc"):
        greeted().receive(bad_method(-95, [2], [2]))


def test_method_none_is_tried_where_only_that_is_allowed() -> None:
    handshake = greeted()
    again = handshake.receive(bad_method(-95, [1], [1, 2]))
    frame = CrcFrames().decode(memoryview(again), 0, len(again))
    assert frame is not None
    assert frame[0] == Tag.AUTH_REQUEST
    assert bytes(frame[1][0][:4]) == b"\1\0\0\0"
    with pytest.raises(AuthenticationFailed):  # and no third time
        handshake.receive(bad_method(-95, [1], [1, 2]))


def test_challenge_is_out_of_turn_where_nothing_is_to_be_proved() -> None:
    handshake = started(EntityType.MON)  # without a key
    handshake.receive(bytes.fromhex(VECTORS["16.2"]["CRC"]["mon"]["steps"][1]["received"]))
    with pytest.raises(ProtocolError, match="AUTH_REPLY_MORE where AUTH_BAD_METHOD/AUTH_DONE was due"):
        handshake.receive(CrcFrames().encode(Tag.AUTH_REPLY_MORE, b"\4\0\0\0more"))


OTHER_GREETINGS = pytest.mark.parametrize(
    ("greeting", "message"),
    [
        (b"ceph v027\0\0\0\0", "messenger 1"),
        (b"HTTP/1.1 400", "no Ceph daemon"),
        (b"ceph v2\n\x10\0" + bytes([3, *[0] * 7, 2, *[0] * 7]), "features 0x3, of which required 0x2"),
    ],
)


def started(peer: EntityType) -> Handshake:
    """One that has sent its banner."""
    login = Credentials("client.x", None, bytes).monitor_login(0)
    handshake = Handshake(EntityAddr(2, "10.0.0.1", 3300), peer, login, nonce=1)
    handshake.start()
    return handshake


@OTHER_GREETINGS
def test_other_greetings_are_refused_by_name(greeting: bytes, message: str) -> None:
    with pytest.raises(NotSupported, match=message):
        started(EntityType.MON).receive(greeting)


@OTHER_GREETINGS
def test_other_greetings_at_an_osds_address_are_a_lost_connection(greeting: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        started(EntityType.OSD).receive(greeting)


def test_short_banner_is_refused() -> None:
    with pytest.raises(ProtocolError, match="banner of 4"):
        started(EntityType.MON).receive(b"ceph v2\n\4\0abcd")


def test_frame_out_of_turn_is_refused_by_name() -> None:
    with pytest.raises(ProtocolError, match="SERVER_IDENT where AUTH_BAD_METHOD"):
        greeted().receive(CrcFrames().encode(Tag.SERVER_IDENT, b""))
