"""The two ciphers of cephx keys; a key is of one type for life, and every key is used by its own.

Type 1 is AES-128-CBC with a fixed initial vector and PKCS#7 padding: the same text always gives the same cipher text.
Type 2 is AES256KRB5 (RFC 8009's aes256-cts-hmac-sha384-192): a random confounder, integrity, and derived keys for each
usage, so that what was encrypted for one purpose cannot be passed off as another.
"""

import hmac
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from rbdfs.errors import WireError
from rbdfs.wire import Buffer

Random = Callable[[int], bytes]  # so many bytes that nobody can guess


class Usage(IntEnum):
    """What something is encrypted for (`CephxProtocol.h`); type 1 keys ignore it."""

    CONNECTION_SECRET = 0x03
    TICKET_SESSION_KEY = 0x04
    TICKET_BLOB = 0x05
    AUTHORIZE = 0x10
    AUTHORIZE_CHALLENGE = 0x11
    AUTHORIZE_REPLY = 0x12


class KeyCipher(Protocol):
    """Encryption with one key."""

    def encrypt(self, usage: int, plain: bytes, random: Random) -> bytes:
        """The cipher text."""

    def decrypt(self, usage: int, data: Buffer) -> bytes:
        """The plain text; WireError where this key did not encrypt it."""

    def prove(self, server_challenge: int, client_challenge: int, seal: Callable[[bytes], bytes]) -> int:
        """The number that shows to a monitor that we know this key; `seal` is its envelope without a length."""


class Aes128Cipher:
    """Type 1."""

    _IV = b"cephsageyudagreg"  # Crypto.cc

    def __init__(self, secret: bytes) -> None:
        self._cipher = Cipher(algorithms.AES(secret), modes.CBC(self._IV))

    def encrypt(self, usage: int, plain: bytes, random: Random) -> bytes:
        """The cipher text, the same every time."""
        count = 16 - len(plain) % 16
        encryptor = self._cipher.encryptor()
        return encryptor.update(plain + bytes([count]) * count) + encryptor.finalize()

    def decrypt(self, usage: int, data: Buffer) -> bytes:
        """The plain text; WireError where the padding is none."""
        if not len(data) or len(data) % 16:
            raise WireError(f"{len(data)} encrypted bytes are no whole blocks")
        decryptor = self._cipher.decryptor()
        plain = decryptor.update(data) + decryptor.finalize()
        count = plain[-1]
        if not 1 <= count <= 16 or plain[-count:] != bytes([count]) * count:
            raise WireError("not encrypted with this key")
        return plain[:-count]

    def prove(self, server_challenge: int, client_challenge: int, seal: Callable[[bytes], bytes]) -> int:
        """The encrypted challenges, length prefix included, folded (cephx_calc_client_server_challenge)."""
        sealed = seal(struct.pack("<QQ", server_challenge, client_challenge))
        return _fold(struct.pack("<I", len(sealed)) + sealed)


class Aes256Krb5Cipher:
    """Type 2."""

    _CONFOUNDER = 16
    _DIGEST = 24
    _NO_IV = bytes(16)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._derived: dict[int, tuple[algorithms.AES, bytes]] = {}

    def _keys(self, usage: int) -> tuple[algorithms.AES, bytes]:
        """The keys for encryption and integrity of a usage (RFC 8009, section 5)."""
        keys = self._derived.get(usage)
        if keys is None:
            keys = algorithms.AES(self._derive(usage, 0xAA, 256)), self._derive(usage, 0x55, 192)
            self._derived[usage] = keys
        return keys

    def _derive(self, usage: int, purpose: int, bits: int) -> bytes:
        message = struct.pack(">IIBBI", 1, usage, purpose, 0, bits)  # big-endian, as nowhere else in cephx
        return hmac.digest(self._secret, message, "sha384")[: bits // 8]

    def encrypt(self, usage: int, plain: bytes, random: Random) -> bytes:
        """Cipher text and digest; 40 bytes more than the plain text."""
        aes, integrity = self._keys(usage)
        text = random(self._CONFOUNDER) + plain
        encryptor = Cipher(aes, modes.CBC(self._NO_IV)).encryptor()
        blocks = encryptor.update(text + bytes(-len(text) % 16)) + encryptor.finalize()
        if len(text) > 16:  # cipher text stealing, CS3: the last two blocks change places, the then last is cut
            tail = len(text) % 16 or 16
            blocks = blocks[:-32] + blocks[-16:] + blocks[-32 : -32 + tail]
        return blocks + hmac.digest(integrity, self._NO_IV + blocks, "sha384")[: self._DIGEST]

    def decrypt(self, usage: int, data: Buffer) -> bytes:
        """The plain text; WireError where the digest is wrong."""
        if len(data) < self._CONFOUNDER + self._DIGEST:
            raise WireError(f"{len(data)} encrypted bytes are too few")
        aes, integrity = self._keys(usage)
        text, digest = bytes(data[: -self._DIGEST]), bytes(data[-self._DIGEST :])
        expected = hmac.digest(integrity, self._NO_IV + text, "sha384")[: self._DIGEST]
        if not hmac.compare_digest(digest, expected):
            raise WireError("not encrypted with this key")
        length = len(text)
        if length > 16:
            tail = length % 16 or 16
            swapped, stolen = text[-16 - tail : -tail], text[-tail:]
            decryptor = Cipher(aes, modes.ECB()).decryptor()
            last = decryptor.update(swapped) + decryptor.finalize()
            text = text[: -16 - tail] + stolen + last[tail:] + swapped
        decryptor = Cipher(aes, modes.CBC(self._NO_IV)).decryptor()
        return (decryptor.update(text) + decryptor.finalize())[self._CONFOUNDER : length]

    def prove(self, server_challenge: int, client_challenge: int, seal: Callable[[bytes], bytes]) -> int:
        """A keyed digest of the challenges, folded; encryption is of no use here, since it is never the same."""
        return _fold(hmac.digest(self._secret, struct.pack("<QQ", server_challenge, client_challenge), "sha256"))


def _fold(data: bytes) -> int:
    """The exclusive or of all whole words."""
    result = 0
    for (word,) in struct.iter_unpack("<Q", data[: len(data) // 8 * 8]):
        result ^= word
    return result
