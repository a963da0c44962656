"""Small structures that the arguments and replies of several object classes share: times, entities, addresses."""

import ipaddress
import struct
from dataclasses import dataclass
from typing import NamedTuple, Self

from rbdfs.errors import WireError
from rbdfs.wire import U32, Cursor, Record, envelope

NANOSECONDS = 10**9


@dataclass(slots=True, frozen=True)
class Time(Record):
    """A moment or a duration, as `utime_t`."""

    seconds: U32 = 0
    nanoseconds: U32 = 0

    @classmethod
    def from_ns(cls, ns: int) -> Self:
        """The time of so many nanoseconds."""
        return cls(*divmod(ns, NANOSECONDS))

    @property
    def ns(self) -> int:
        """Nanoseconds: since the epoch, for a moment."""
        return self.seconds * NANOSECONDS + self.nanoseconds


class EntityName(NamedTuple):
    """Who talks to the store, as `entity_name_t`; a client is `client.<instance id>`."""

    kind: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `client.4123`."""
        word, _, number = text.partition(".")
        for kind, name in _KINDS.items():
            if name == word:
                return cls(kind, int(number))
        raise ValueError(f"no entity: {text}")

    def __str__(self) -> str:
        return f"{_KINDS.get(self.kind, f'unknown{self.kind}')}.{self.number}"

    def encode(self, out: bytearray) -> None:
        """Append the encoding to `out`."""
        out += _ENTITY_NAME.pack(self.kind, self.number)

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read one from the cursor."""
        return cls(*cursor.unpack(_ENTITY_NAME))


_KINDS = {1: "mon", 2: "mds", 4: "osd", 8: "client", 16: "mgr"}  # msgr.h
_ENTITY_NAME = struct.Struct("<Bq")

CLIENT = 8

_AF_INET, _AF_INET6 = 2, 10  # Linux's numbers, whatever the platform
_SOCKADDR_STORAGE = 128
_TYPE_AND_NONCE = struct.Struct("<II")
_LEGACY = 1  # what an OSD's classes store for a client (entity_addr_t::TYPE_LEGACY)


@dataclass(slots=True, frozen=True)
class EntityAddress:
    """Where an entity is, as `entity_addr_t`; as text `127.0.0.1:0/40882352`, an empty address is `-`."""

    host: str = ""
    port: int = 0
    nonce: int = 0
    kind: int = 0  # 0 none, 1 legacy, 2 msgr2, 3 any, 4 cidr

    @classmethod
    def parse(cls, text: str, kind: int = _LEGACY) -> Self:
        """Read `127.0.0.1:0/40882352` or `[::1]:0/7`."""
        place, _, nonce = text.partition("/")
        host, _, port = place.rpartition(":")
        return cls(str(ipaddress.ip_address(host.strip("[]"))), int(port), int(nonce or 0), kind)

    def __str__(self) -> str:
        if not self.host:
            return "-"
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/{self.nonce}"

    def encode(self, out: bytearray) -> None:
        """Append the encoding to `out`, in the form of Nautilus and later."""
        sockaddr = self._sockaddr()
        out.append(1)  # distinguishes it from the legacy form, which begins with four zeroes
        with envelope(out, 1, 1):
            out += _TYPE_AND_NONCE.pack(self.kind, self.nonce)
            out += len(sockaddr).to_bytes(4, "little") + sockaddr

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read one, in the form of any release."""
        marker = cursor.u8()
        if marker == 1:
            with cursor.envelope(1, "address"):
                kind, nonce = cursor.unpack(_TYPE_AND_NONCE)
                host, port = _host_and_port(cursor.blob())
                return cls(host, port, nonce, kind)
        if marker != 0:
            raise WireError(f"address: marker {marker}")
        cursor.skip(3)
        nonce = cursor.u32()
        host, port = _host_and_port(_in_native_order(bytes(cursor.take(_SOCKADDR_STORAGE))))
        return cls(host, port, nonce, 1 if host else 0)

    def _sockaddr(self) -> bytes:
        if not self.host:
            return b""
        address = ipaddress.ip_address(self.host)
        if address.version == 4:
            return struct.pack("<H", _AF_INET) + struct.pack(">H", self.port) + address.packed + bytes(8)
        return struct.pack("<H", _AF_INET6) + struct.pack(">HI", self.port, 0) + address.packed + bytes(4)


def _in_native_order(storage: bytes) -> bytes:
    """The legacy form holds the family in network order (`ceph_sockaddr_storage`)."""
    return storage[1::-1] + storage[2:]


def _host_and_port(sockaddr: bytes) -> tuple[str, int]:
    if len(sockaddr) < 2:
        return "", 0
    family = int.from_bytes(sockaddr[:2], "little")
    if family == _AF_INET and len(sockaddr) >= 8:
        return str(ipaddress.IPv4Address(sockaddr[4:8])), int.from_bytes(sockaddr[2:4], "big")
    if family == _AF_INET6 and len(sockaddr) >= 24:
        return str(ipaddress.IPv6Address(sockaddr[8:24])), int.from_bytes(sockaddr[2:4], "big")
    if family == 0:
        return "", 0
    raise WireError(f"address: family {family} in {len(sockaddr)} bytes")
