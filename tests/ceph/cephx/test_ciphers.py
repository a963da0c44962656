"""The ciphers of both key types, against what others published and recorded."""

import pytest
from hypothesis import given, strategies as st

from rbdfs.ceph.cephx.ciphers import Aes256Krb5Cipher
from rbdfs.ceph.cephx.keys import CryptoKey, KeyType
from rbdfs.errors import WireError

# RFC 8009, appendix A: key derivation and encryption with usage 2
BASE_KEY = bytes.fromhex("6D404D37FAF79F9DF0D33568D320669800EB4836472EA8A026D16B7182460C52")
ENCRYPTIONS = [
    (
        "",
        "F764E9FA15C276478B2C7D0C4E5F58E4",
        "41F53FA5BFE7026D91FAF9BE959195A058707273A96A40F0A01960621AC612748B9BBFBE7EB4CE3C",
    ),
    (
        "000102030405",
        "B80D3251C1F6471494256FFE712D0B9A",
        "4ED7B37C2BCAC8F74F23C1CF07E62BC7B75FB3F637B9F559C7F664F69EAB7B6092237526EA0D1F61CB20D69D10F2",
    ),
    (
        "000102030405060708090A0B0C0D0E0F",
        "53BF8A0D105265D4E276428624CE5E63",
        "BC47FFEC7998EB91E8115CF8D19DAC4BBBE2E163E87DD37F49BECA92027764F68CF51F14D798C2273F35DF574D1F932E40C4FF255B36A266",
    ),
    (
        "000102030405060708090A0B0C0D0E0F1011121314",
        "763E65367E864F02F55153C7E3B58AF1",
        "40013E2DF58E8751957D2878BCD2D6FE101CCFD556CB1EAE79DB3C3EE86429F2B2A602AC86FEF6ECB647D6295FAE077A1FEB517508D2C16B"
        "4192E01F62",
    ),
]


@pytest.mark.parametrize(("plain", "confounder", "encrypted"), ENCRYPTIONS)
def test_type_2_is_the_cipher_of_rfc_8009(plain: str, confounder: str, encrypted: str) -> None:
    cipher = Aes256Krb5Cipher(BASE_KEY)
    assert cipher.encrypt(2, bytes.fromhex(plain), lambda _: bytes.fromhex(confounder)).hex() == encrypted.lower()
    assert cipher.decrypt(2, bytes.fromhex(encrypted)).hex() == plain.lower()


def key(key_type: KeyType) -> CryptoKey:
    return CryptoKey(key_type, bytes(range(16 * key_type)))


BOTH_TYPES = pytest.mark.parametrize("key_type", list(KeyType))


@BOTH_TYPES
@given(body=st.binary(max_size=200))
def test_sealed_body_comes_out_again(key_type: KeyType, body: bytes) -> None:
    assert key(key_type).unseal(0x10, key(key_type).seal(0x10, body, bytes)) == body


@BOTH_TYPES
def test_sealed_sizes_are_those_of_the_protocol(key_type: KeyType) -> None:
    sizes = {length: len(key(key_type).seal(4, bytes(length), bytes)) for length in (9, 18, 37)}
    assert sizes == ({9: 32, 18: 32, 37: 48} if key_type == KeyType.AES else {9: 58, 18: 67, 37: 86})


@BOTH_TYPES
def test_other_key_cannot_unseal(key_type: KeyType) -> None:
    other = CryptoKey(key_type, bytes(16 * key_type))
    with pytest.raises(WireError, match="not encrypted with this key"):
        other.unseal(4, key(key_type).seal(4, b"body", bytes))


def test_type_2_refuses_what_was_sealed_for_another_purpose() -> None:
    with pytest.raises(WireError):
        key(KeyType.AES256KRB5).unseal(5, key(KeyType.AES256KRB5).seal(4, b"body", bytes))


@BOTH_TYPES
def test_damage_never_does_more_than_wire_error(key_type: KeyType) -> None:
    sealed = key(key_type).seal(4, b"some body of a ticket", bytes)
    for end in range(len(sealed)):
        with pytest.raises(WireError):
            key(key_type).unseal(4, sealed[:end])
    found = 0
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 0x80
        try:
            key(key_type).unseal(4, damaged)
        except WireError:
            found += 1
    assert found == len(sealed) if key_type == KeyType.AES256KRB5 else found >= 16  # type 1 has no integrity


@BOTH_TYPES
def test_key_in_text_is_a_keyrings(key_type: KeyType) -> None:
    text = key(key_type).to_text()
    assert text.startswith("AQ" if key_type == KeyType.AES else "Ag")
    assert CryptoKey.from_text(f" {text}\n") == key(key_type)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64!",
        "AQAAAAAA",
        "AwAAAAAAAAAAABAAAAECAwQFBgcICQoLDA0ODw==",
        "AQAAAAAAAAAAABAAAAECAwQFBgcICQoLDA0ODxA=",
    ],
)
def test_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        CryptoKey.from_text(text)


def test_key_shows_nothing_of_itself() -> None:
    assert "0102" not in repr(key(KeyType.AES)) + str(key(KeyType.AES))
