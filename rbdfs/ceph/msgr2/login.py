"""What an authentication method has to offer a handshake; cephx and `NoLogin` are two."""

from enum import IntEnum
from typing import NamedTuple, Protocol


class Mode(IntEnum):
    """How the frames of a connection are protected (CEPH_CON_MODE_*)."""

    CRC = 1
    SECURE = 2


class Method(IntEnum):
    """How a client proves who it is (CEPH_AUTH_*)."""

    NONE = 1
    CEPHX = 2


class Secrets(NamedTuple):
    """What an authentication yields: the key that signs the handshake, and what encrypts in secure mode."""

    session_key: bytes = b""  # empty: nothing is signed
    connection_secret: bytes = b""


class Login(Protocol):
    """One attempt to authenticate to one peer: plain data in and out."""

    @property
    def method(self) -> int:
        """The method, as AUTH_REQUEST names it."""

    def request(self) -> bytes:
        """The payload of AUTH_REQUEST."""

    def on_more(self, payload: bytes) -> bytes:
        """Answer AUTH_REPLY_MORE: the payload of AUTH_REQUEST_MORE."""

    def on_done(self, global_id: int, payload: bytes) -> Secrets:
        """Take AUTH_DONE; AuthenticationFailed where the peer does not prove that it knows the key."""

    def on_established(self) -> None:
        """The session stands: what the login brought may be used elsewhere."""

    def on_refused(self, result: int, methods: list[int]) -> None:
        """Take AUTH_BAD_METHOD: raise AuthenticationFailed, or have another `method` and `request` ready."""
