"""Addresses, names, times: byte for byte, in all the forms that were ever written."""

import random
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rbdfs.entities import AddrType, AddrVec, EntityAddr, EntityName, EntityType, UTime
from rbdfs.errors import WireError

V2 = EntityAddr(AddrType.MSGR2, "127.0.0.1", 6802, 0x11223344)
V1 = EntityAddr(AddrType.LEGACY, "127.0.0.1", 6803, 0x11223344)
V6 = EntityAddr(AddrType.MSGR2, "fd00::1", 3300, 0)
NOWHERE = EntityAddr()

BYTES: list[tuple[Any, str]] = [  # marker, envelope, type, nonce, length, family, port, address
    (V2, "01 0101 1c000000 02000000 44332211 10000000 0200 1a92 7f000001 0000000000000000"),
    (V6, "01 0101 28000000 02000000 00000000 1c000000 0a00 0ce4 00000000 fd000000000000000000000000000001 00000000"),
    (NOWHERE, "01 0101 0c000000 00000000 00000000 00000000"),
    (AddrVec([V2]), "02 01000000 01 0101 1c000000 02000000 44332211 10000000 0200 1a92 7f000001 0000000000000000"),
    (AddrVec(), "02 00000000"),
    (EntityName(EntityType.CLIENT, 4123), "08 1b10000000000000"),
    (UTime(1, 500_000_000), "01000000 0065cd1d"),
]
SAMPLES = pytest.mark.parametrize(("value", "encoded"), BYTES, ids=lambda value: type(value).__name__)


@SAMPLES
def test_structure_is_these_bytes(value: Any, encoded: str) -> None:
    assert value.to_bytes().hex() == encoded.replace(" ", "")
    assert type(value).from_bytes(bytes.fromhex(encoded)) == value


@SAMPLES
def test_structure_cut_anywhere_is_a_wire_error(value: Any, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    for end in range(len(data)):
        with pytest.raises(WireError):
            type(value).from_bytes(data[:end])


@SAMPLES
def test_damage_is_at_most_a_wire_error(value: Any, encoded: str) -> None:
    dice = random.Random(encoded)
    for _ in range(200):
        data = bytearray.fromhex(encoded)
        data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            str(type(value).from_bytes(data))
        except WireError:
            continue


def test_address_of_an_old_daemon_is_read() -> None:
    """entity_addr_t before Nautilus: a sockaddr_storage, its family big-endian."""
    old = bytes.fromhex("00000000 44332211 0002 1a93 7f000001") + bytes(120)
    assert EntityAddr.from_bytes(old) == V1
    assert AddrVec.from_bytes(old) == AddrVec([V1])


def test_single_address_in_place_of_a_vector_is_read() -> None:
    assert AddrVec.from_bytes(V2.to_bytes()) == AddrVec([V2])


def test_empty_socket_address_is_nowhere() -> None:
    blank = bytes.fromhex("01 0101 28000000 00000000 00000000 1c000000") + bytes(28)
    assert EntityAddr.from_bytes(blank) == NOWHERE
    assert EntityAddr.from_bytes(bytes(136)) == NOWHERE  # in the form before Nautilus


def test_newer_address_is_read_as_far_as_it_is_known() -> None:
    newer = bytes.fromhex("01 0201 1e000000 02000000 44332211 10000000 0200 1a92 7f000001 0000000000000000 abcd")
    assert EntityAddr.from_bytes(newer) == V2


addresses = st.builds(
    EntityAddr,
    st.sampled_from(list(AddrType)),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
)


@given(st.lists(addresses, max_size=4))
def test_any_addresses_survive_the_way(addrs: list[EntityAddr]) -> None:
    assert AddrVec.from_bytes(AddrVec(addrs).to_bytes()) == AddrVec(addrs)


def test_text_is_as_ceph_shows_it() -> None:
    assert str(AddrVec([V2, V1])) == "[v2:127.0.0.1:6802/287454020,v1:127.0.0.1:6803/287454020]"
    assert str(V6) == "[fd00::1]:3300/0"
    assert str(NOWHERE) == "-"
    assert str(EntityName(EntityType.OSD, 3)) == "osd.3"
    assert str(EntityName(3, 1)) == "unknown3.1"
    assert str(AddrVec([EntityAddr(9, "10.0.0.1")])) == "[10.0.0.1:0/0]"


def test_a_client_is_read_as_object_classes_are_told_of_it() -> None:
    assert EntityName.parse("client.4123") == EntityName(EntityType.CLIENT, 4123)
    with pytest.raises(ValueError, match="visitor"):
        EntityName.parse("visitor.1")


@pytest.mark.parametrize("text", ["127.0.0.1:0/40882352", "10.1.2.3:6801/0", "[::1]:0/7", "[fd00::1]:3300/12"])
def test_an_address_keeps_its_text(text: str) -> None:
    address = EntityAddr.parse(text)
    assert address.type == AddrType.LEGACY  # what an OSD's classes store for a client
    assert str(EntityAddr.from_bytes(address.to_bytes())) == text


def test_messenger_2_address_is_chosen() -> None:
    assert AddrVec([V1, V2]).msgr2 == V2
    assert AddrVec([V1]).msgr2 is None


def test_time_is_kept_to_the_nanosecond() -> None:
    assert UTime.from_float(1.25) == UTime(1, 250_000_000)
    assert float(UTime(1, 250_000_000)) == 1.25
    assert UTime.from_ns(1_700_000_000_000_000_001) == UTime(1_700_000_000, 1)
    assert UTime(2, 3).ns == 2_000_000_003
