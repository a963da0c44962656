"""Binary structures, declared once: `Layout` for fixed ones on the data path, `Record` for all others.

A structure is declared in the field order of the C header or of Ceph's `encode()`. Annotations carry the width, so
a type checker sees `int` and a reader sees the wire. All integers are little-endian.

    class WriteIn(NamedTuple):              # struct fuse_write_in
        fh: U64
        offset: U64
        ...
    WRITE_IN = Layout(WriteIn)              # .size, .unpack_from(buffer, offset), .pack(...)

    @dataclass(slots=True)
    class SnapInfo(Record, version=3, compat=1):        # travels in Ceph's envelope
        id: U64
        name: str
        protection: U8 = since(2, default=0)            # absent before version 2

What a field may be, and how it travels (Ceph, doc/dev/encoding.rst):

    U8..U64, S8..S64, bool, F64     fixed width
    str, bytes                      u32 length and the bytes (str: UTF-8, undecodable bytes kept by surrogateescape)
    list[T], set[T], frozenset[T]   u32 count and the elements
    tuple[A, B], tuple[T, ...]      the parts in sequence; u32 count and the elements
    dict[K, V]                      u32 count and the pairs
    T | None                        u8: whether it is there, and then the value
    Raw(n)                          exactly n bytes, annotated as `Annotated[bytes, Raw(n)]`
    a class with encode(out) and decode(cursor)         a Record, or an irregular format written by hand

What always holds: decoding never reads past the buffer or past the envelope it is in, skips what a newer writer
appended, refuses (WireError) what it cannot read, and raises nothing but WireError whatever the bytes are.
"""

import dataclasses
import functools
import struct
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, Self, TypeVar, cast

from rbdfs.errors import WireError

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
S8 = Annotated[int, "b"]
S16 = Annotated[int, "h"]
S32 = Annotated[int, "i"]
S64 = Annotated[int, "q"]
F64 = Annotated[float, "d"]

Buffer = bytes | bytearray | memoryview

T = TypeVar("T", bound=NamedTuple)


class Layout(Generic[T]):
    """One `Struct` made from the annotations of a NamedTuple: a fixed structure of the data path."""

    __slots__ = ("_make", "_struct", "pack", "pack_into", "size")

    def __init__(self, shape: type[T]) -> None:
        hints = typing.get_type_hints(shape, include_extras=True)
        self._struct = struct.Struct(
            "<" + "".join(_fixed_code(hint) or _refuse(shape, hint) for hint in hints.values())
        )
        self._make: Callable[[tuple[Any, ...]], T] = cast(Any, shape)._make
        self.size = self._struct.size
        self.pack = self._struct.pack
        self.pack_into = self._struct.pack_into

    def unpack_from(self, buffer: Buffer, offset: int = 0) -> T:
        """Read the structure at `offset` bytes into the buffer."""
        try:
            return self._make(self._struct.unpack_from(buffer, offset))
        except struct.error as err:
            raise WireError(f"{self._make.__self__.__name__}: {err}") from err  # type: ignore[attr-defined]


def _refuse(shape: type, hint: object) -> str:
    raise TypeError(f"{shape.__name__}: {hint} has no fixed width")


