"""Class `lock`, as an OSD's cls_lock executes it: locks are extended attributes `lock.<name>` that hold a LockInfo.

A locker whose time has run out counts as gone whenever its lock is looked at. An attribute stays, without lockers, when
the last one has unlocked; a lock of type EXCLUSIVE_EPHEMERAL takes its object along instead.
"""

import errno

from rbdfs.cls.lock import (
    ATTRIBUTE_PREFIX,
    AssertArgument,
    BreakArgument,
    GetInfoArgument,
    ListLocksReply,
    LockArgument,
    LockerId,
    LockerInfo,
    LockFlag,
    LockInfo,
    LockType,
    SetCookieArgument,
    UnlockArgument,
)
from rbdfs.entities import EntityAddr, EntityName, UTime
from rbdfs.errors import NoData, NotFound
from rbdfs.local.classes.context import MethodContext
from rbdfs.local.classes.support import Registry, decoded, failure

_REGISTRY = Registry("lock")
METHODS = _REGISTRY.methods

_TYPES = (LockType.EXCLUSIVE, LockType.SHARED, LockType.EXCLUSIVE_EPHEMERAL)


def _read(context: MethodContext, name: str) -> LockInfo:
    """The lock as it is now; NotFound without the object."""
    key = ATTRIBUTE_PREFIX + name
    try:
        stored = context.get_xattr(key)
    except NoData:
        return LockInfo({}, LockType.NONE, "")
    info: LockInfo = decoded(context, key, stored, LockInfo)
    info.lockers = {
        locker: detail
        for locker, detail in info.lockers.items()
        if not detail.expiration.ns or detail.expiration.ns >= context.now
    }
    if not info.lockers and info.type == LockType.EXCLUSIVE_EPHEMERAL:
        info.type = LockType.NONE
    return info


def _write(context: MethodContext, name: str, info: LockInfo) -> None:
    info.lockers = dict(sorted(info.lockers.items()))  # the order of an OSD's std::map
    context.set_xattr(ATTRIBUTE_PREFIX + name, info.to_bytes())


def _caller(context: MethodContext, cookie: str) -> LockerId:
    return LockerId(EntityName.parse(context.caller), cookie)


@_REGISTRY.writes("lock", LockArgument)
def _lock(context: MethodContext, argument: LockArgument) -> None:
    may_renew, must_renew = argument.flags & LockFlag.MAY_RENEW, argument.flags & LockFlag.MUST_RENEW
    if argument.type not in _TYPES or not argument.name or (may_renew and must_renew):
        raise failure(context, errno.EINVAL, "this is no lock")
    try:
        info = _read(context, argument.name)
    except NotFound:
        info = LockInfo({}, LockType.NONE, "")
    me = _caller(context, argument.cookie)
    if info.lockers and info.tag != argument.tag:
        raise failure(context, errno.EBUSY, f"lock {argument.name} has another tag")
    if me in info.lockers:
        if not may_renew and not must_renew:
            raise failure(context, errno.EEXIST, f"lock {argument.name} is held by this client")
        del info.lockers[me]
    elif must_renew:
        raise failure(context, errno.ENOENT, f"lock {argument.name} is not held by this client")
    if info.lockers and (argument.type != LockType.SHARED or info.type != argument.type):
        raise failure(context, errno.EBUSY, f"lock {argument.name} is held by another client")
    expiration = UTime.from_ns(context.now + argument.duration.ns) if argument.duration.ns else UTime()
    info.lockers[me] = LockerInfo(expiration, EntityAddr.parse(context.caller_address), argument.description)
    info.type, info.tag = argument.type, argument.tag
    _write(context, argument.name, info)


def _remove(context: MethodContext, name: str, locker: LockerId) -> None:
    info = _read(context, name)
    if locker not in info.lockers:
        raise failure(context, errno.ENOENT, f"lock {name} is not held by {locker.entity} {locker.cookie}")
    del info.lockers[locker]
    if info.type == LockType.EXCLUSIVE_EPHEMERAL:
        context.remove()
    else:
        _write(context, name, info)


@_REGISTRY.writes("unlock", UnlockArgument)
def _unlock(context: MethodContext, argument: UnlockArgument) -> None:
    _remove(context, argument.name, _caller(context, argument.cookie))


@_REGISTRY.writes("break_lock", BreakArgument)
def _break_lock(context: MethodContext, argument: BreakArgument) -> None:
    _remove(context, argument.name, LockerId(argument.locker, argument.cookie))


@_REGISTRY.reads("get_info", GetInfoArgument)
def _get_info(context: MethodContext, argument: GetInfoArgument) -> bytes:
    return _read(context, argument.name).to_bytes()


@_REGISTRY.reads("list_locks")
def _list_locks(context: MethodContext) -> bytes:
    prefix = ATTRIBUTE_PREFIX
    names = sorted(name[len(prefix) :] for name in context.get_xattrs() if name.startswith(prefix))
    return ListLocksReply(names).to_bytes()


def _require_held(context: MethodContext, argument: AssertArgument | SetCookieArgument) -> LockInfo:
    """The lock, if this client holds it just so."""
    if argument.type not in _TYPES or not argument.name:
        raise failure(context, errno.EINVAL, "this is no lock")
    info = _read(context, argument.name)
    if info.type != argument.type or info.tag != argument.tag or _caller(context, argument.cookie) not in info.lockers:
        raise failure(context, errno.EBUSY, f"lock {argument.name} is not held by this client")
    return info


@_REGISTRY.reads("assert_locked", AssertArgument)
def _assert_locked(context: MethodContext, argument: AssertArgument) -> None:
    _require_held(context, argument)


@_REGISTRY.writes("set_cookie", SetCookieArgument)
def _set_cookie(context: MethodContext, argument: SetCookieArgument) -> None:
    info = _require_held(context, argument)
    renamed = _caller(context, argument.new_cookie)
    if renamed in info.lockers:
        raise failure(context, errno.EBUSY, f"lock {argument.name}: the cookie is in use")
    info.lockers[renamed] = info.lockers.pop(_caller(context, argument.cookie))
    _write(context, argument.name, info)
