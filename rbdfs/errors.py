"""Everything that can go wrong and crosses a layer, by meaning, each with the errno that an edge answers.

Inside, code raises and catches these classes. A number appears only at an edge: a result code of an object store
becomes an error in `from_result`; the FUSE lanes answer `error.errno`; the command line exits with it.
"""

import errno as _errno
from typing import ClassVar


class RbdfsError(Exception):
    """Root of all errors that rbdfs raises on purpose; the message names the thing and the act."""

    errno: ClassVar[int] = _errno.EIO


class NotFound(RbdfsError):
    """No such pool, image, snapshot or object."""

    errno = _errno.ENOENT


class PoolNotFound(NotFound):
    """No such pool, or no longer; unlike NotFound, this says nothing of the object that was asked for."""


class Gone(RbdfsError):
    """The image or snapshot that is open has been removed by somebody else."""

    errno = _errno.ESTALE


class Exists(RbdfsError):
    """The name is taken."""

    errno = _errno.EEXIST


class Busy(RbdfsError):
    """In use: watched, locked, protected, or with children."""

    errno = _errno.EBUSY


class NotEmpty(RbdfsError):
    """Removal refused because something is still inside, such as the snapshots of an image."""

    errno = _errno.ENOTEMPTY


class InvalidArgument(RbdfsError):
    """The request makes no sense as given."""

    errno = _errno.EINVAL


class NameTooLong(RbdfsError):
    """A file name of more bytes than a directory entry has."""

    errno = _errno.ENAMETOOLONG


class OutOfDomain(RbdfsError):
    """A number that no image can have."""

    errno = _errno.EDOM


class NotSupported(RbdfsError):
    """The request makes sense, and this store, image or version cannot do it."""

    errno = _errno.EOPNOTSUPP


class ReadOnly(RbdfsError):
    """A write to a snapshot, to a read-only mount, or to an image that may only be read."""

    errno = _errno.EROFS


class NoSpace(RbdfsError):
    """The store or the pool is full; nothing of the write was applied."""

    errno = _errno.ENOSPC


class QuotaExceeded(NoSpace):
    """A quota of the pool, or the snapshot limit of the image, is reached."""

    errno = _errno.EDQUOT


class TooLarge(RbdfsError):
    """An offset or a size beyond what the store or the format can hold."""

    errno = _errno.EFBIG


class PermissionDenied(RbdfsError):
    """The capabilities of this client do not allow it."""

    errno = _errno.EPERM


class AuthenticationFailed(RbdfsError):
    """The cluster does not accept this client's name and key."""

    errno = _errno.EACCES


class TimedOut(RbdfsError):
    """No answer within the time that the caller allowed; a write may or may not have been applied."""

    errno = _errno.ETIMEDOUT


class NoData(RbdfsError):
    """The object has no such extended attribute."""

    errno = _errno.ENODATA


class Corrupt(RbdfsError):
    """Stored bytes are not what they must be; the message names the object."""

    errno = _errno.EIO


class StoreFailure(RbdfsError):
    """The store failed to read or write: a medium error, a lost owner process."""

    errno = _errno.EIO


class Canceled(RbdfsError):
    """A comparison that guarded an op did not hold; nothing of the op was applied."""

    errno = _errno.ECANCELED


class VersionMismatch(RbdfsError):
    """AssertVersion did not hold: the object has been changed since."""

    errno = _errno.ERANGE


class StaleSnapContext(RbdfsError):
    """A write came with a snapshot context older than the one the object has seen."""

    errno = _errno.ERESTART


class StaleSnapId(RbdfsError):
    """A new snapshot id is not newer than those the header already knows (`cls_rbd: snapshot_add`)."""

    errno = _errno.ESTALE


class NotConnected(RbdfsError):
    """The store does not know this watch (any more)."""

    errno = _errno.ENOTCONN


class Blocklisted(RbdfsError):
    """The cluster has fenced this client; every op fails until it connects anew."""

    errno = _errno.ESHUTDOWN


class LockLost(RbdfsError):
    """The exclusive lock was broken or taken by another client."""

    errno = _errno.ESHUTDOWN


class ConfigError(RbdfsError):
    """A configuration file or a keyring cannot be used; the message names the file and the line."""

    errno = _errno.EINVAL


class WireError(RbdfsError):
    """These bytes are not that structure. From a stored object it becomes `Corrupt`, with the object's name."""


class ProtocolError(RbdfsError):
    """The peer did what the protocol does not allow; ends the connection, never seen above a cluster."""


class ExtentMismatch(Canceled):
    """CompareExtent found different bytes; `offset` is where they first differ, within the compared extent."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


class UnknownResult(RbdfsError):
    """A result code without a meaning of its own here; answers that code."""

    errno: int  # type: ignore[misc]  # a value per error here, where the other classes have one per class

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.errno = number


_BY_NUMBER: dict[int, type[RbdfsError]] = {
    _errno.EPERM: PermissionDenied,
    _errno.EACCES: PermissionDenied,
    _errno.ENOENT: NotFound,
    _errno.EIO: StoreFailure,
    _errno.EBUSY: Busy,
    _errno.EEXIST: Exists,
    _errno.EINVAL: InvalidArgument,
    _errno.EFBIG: TooLarge,
    _errno.EMSGSIZE: TooLarge,
    _errno.ENOSPC: NoSpace,
    _errno.EROFS: ReadOnly,
    _errno.ERANGE: VersionMismatch,
    _errno.EOVERFLOW: VersionMismatch,
    _errno.ENOTEMPTY: NotEmpty,
    _errno.ENODATA: NoData,
    _errno.ERESTART: StaleSnapContext,
    _errno.EOPNOTSUPP: NotSupported,
    _errno.ENOTCONN: NotConnected,
    _errno.ESHUTDOWN: Blocklisted,
    _errno.ETIMEDOUT: TimedOut,
    _errno.ESTALE: StaleSnapId,
    _errno.EDQUOT: QuotaExceeded,
    _errno.ECANCELED: Canceled,
    _errno.EILSEQ: Corrupt,
}

_MAX_ERRNO = 4095  # as the kernel's; CompareExtent counts its offsets from here (rados.h)


def from_result(result: int, message: str) -> RbdfsError:
    """Make the error that a negative result code of an object store means."""
    assert result < 0, result
    number = -result
    if number >= _MAX_ERRNO:
        return ExtentMismatch(f"{message}: differs at {number - _MAX_ERRNO}", number - _MAX_ERRNO)
    known = _BY_NUMBER.get(number)
    if known is not None:
        return known(message)
    return UnknownResult(f"{message}: {_errno.errorcode.get(number, number)}", number)
