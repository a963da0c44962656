"""Times, entities and addresses, as text and as bytes."""

import pytest

from rbdfs.cls.types import EntityAddress, EntityName, Time
from rbdfs.errors import WireError
from rbdfs.wire import Cursor, encode_value


def test_times_are_nanoseconds() -> None:
    assert Time.from_ns(1_700_000_000_000_000_001) == Time(1_700_000_000, 1)
    assert Time(2, 3).ns == 2_000_000_003


def test_entities_are_named_as_ceph_does() -> None:
    assert str(EntityName(8, 4123)) == "client.4123"
    assert EntityName.parse("client.4123") == EntityName(8, 4123)
    with pytest.raises(ValueError, match="visitor"):
        EntityName.parse("visitor.1")


@pytest.mark.parametrize("text", ["127.0.0.1:0/40882352", "10.1.2.3:6801/0", "[::1]:0/7", "[fd00::1]:3300/12"])
def test_addresses_keep_their_text(text: str) -> None:
    address = EntityAddress.parse(text)
    assert str(address) == text
    data = encode_value(EntityAddress, address)
    assert EntityAddress.decode(Cursor(data)) == address
    for end in range(len(data)):
        with pytest.raises(WireError):
            EntityAddress.decode(Cursor(data[:end]))


def test_an_address_in_the_form_before_nautilus() -> None:
    data = bytes(4) + (7).to_bytes(4, "little") + bytes((0, 2, 0x1A, 0x85, 127, 0, 0, 1)) + bytes(120)
    assert EntityAddress.decode(Cursor(data)) == EntityAddress("127.0.0.1", 6789, 7, 1)


def test_an_empty_address() -> None:
    data = encode_value(EntityAddress, EntityAddress())
    assert EntityAddress.decode(Cursor(data)) == EntityAddress()
    assert str(EntityAddress()) == "-"


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(WireError, match="marker"):
        EntityAddress.decode(Cursor(b"\7" + bytes(140)))
    with pytest.raises(WireError, match="family"):
        EntityAddress.decode(Cursor(b"\1\1\1\x0e\0\0\0" + bytes(8) + b"\2\0\0\0\x01\0"))
