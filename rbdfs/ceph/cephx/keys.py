"""Keys: what a keyring has in text, and tickets bring along. A key encrypts in cephx's envelope."""

import base64
import binascii
import struct
from enum import IntEnum
from typing import Self

from rbdfs.ceph.cephx.ciphers import Aes128Cipher, Aes256Krb5Cipher, KeyCipher, Random
from rbdfs.entities import UTime
from rbdfs.errors import WireError
from rbdfs.wire import Buffer, Cursor


class KeyType(IntEnum):
    """CEPH_CRYPTO_*."""

    AES = 1
    AES256KRB5 = 2


_CIPHERS: dict[int, tuple[int, type[Aes128Cipher] | type[Aes256Krb5Cipher]]] = {
    KeyType.AES: (16, Aes128Cipher),
    KeyType.AES256KRB5: (32, Aes256Krb5Cipher),
}
_HEAD = struct.Struct("<HIIH")  # type, created, length
_ENVELOPE = struct.Struct("<BQ")
_ENVELOPE_VERSION = 1
_MAGIC = 0xFF009CAD8826AA55  # AUTH_ENC_MAGIC: tells the right key from a wrong one


class CryptoKey:
    """A secret, when it was made, and the cipher it is for."""

    __slots__ = ("_cipher", "created", "secret", "type")

    def __init__(self, key_type: int, secret: bytes, created: UTime | None = None) -> None:
        length, cipher = _CIPHERS.get(key_type, (None, None))
        if cipher is None:
            raise WireError(f"key of unknown type {key_type}")
        if len(secret) != length:
            raise WireError(f"key of type {key_type} with {len(secret)} bytes, not {length}")
        self.type = KeyType(key_type)
        self.secret = secret
        self.created = created or UTime()
        self._cipher: KeyCipher = cipher(secret)

    def __repr__(self) -> str:
        return f"<CryptoKey {self.type.name}>"  # never the secret

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CryptoKey) and (self.type, self.secret) == (other.type, other.secret)

    def __hash__(self) -> int:
        return hash((self.type, self.secret))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From base64, as `ceph auth get-key` prints it; WireError where it is no key."""
        try:
            data = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as err:
            raise WireError(f"key is not base64: {err}") from err
        cursor = Cursor(data)
        key = cls.decode(cursor)
        cursor.expect_end("key")
        return key

    def to_text(self) -> str:
        """As keyrings have it."""
        out = bytearray()
        self.encode(out)
        return base64.b64encode(out).decode()

    def encode(self, out: bytearray) -> None:
        """Append the encoding to `out`."""
        out += _HEAD.pack(self.type, self.created.seconds, self.created.nanoseconds, len(self.secret))
        out += self.secret

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read one from the cursor."""
        key_type, seconds, nanoseconds, length = cursor.unpack(_HEAD)
        return cls(key_type, bytes(cursor.take(length)), UTime(seconds, nanoseconds))

    def seal(self, usage: int, body: bytes, random: Random) -> bytes:
        """`body` in the envelope, encrypted."""
        return self._cipher.encrypt(usage, _ENVELOPE.pack(_ENVELOPE_VERSION, _MAGIC) + body, random)

    def unseal(self, usage: int, data: Buffer) -> bytes:
        """What `seal` was given; WireError where it was done with another key."""
        plain = self._cipher.decrypt(usage, data)
        if len(plain) < _ENVELOPE.size:
            raise WireError(f"encrypted structure of {len(plain)} bytes")
        version, magic = _ENVELOPE.unpack_from(plain)
        if version != _ENVELOPE_VERSION or magic != _MAGIC:
            raise WireError("not encrypted with this key")
        return plain[_ENVELOPE.size :]

    def prove(self, server_challenge: int, client_challenge: int, random: Random) -> int:
        """The answer to a monitor's challenge."""
        return self._cipher.prove(server_challenge, client_challenge, lambda body: self.seal(0, body, random))
