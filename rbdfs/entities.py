"""Who takes part in a cluster, where, and when: the small structures in all of Ceph's messages and in object classes.

Where Ceph keeps several forms of a structure (an address with a marker byte), the current form is written and all of
them are read.
"""

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from rbdfs.errors import WireError
from rbdfs.wire import S64, U8, U32, Cursor, Record, envelope


class EntityType(IntEnum):
    """What a daemon or a client is, as bits (CEPH_ENTITY_TYPE_*); in cephx also the name of a service."""

    MON = 0x01
    MDS = 0x02
    OSD = 0x04
    CLIENT = 0x08
    MGR = 0x10
    AUTH = 0x20


@dataclass(frozen=True, slots=True, order=True)
class EntityName(Record):
    """entity_name_t: `client.4123`, `osd.3`."""

    type: U8
    number: S64

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `client.4123`; ValueError."""
        kind, _, number = text.partition(".")
        if kind.upper() not in EntityType.__members__:
            raise ValueError(f"no entity: {text}")
        return cls(EntityType[kind.upper()], int(number))

    def __str__(self) -> str:
        try:
            kind = EntityType(self.type).name.lower()
        except ValueError:
            kind = f"unknown{self.type}"
        return f"{kind}.{self.number}"


class AddrType(IntEnum):
    """Which protocol is spoken at an address (entity_addr_t::type)."""

    NONE = 0
    LEGACY = 1
    MSGR2 = 2
    ANY = 3


_TYPE_PREFIXES: dict[int, str] = {AddrType.LEGACY: "v1:", AddrType.MSGR2: "v2:", AddrType.ANY: "any:"}
_AF_INET, _AF_INET6 = 2, 10  # on the wire they are Linux's numbers, whatever system this is
_INET = struct.Struct("!H4s8x")
_INET6 = struct.Struct("!HI16s4s")
_ADDR_HEAD = struct.Struct("<III")
_SOCKADDR_STORAGE = 128
_NANOSECONDS = 10**9


@dataclass(frozen=True, slots=True)
class EntityAddr(Record):
    """entity_addr_t: where a daemon or a client is; the nonce tells its incarnations apart.

    `host` is an address in text (`10.0.0.1`, `fe80::1`), or empty for none.
    """

    type: int = AddrType.NONE
    host: str = ""
    port: int = 0
    nonce: int = 0
    scope_id: int = 0  # of a link-local IPv6 address
    flow_info: int = 0

    @property
    def is_ipv6(self) -> bool:
        """Whether `host` is an IPv6 address."""
        return ":" in self.host

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """What `socket.connect` takes."""
        return (self.host, self.port, self.flow_info, self.scope_id) if self.is_ipv6 else (self.host, self.port)

    def __str__(self) -> str:
        """As Ceph shows it without the type: `10.0.0.1:6800/123`, `[fe80::1]:6800/123`, `-` for none."""
        if not self.host:
            return "-" if self.type == AddrType.NONE else f":/{self.nonce}"
        return f"{self.endpoint}/{self.nonce}"

    @property
    def endpoint(self) -> str:
        """Where to connect to: `10.0.0.1:6800`, `[fe80::1]:6800`."""
        host = f"[{self.host}]" if self.is_ipv6 else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `127.0.0.1:0/40882352` or `[::1]:0/7`, as a client's address is stored by object classes; ValueError."""
        endpoint, _, nonce = text.partition("/")
        host, _, port = endpoint.rpartition(":")
        return cls(AddrType.LEGACY, str(ipaddress.ip_address(host.strip("[]"))), int(port), int(nonce or 0))

    def encode(self, out: bytearray) -> None:
        """Append the current form: marker 1 and an envelope."""
        out.append(1)
        with envelope(out, 1, 1):
            sockaddr = self._encode_sockaddr()
            out += _ADDR_HEAD.pack(self.type, self.nonce, len(sockaddr))
            out += sockaddr

    def _encode_sockaddr(self) -> bytes:
        if not self.host:
            return b""
        packed = ipaddress.ip_address(self.host).packed
        if len(packed) == 4:
            return struct.pack("<H", _AF_INET) + _INET.pack(self.port, packed)
        scope = struct.pack("<I", self.scope_id)
        return struct.pack("<H", _AF_INET6) + _INET6.pack(self.port, self.flow_info, packed, scope)

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read either form."""
        return cls.decode_after_marker(cursor, cursor.u8())

    @classmethod
    def decode_after_marker(cls, cursor: Cursor, marker: int) -> Self:
        """Read the rest of an address whose marker byte has been taken."""
        if marker == 0:  # before Nautilus: three more bytes of zero, nonce, sockaddr_storage with a big-endian family
            cursor.skip(3)
            nonce = cursor.u32()
            storage = bytes(cursor.take(_SOCKADDR_STORAGE))
            kind = AddrType.LEGACY if any(storage[:2]) else AddrType.NONE
            return cls._from_sockaddr(kind, nonce, storage[1::-1] + storage[2:])
        if marker != 1:
            raise WireError(f"address with marker {marker}")
        with cursor.envelope(1, "EntityAddr"):
            kind, nonce, length = cursor.unpack(_ADDR_HEAD)
            return cls._from_sockaddr(kind, nonce, bytes(cursor.take(length)))

    @classmethod
    def _from_sockaddr(cls, kind: int, nonce: int, sockaddr: bytes) -> Self:
        if len(sockaddr) < 2:
            return cls(kind, nonce=nonce)
        family = int.from_bytes(sockaddr[:2], "little")
        try:
            if family == _AF_INET:
                port, packed = _INET.unpack_from(sockaddr, 2)
                return cls(kind, str(ipaddress.IPv4Address(packed)), port, nonce)
            if family == _AF_INET6:
                port, flow_info, packed, scope = _INET6.unpack_from(sockaddr, 2)
                scope_id = int.from_bytes(scope, "little")
                return cls(kind, str(ipaddress.IPv6Address(packed)), port, nonce, scope_id, flow_info)
        except struct.error as err:
            raise WireError(f"address of family {family} in {len(sockaddr)} bytes") from err
        if family == 0:
            return cls(kind, nonce=nonce)
        raise WireError(f"address of unknown family {family}")


@dataclass(slots=True)
class AddrVec(Record):
    """entity_addrvec_t: all addresses of one daemon, usually one per protocol."""

    addrs: list[EntityAddr] = field(default_factory=list)

    @property
    def msgr2(self) -> EntityAddr | None:
        """The address where messenger 2 is spoken, None where there is none."""
        return next((addr for addr in self.addrs if addr.type == AddrType.MSGR2), None)

    def __iter__(self) -> Iterator[EntityAddr]:
        return iter(self.addrs)

    def __len__(self) -> int:
        return len(self.addrs)

    def __str__(self) -> str:
        """As Ceph shows it: `[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]`."""
        return "[" + ",".join(_TYPE_PREFIXES.get(addr.type, "") + str(addr) for addr in self.addrs) + "]"

    def encode(self, out: bytearray) -> None:
        """Append the current form: marker 2, count, addresses."""
        out.append(2)
        out += struct.pack("<I", len(self.addrs))
        for addr in self.addrs:
            addr.encode(out)

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read any form: a vector, or a single address of either form."""
        marker = cursor.u8()
        if marker == 2:
            return cls([EntityAddr.decode(cursor) for _ in range(cursor.count())])
        return cls([EntityAddr.decode_after_marker(cursor, marker)])


@dataclass(frozen=True, slots=True, order=True)
class UTime(Record):
    """utime_t: seconds and nanoseconds since 1970, or a span of time."""

    seconds: U32 = 0
    nanoseconds: U32 = 0

    @classmethod
    def from_float(cls, seconds: float) -> Self:
        """From Unix time as `time.time()` tells it."""
        whole = int(seconds)
        return cls(whole, int((seconds - whole) * 1e9))

    @classmethod
    def from_ns(cls, nanoseconds: int) -> Self:
        """From nanoseconds."""
        return cls(*divmod(nanoseconds, _NANOSECONDS))

    @property
    def ns(self) -> int:
        """Nanoseconds."""
        return self.seconds * _NANOSECONDS + self.nanoseconds

    def __float__(self) -> float:
        return self.seconds + self.nanoseconds / 1e9
