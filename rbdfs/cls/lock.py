"""Class `lock`: advisory locks on any object, kept in its extended attributes `lock.<name>`.

RBD uses one lock, RBD_LOCK, on the header object: the exclusive lock has cookie `auto <watch handle>` and the tag
`internal` (`librbd: ManagedLock`, `ExclusiveLock`); `rbd lock add` has cookies and tags of the user's choice.
A locker is a client (its EntityName) and a cookie.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple, Self

from rbdfs.cls.query import Query
from rbdfs.entities import EntityAddr, EntityName, UTime
from rbdfs.rados.ops import Call
from rbdfs.wire import U8, Cursor, Record, envelope

RBD_LOCK = "rbd_lock"
INTERNAL_TAG = "internal"
ATTRIBUTE_PREFIX = "lock."


class LockType(IntEnum):
    """How a lock is held (`ClsLockType`)."""

    NONE = 0
    EXCLUSIVE = 1
    SHARED = 2
    EXCLUSIVE_EPHEMERAL = 3  # the object goes when the lock does


class LockFlag(IntFlag):
    """What may be there already (`LOCK_FLAG_*`)."""

    MAY_RENEW = 1 << 0  # a lock that this locker holds is renewed instead of refused
    MUST_RENEW = 1 << 1  # NotFound unless this locker holds it


class LockerId(NamedTuple):
    """Who holds a lock (`locker_id_t`)."""

    entity: EntityName
    cookie: str

    def encode(self, out: bytearray) -> None:
        """Append the encoding to `out`."""
        with envelope(out, 1, 1):
            self.entity.encode(out)
            cookie = self.cookie.encode("utf-8", "surrogateescape")
            out += len(cookie).to_bytes(4, "little") + cookie

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read one from the cursor."""
        with cursor.envelope(1, "LockerId"):
            return cls(EntityName.decode(cursor), cursor.text())


@dataclass(slots=True)
class LockerInfo(Record, version=1, compat=1):
    """What is known of a locker (`locker_info_t`); no expiration is zero."""

    expiration: UTime
    address: EntityAddr
    description: str


@dataclass(slots=True)
class LockInfo(Record, version=1, compat=1):
    """A lock: what `get_info` gives, and what the attribute holds (`cls_lock_get_info_reply`, `lock_info_t`)."""

    lockers: dict[LockerId, LockerInfo]
    type: U8
    tag: str


@dataclass(slots=True)
class LockArgument(Record, version=1, compat=1):
    """`cls_lock_lock_op`."""

    name: str
    type: U8
    cookie: str
    tag: str
    description: str
    duration: UTime
    flags: U8


@dataclass(slots=True)
class UnlockArgument(Record, version=1, compat=1):
    """`cls_lock_unlock_op`."""

    name: str
    cookie: str


@dataclass(slots=True)
class BreakArgument(Record, version=1, compat=1):
    """`cls_lock_break_op`."""

    name: str
    locker: EntityName
    cookie: str


@dataclass(slots=True)
class GetInfoArgument(Record, version=1, compat=1):
    """`cls_lock_get_info_op`."""

    name: str


@dataclass(slots=True)
class ListLocksReply(Record, version=1, compat=1):
    """`cls_lock_list_locks_reply`."""

    names: list[str]


@dataclass(slots=True)
class AssertArgument(Record, version=1, compat=1):
    """`cls_lock_assert_op`."""

    name: str
    type: U8
    cookie: str
    tag: str


@dataclass(slots=True)
class SetCookieArgument(Record, version=1, compat=1):
    """`cls_lock_set_cookie_op`."""

    name: str
    type: U8
    cookie: str
    tag: str
    new_cookie: str


def _call(method: str, argument: Record | None = None) -> Call:
    return Call("lock", method, argument.to_bytes() if argument else b"")


def lock(
    name: str,
    type_: LockType,
    cookie: str,
    tag: str = "",
    description: str = "",
    *,
    duration_ns: int = 0,
    flags: int = 0,
) -> Call:
    """Take a lock, for a while or (0) for good; Busy where another holds it, Exists where this locker does."""
    return _call("lock", LockArgument(name, type_, cookie, tag, description, UTime.from_ns(duration_ns), flags))


def unlock(name: str, cookie: str) -> Call:
    """Give a lock up; NotFound where this locker does not hold it."""
    return _call("unlock", UnlockArgument(name, cookie))


def break_lock(name: str, locker: EntityName, cookie: str) -> Call:
    """Take a lock away from its locker; NotFound where that one does not hold it."""
    return _call("break_lock", BreakArgument(name, locker, cookie))


def get_info(name: str) -> Query[LockInfo]:
    """Who holds a lock, and how; no lockers where nobody does, NotFound where the object is missing."""
    return Query(_call("get_info", GetInfoArgument(name)), LockInfo.from_bytes)


def list_locks() -> Query[list[str]]:
    """The names of the locks that the object has, or had."""
    return Query(_call("list_locks"), lambda data: ListLocksReply.from_bytes(data).names)


def assert_locked(name: str, type_: LockType, cookie: str, tag: str = "") -> Call:
    """Busy unless this locker holds the lock just so; guards the other steps of an op."""
    return _call("assert_locked", AssertArgument(name, type_, cookie, tag))


def set_cookie(name: str, type_: LockType, cookie: str, new_cookie: str, tag: str = "") -> Call:
    """Change the cookie of a lock that this locker holds; Busy where it does not."""
    return _call("set_cookie", SetCookieArgument(name, type_, cookie, tag, new_cookie))