class Cursor:
    """A place in a buffer, with an end that it never passes."""

    __slots__ = ("buffer", "end", "offset")

    def __init__(self, buffer: Buffer, offset: int = 0, end: int | None = None) -> None:
        self.buffer = memoryview(buffer)
        self.offset = offset
        self.end = len(self.buffer) if end is None else end

    @property
    def remaining(self) -> int:
        """Bytes left before the end of the buffer or of the innermost envelope."""
        return self.end - self.offset

    def take(self, length: int) -> memoryview:
        """The next `length` bytes, not copied."""
        start = self.offset
        if length < 0 or length > self.end - start:
            raise WireError(f"{length} bytes wanted at {start}, {self.end - start} left")
        self.offset = start + length
        return self.buffer[start : start + length]

    def skip(self, length: int) -> None:
        """Pass over `length` bytes."""
        self.take(length)

    def unpack(self, fixed: struct.Struct) -> tuple[Any, ...]:
        """The values of a fixed structure."""
        start = self.offset
        if fixed.size > self.end - start:
            raise WireError(f"{fixed.size} bytes wanted at {start}, {self.end - start} left")
        self.offset = start + fixed.size
        return fixed.unpack_from(self.buffer, start)

    def u8(self) -> int:
        return cast(int, self.unpack(_U8)[0])

    def u16(self) -> int:
        return cast(int, self.unpack(_U16)[0])

    def u32(self) -> int:
        return cast(int, self.unpack(_U32)[0])

    def u64(self) -> int:
        return cast(int, self.unpack(_U64)[0])

    def s32(self) -> int:
        return cast(int, self.unpack(_S32)[0])

    def s64(self) -> int:
        return cast(int, self.unpack(_S64)[0])

    def blob(self) -> bytes:
        """A buffer: u32 length and the bytes."""
        return bytes(self.take(self.u32()))

    def text(self) -> str:
        """A string: u32 length and UTF-8."""
        return str(self.take(self.u32()), "utf-8", "surrogateescape")

    def count(self) -> int:
        """The u32 count of a container, refused where that many elements cannot follow."""
        count = self.u32()
        if count > self.end - self.offset:
            raise WireError(f"{count} elements announced at {self.offset}, {self.end - self.offset} bytes left")
        return count

    @contextmanager
    def envelope(self, known: int, what: str) -> Iterator[int]:
        """Enter Ceph's versioned envelope (u8 version, u8 compat, u32 length); gives the writer's version.

        The cursor cannot leave it inside the block, and stands behind it afterwards.
        """
        version, compat, length = self.unpack(_ENVELOPE)
        if compat > known:
            raise WireError(f"{what}: needs version {compat}, version {known} is known")
        if length > self.end - self.offset:
            raise WireError(f"{what}: {length} bytes announced at {self.offset}, {self.end - self.offset} left")
        outer, self.end = self.end, self.offset + length
        yield version
        self.offset, self.end = self.end, outer

    def expect_end(self, what: str) -> None:
        """Refuse bytes that are left over."""
        if self.offset != self.end:
            raise WireError(f"{what}: {self.end - self.offset} bytes too many")


_U8, _U16, _U32, _U64 = (struct.Struct("<" + code) for code in "BHIQ")
_S8, _S32, _S64 = (struct.Struct("<" + code) for code in "biq")
_ENVELOPE = struct.Struct("<BBI")


@contextmanager
def envelope(out: bytearray, version: int, compat: int) -> Iterator[None]:
    """Write Ceph's versioned envelope around what the block appends to `out`."""
    start = len(out)
    out += _ENVELOPE.pack(version, compat, 0)
    yield
    _U32.pack_into(out, start + 2, len(out) - start - _ENVELOPE.size)


def since(version: int, **kwargs: Any) -> Any:
    """A field that is absent before `version` of its structure; needs `default` or `default_factory`."""
    if "default" not in kwargs and "default_factory" not in kwargs:
        raise TypeError("a field that may be absent needs a default")
    return dataclasses.field(metadata={"since": version}, **kwargs)


