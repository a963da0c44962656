"""What clients of an image tell each other: every version, and answers."""

import pytest

from rbdfs.cls import notify
from rbdfs.cls.notify import AsyncRequestId, ClientId, decode_message, owner_result
from rbdfs.cls.rbd_types import USER
from rbdfs.errors import WireError

REQUEST = AsyncRequestId(ClientId(4123, 94), 7)
MESSAGES = [
    notify.AcquiredLock(ClientId(1, 2)),
    notify.ReleasedLock(ClientId(1, 2)),
    notify.RequestLock(ClientId(1, 2), True),
    notify.HeaderUpdate(),
    notify.AsyncProgress(REQUEST, 1, 10),
    notify.AsyncComplete(REQUEST, -16),
    notify.Flatten(REQUEST),
    notify.Resize(1 << 40, REQUEST, False),
    notify.SnapCreate("s", USER, REQUEST, 1),
    notify.SnapRemove("s", USER, REQUEST),
    notify.RebuildObjectMap(REQUEST),
    notify.SnapRename(4, "t", USER, REQUEST),
    notify.SnapProtect("s", USER, REQUEST),
    notify.SnapUnprotect("s", USER, REQUEST),
    notify.Rename("vm", REQUEST),
    notify.UpdateFeatures(16, True, REQUEST),
    notify.Migrate(REQUEST),
    notify.Sparsify(REQUEST, 4096),
    notify.Quiesce(REQUEST),
    notify.Unquiesce(REQUEST),
    notify.MetadataUpdate("k", None, REQUEST),
]


def body(version: int, code: int, fields: bytes) -> bytes:
    inner = code.to_bytes(4, "little") + fields
    return bytes((version, 1)) + len(inner).to_bytes(4, "little") + inner


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_read_as_it_was_written(message: notify.Message) -> None:
    assert decode_message(message.to_bytes()) == message


def test_codes_are_those_of_librbd() -> None:
    assert [message.CODE for message in MESSAGES] == list(range(21))


def test_an_empty_message_means_that_the_header_changed() -> None:
    assert decode_message(b"") == notify.HeaderUpdate()


def test_a_message_of_a_newer_client_says_its_code() -> None:
    assert decode_message(body(8, 77, b"whatever")) == notify.Unknown(77)


def test_old_versions_lack_what_came_later() -> None:
    name = b"\1\0\0\0s"
    assert decode_message(body(1, 2, b"")) == notify.RequestLock()
    assert decode_message(body(2, 2, ClientId(1, 2).to_bytes())) == notify.RequestLock(ClientId(1, 2))
    assert decode_message(body(4, 8, name)) == notify.SnapCreate("s")
    assert decode_message(body(5, 8, name + bytes((1, 1, 4, 0, 0, 0, 0, 0, 0, 0)))) == notify.SnapCreate("s")
    assert decode_message(body(5, 9, name)) == notify.SnapRemove("s")
    assert decode_message(body(6, 14, name)) == notify.Rename("s")
    assert decode_message(body(3, 7, bytes(8) + REQUEST.to_bytes())) == notify.Resize(0, REQUEST, True)


def test_a_message_cut_short_is_refused() -> None:
    for message in MESSAGES:
        data = message.to_bytes()
        for end in range(1, len(data)):
            with pytest.raises(WireError):
                decode_message(data[:end])


def test_the_owner_is_who_answers_something() -> None:
    refused = notify.Response(-16).to_bytes()
    assert owner_result([b"", refused, b""]) == -16
    assert owner_result([b"", b""]) is None
    assert owner_result([b"junk", notify.Response(0).to_bytes()]) == 0
