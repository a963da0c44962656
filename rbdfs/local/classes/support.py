"""How methods of object classes are declared here, and how they read and write the keys of their object.

    @METHODS.reads("get_size", U64)
    def get_size(context: MethodContext, snap_id: int) -> bytes: ...

The declaration names what the argument holds; one that cannot be decoded is InvalidArgument, as in an OSD. A method
that only reads is NotFound on a missing object: an OSD does not even begin an op that only reads there.
"""

import errno
from collections.abc import Callable
from typing import Any, NamedTuple

from rbdfs.errors import Corrupt, InvalidArgument, NotFound, RbdfsError, WireError, from_result
from rbdfs.local.classes.context import Method, MethodContext, Methods
from rbdfs.wire import Cursor, codec_of, encode_values


class Optional(NamedTuple):
    """A part of an argument that older clients leave out."""

    hint: Any
    default: Any


class Rest:
    """What is left of an argument, as bytes."""

    @classmethod
    def decode(cls, cursor: Cursor) -> bytes:
        """Read it from the cursor."""
        return bytes(cursor.take(cursor.remaining))

    def encode(self, out: bytearray) -> None:
        """Nothing: it stands for bytes, which are appended as they are."""


Run = Callable[..., bytes | None]


class Registry:
    """The methods of one class, or of a part of it."""

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name
        self.methods: Methods = {}

    def reads(self, name: str, *parts: Any) -> Callable[[Run], Run]:
        """Declare a method that only reads."""
        return self._declare(name, parts, writes=False)

    def writes(self, name: str, *parts: Any) -> Callable[[Run], Run]:
        """Declare a method that writes."""
        return self._declare(name, parts, writes=True)

    def _declare(self, name: str, parts: tuple[Any, ...], *, writes: bool) -> Callable[[Run], Run]:
        def declare(function: Run) -> Run:
            decoders = [
                (codec_of(part.hint)[1], (part.default,)) if isinstance(part, Optional) else (codec_of(part)[1], ())
                for part in parts
            ]

            def run(context: MethodContext, argument: bytes) -> bytes:
                cursor = Cursor(argument)
                try:
                    values = [
                        default[0] if default and not cursor.remaining else decode(cursor)
                        for decode, default in decoders
                    ]
                except WireError as err:
                    raise InvalidArgument(f"{context.object_name}: {self.class_name}.{name}: {err}") from err
                if not writes and not context.exists():
                    raise NotFound(f"{context.object_name}: no such object")
                return function(context, *values) or b""

            self.methods[name] = Method(run, writes)
            return function

        return declare


def failure(context: MethodContext, number: int, what: str) -> RbdfsError:
    """The error of a method that answers `-number`."""
    return from_result(-number, f"{context.object_name}: {what}")


def read_key(context: MethodContext, key: str, hint: Any) -> Any:
    """A value of the object's omap, decoded; NotFound where object or key is missing, Corrupt where it is damaged."""
    return decoded(context, key, context.omap_get(key), hint)


def find_key(context: MethodContext, key: str, hint: Any, default: Any = None) -> Any:
    """A value of the object's omap, decoded, or the default where it is missing."""
    try:
        return read_key(context, key, hint)
    except NotFound:
        return default


def decoded(context: MethodContext, key: str, value: bytes, hint: Any) -> Any:
    """A stored value, decoded."""
    try:
        return codec_of(hint)[1](Cursor(value))
    except WireError as err:
        raise Corrupt(f"{context.object_name}: {key}: {err}") from err


def write_key(context: MethodContext, key: str, hint: Any, value: Any) -> None:
    """Set a value of the object's omap."""
    context.omap_set({key: encode_values((hint, value))})


def has_key(context: MethodContext, key: str) -> bool:
    """Whether the object's omap has that key."""
    try:
        context.omap_get(key)
    except NotFound:
        return False
    return True


def require_exists(context: MethodContext) -> None:
    """NotFound unless the object exists."""
    if not context.exists():
        raise failure(context, errno.ENOENT, "no such object")


def list_keys(context: MethodContext, prefix: str, start_after: str = "", limit: int = -1) -> dict[str, bytes]:
    """Pairs whose key begins with `prefix`, after `prefix + start_after`; the prefix is cut off."""
    result: dict[str, bytes] = {}
    after, more = prefix + start_after, True
    while more and (limit < 0 or len(result) < limit):
        page = 1024 if limit < 0 else min(1024, limit - len(result))
        values, more = context.omap_list(after, page, prefix)
        if not values:
            break
        for key, value in values.items():
            result[key[len(prefix) :]] = value
        after = next(reversed(values))
    return result