class Record:
    """A structure declared as a dataclass; with `version` and `compat` it travels in Ceph's envelope."""

    __slots__ = ()
    _version: ClassVar[int] = 0  # 0: no envelope
    _compat: ClassVar[int] = 0
    _plan: ClassVar["_Plan | None"] = None

    def __init_subclass__(cls, version: int = 0, compat: int = 0, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if version or "_version" not in cls.__dict__:  # dataclass(slots=True) makes the class a second time
            cls._version, cls._compat, cls._plan = version, compat or version, None

    def encode(self, out: bytearray) -> None:
        """Append the encoding to `out`."""
        cls = type(self)
        if cls._version:
            with envelope(out, cls._version, cls._compat):
                self.encode_fields(out)
        else:
            self.encode_fields(out)

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """Read one from the cursor."""
        if cls._version:
            with cursor.envelope(cls._version, cls.__name__) as version:
                return cls.decode_fields(cursor, version)
        return cls.decode_fields(cursor, 0)

    def encode_fields(self, out: bytearray) -> None:
        """Append the fields without the envelope."""
        cls = type(self)
        (cls._plan or _make_plan(cls)).encode(self, out)

    @classmethod
    def decode_fields(cls, cursor: Cursor, version: int) -> Self:
        """Read, without the envelope, the fields that this version of the structure has."""
        return cls(*(cls._plan or _make_plan(cls)).decode(cursor, version))

    def to_bytes(self) -> bytes:
        """The encoding."""
        out = bytearray()
        self.encode(out)
        return bytes(out)

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """Decode the start of `data`; bytes behind the structure are ignored, as Ceph's decoders do."""
        try:
            return cls.decode(Cursor(data))
        except WireError as err:
            raise WireError(f"{cls.__name__}: {err}") from err


Encoder = Callable[[Any, bytearray], None]
Decoder = Callable[[Cursor], Any]


class Raw(NamedTuple):
    """Marks a field of exactly `length` bytes."""

    length: int


@dataclasses.dataclass(slots=True)
class _FixedRun:
    """Neighbouring fixed fields, joined into one Struct."""

    names: list[str]
    fixed: struct.Struct
    bools: list[int]
    since: int
    defaults: list[Callable[[], Any]]


@dataclasses.dataclass(slots=True)
class _Single:
    """A field of variable size."""

    name: str
    encode: Encoder
    decode: Decoder
    since: int
    default: Callable[[], Any]


class _Plan:
    """How the fields of one Record travel."""

    __slots__ = ("steps",)

    def __init__(self, steps: Sequence[_FixedRun | _Single]) -> None:
        self.steps = steps

    def encode(self, record: Record, out: bytearray) -> None:
        for step in self.steps:
            if isinstance(step, _FixedRun):
                try:
                    out += step.fixed.pack(*[getattr(record, name) for name in step.names])
                except struct.error as err:
                    raise WireError(f"{type(record).__name__}.{'/'.join(step.names)}: {err}") from err
            else:
                step.encode(getattr(record, step.name), out)

    def decode(self, cursor: Cursor, version: int) -> list[Any]:
        values: list[Any] = []
        for step in self.steps:
            if step.since > version:
                values += [make() for make in step.defaults] if isinstance(step, _FixedRun) else [step.default()]
            elif isinstance(step, _FixedRun):
                part = list(cursor.unpack(step.fixed))
                for index in step.bools:
                    part[index] = bool(part[index])
                values += part
            else:
                values.append(step.decode(cursor))
        return values


def _make_plan(cls: type[Record]) -> _Plan:
    hints = typing.get_type_hints(cls, include_extras=True)
    steps: list[_FixedRun | _Single] = []
    last_since = 0
    for field in dataclasses.fields(cast(Any, cls)):
        hint, born = hints[field.name], field.metadata.get("since", 0)
        if born < last_since or born > cls._version:
            raise TypeError(
                f"{cls.__name__}.{field.name}: since({born}) after since({last_since}), version {cls._version}"
            )
        default = _default_of(field)
        code = _fixed_code(hint)
        previous = steps[-1] if steps else None
        if code is None:
            encode, decode = codec_of(hint)
            steps.append(_Single(field.name, encode, decode, born, default))
        elif isinstance(previous, _FixedRun) and previous.since == born:
            if code == "?":
                previous.bools.append(len(previous.names))
            previous.names.append(field.name)
            previous.defaults.append(default)
            previous.fixed = struct.Struct(previous.fixed.format + code.replace("?", "B"))
        else:
            bools = [0] if code == "?" else []
            steps.append(_FixedRun([field.name], struct.Struct("<" + code.replace("?", "B")), bools, born, [default]))
        last_since = born
    cls._plan = _Plan(steps)
    return cls._plan


def _default_of(field: "dataclasses.Field[Any]") -> Callable[[], Any]:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    return lambda: field.default


def _fixed_code(hint: Any) -> str | None:
    if hint is bool:
        return "?"
    if typing.get_origin(hint) is Annotated:
        mark = typing.get_args(hint)[1]
        if isinstance(mark, str):
            return mark
    return None


@functools.cache
def codec_of(hint: Any) -> tuple[Encoder, Decoder]:
    """The functions that encode and decode a value of an annotated type."""
    code = _fixed_code(hint)
    if code is not None:
        return _fixed_codec(code)
    if hint is str:
        return _encode_text, Cursor.text
    if hint is bytes:
        return _encode_blob, Cursor.blob
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and isinstance(args[1], Raw):
        return _raw_codec(args[1].length)
    if origin in (list, set, frozenset):
        return _sequence_codec(origin, args[0])
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _sequence_codec(tuple, args[0])
    if origin is tuple:
        return _tuple_codec(args)
    if origin is dict:
        return _dict_codec(*args)
    if origin in (types.UnionType, typing.Union) and len(args) == 2 and args[1] is types.NoneType:
        return _optional_codec(args[0])
    if isinstance(hint, type) and hasattr(hint, "encode") and hasattr(hint, "decode"):
        return (lambda value, out: value.encode(out)), cast(Any, hint).decode
    raise TypeError(f"no encoding for {hint}")


def _encode_text(value: str, out: bytearray) -> None:
    _encode_blob(value.encode("utf-8", "surrogateescape"), out)


def _encode_blob(value: Buffer, out: bytearray) -> None:
    out += _U32.pack(len(value))
    out += value


def _fixed_codec(code: str) -> tuple[Encoder, Decoder]:
    fixed = struct.Struct("<" + code.replace("?", "B"))

    def encode(value: Any, out: bytearray) -> None:
        try:
            out += fixed.pack(value)
        except struct.error as err:
            raise WireError(str(err)) from err

    if code == "?":
        return encode, lambda cursor: bool(cursor.unpack(fixed)[0])
    return encode, lambda cursor: cursor.unpack(fixed)[0]


def _raw_codec(length: int) -> tuple[Encoder, Decoder]:
    def encode(value: bytes, out: bytearray) -> None:
        if len(value) != length:
            raise WireError(f"{length} bytes wanted, {len(value)} given")
        out += value

    return encode, lambda cursor: bytes(cursor.take(length))


def _sequence_codec(make: Callable[[list[Any]], Any], element: Any) -> tuple[Encoder, Decoder]:
    encode_one, decode_one = codec_of(element)
    ordered = make in (list, tuple)

    def encode(values: Any, out: bytearray) -> None:
        out += _U32.pack(len(values))
        for value in values if ordered else sorted(values):
            encode_one(value, out)

    def decode(cursor: Cursor) -> Any:
        values = [decode_one(cursor) for _ in range(cursor.count())]
        return values if make is list else make(values)

    return encode, decode


def _tuple_codec(parts: Sequence[Any]) -> tuple[Encoder, Decoder]:
    codecs = [codec_of(part) for part in parts]

    def encode(values: Any, out: bytearray) -> None:
        for (encode_one, _), value in zip(codecs, values, strict=True):
            encode_one(value, out)

    return encode, lambda cursor: tuple(decode_one(cursor) for _, decode_one in codecs)


def _dict_codec(key: Any, value: Any) -> tuple[Encoder, Decoder]:
    encode_key, decode_key = codec_of(key)
    encode_value, decode_value = codec_of(value)

    def encode(mapping: dict[Any, Any], out: bytearray) -> None:
        out += _U32.pack(len(mapping))
        for one, other in mapping.items():
            encode_key(one, out)
            encode_value(other, out)

    def decode(cursor: Cursor) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for _ in range(cursor.count()):
            one = decode_key(cursor)
            result[one] = decode_value(cursor)
        return result

    return encode, decode


def _optional_codec(element: Any) -> tuple[Encoder, Decoder]:
    encode_one, decode_one = codec_of(element)

    def encode(value: Any, out: bytearray) -> None:
        out.append(value is not None)
        if value is not None:
            encode_one(value, out)

    return encode, lambda cursor: decode_one(cursor) if cursor.u8() else None


def encode_value(hint: Any, value: Any) -> bytes:
    """Encode one value of an annotated type, for arguments that are no structure of their own."""
    out = bytearray()
    codec_of(hint)[0](value, out)
    return bytes(out)


def decode_value(hint: Any, data: Buffer) -> Any:
    """Decode one value of an annotated type from the start of `data`."""
    return codec_of(hint)[1](Cursor(data))


def encode_values(*pairs: tuple[Any, Any]) -> bytes:
    """The encoding of (annotated type, value) pairs, one after the other."""
    out = bytearray()
    for hint, value in pairs:
        codec_of(hint)[0](value, out)
    return bytes(out)
