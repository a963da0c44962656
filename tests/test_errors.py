"""Result codes become errors by meaning, and errors answer an errno."""

import errno

import pytest

from rbdfs import errors
from rbdfs.errors import RbdfsError, from_result

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, RbdfsError) and value is not errors.UnknownResult
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_an_errno_and_says_when_it_is_raised(cls: type[RbdfsError]) -> None:
    assert cls.errno in errno.errorcode
    assert cls.__doc__


@pytest.mark.parametrize(
    ("number", "cls"),
    [
        (errno.ENOENT, errors.NotFound),
        (errno.EEXIST, errors.Exists),
        (errno.EBUSY, errors.Busy),
        (errno.ENOTEMPTY, errors.NotEmpty),
        (errno.EROFS, errors.ReadOnly),
        (errno.ENOSPC, errors.NoSpace),
        (errno.EDQUOT, errors.QuotaExceeded),
        (errno.EPERM, errors.PermissionDenied),
        (errno.ESHUTDOWN, errors.Blocklisted),
        (errno.ERANGE, errors.VersionMismatch),
        (errno.EOVERFLOW, errors.VersionMismatch),
        (errno.ECANCELED, errors.Canceled),
    ],
)
def test_known_result_becomes_an_error_by_meaning(number: int, cls: type[RbdfsError]) -> None:
    error = from_result(-number, "pool data: write")
    assert type(error) is cls
    assert str(error) == "pool data: write"


def test_unknown_result_keeps_its_name_and_number() -> None:
    error = from_result(-errno.EXDEV, "rename")
    assert error.errno == errno.EXDEV
    assert str(error) == "rename: EXDEV"


def test_result_without_a_name_keeps_its_number() -> None:
    assert str(from_result(-3999, "op")) == "op: 3999"


def test_failed_comparison_tells_where_it_differs() -> None:
    error = from_result(-(4095 + 17), "compare")
    assert isinstance(error, errors.ExtentMismatch)
    assert isinstance(error, errors.Canceled)
    assert error.offset == 17
