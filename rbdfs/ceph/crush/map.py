"""The CRUSH map: a tree of weighted buckets over devices (OSDs), and the rules that choose from it.

Devices have ids from 0 up, buckets from -1 down. A device class is a second, shadow tree of buckets that hold only the
devices of that class; a rule that names a class takes a shadow bucket, so that evaluation knows nothing of classes.

A decoded map is checked so far that evaluating it ends and stays in bounds: no bucket is inside itself, the parts of a
bucket agree in length.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from rbdfs.errors import WireError
from rbdfs.wire import Buffer, Cursor

ITEM_NONE = 0x7FFFFFFF  # CRUSH_ITEM_NONE: no item for this place of the result
CHOOSE_ARGS_DEFAULT = -1  # key of the weight sets that hold for pools without their own (DEFAULT_CHOOSE_ARGS)

_MAGIC = 0x00010000
_BUCKET_HEAD = struct.Struct("<iHBBII")
_STEP = struct.Struct("<Iii")


class Algorithm(IntEnum):
    """CRUSH_BUCKET_*: how a bucket chooses among its items."""

    UNIFORM = 1
    LIST = 2
    TREE = 3
    STRAW = 4
    STRAW2 = 5


class Op(IntEnum):
    """CRUSH_RULE_*: what a step of a rule does."""

    NOOP = 0
    TAKE = 1  # argument: an item
    CHOOSE_FIRSTN = 2  # arguments: how many, of which type
    CHOOSE_INDEP = 3
    EMIT = 4
    CHOOSELEAF_FIRSTN = 6
    CHOOSELEAF_INDEP = 7
    SET_CHOOSE_TRIES = 8
    SET_CHOOSELEAF_TRIES = 9
    SET_CHOOSE_LOCAL_TRIES = 10
    SET_CHOOSE_LOCAL_FALLBACK_TRIES = 11
    SET_CHOOSELEAF_VARY_R = 12
    SET_CHOOSELEAF_STABLE = 13
    SET_MSR_DESCENTS = 14
    SET_MSR_COLLISION_TRIES = 15
    CHOOSE_MSR = 16


class RuleType(IntEnum):
    """What kind of pool a rule is for; the MSR types are also evaluated in another way."""

    REPLICATED = 1
    ERASURE = 3
    MSR_FIRSTN = 4
    MSR_INDEP = 5


@dataclass(slots=True)
class Bucket:
    """A node of the tree, and what its algorithm needs to choose an item (all weights are 16.16 fixed point)."""

    id: int
    type: int  # 0 is a device, a host is usually 1, ...
    algorithm: Algorithm
    weight: int
    items: tuple[int, ...]
    weights: tuple[int, ...] = ()  # of items; in a tree bucket of its nodes, in a uniform one of any item
    sums: tuple[int, ...] = ()  # list buckets: weight of the items up to and with this one
    straws: tuple[int, ...] = ()  # straw buckets: scaled lengths


class Step(NamedTuple):
    """One instruction of a rule."""

    op: int  # an Op, or one that this version does not know
    arg1: int = 0
    arg2: int = 0


@dataclass(slots=True)
class Rule:
    """How to choose the devices for an input."""

    type: int
    steps: tuple[Step, ...]

    @property
    def is_msr(self) -> bool:
        """Whether this is a rule of multi-step retry (Squid and later)."""
        return self.type in (RuleType.MSR_FIRSTN, RuleType.MSR_INDEP)


@dataclass(slots=True)
class Tunables:
    """How hard to try, and in which historical way; the defaults are those of a map that does not say (argonaut)."""

    choose_local_tries: int = 2
    choose_local_fallback_tries: int = 5
    choose_total_tries: int = 19
    chooseleaf_descend_once: int = 0
    chooseleaf_vary_r: int = 0
    chooseleaf_stable: int = 0
    msr_descents: int = 100
    msr_collision_tries: int = 100


class ChooseArg(NamedTuple):
    """What to draw with in one bucket instead of its own weights and ids."""

    weight_sets: tuple[tuple[int, ...], ...]  # by position in the result; the last one serves all further positions
    ids: tuple[int, ...]  # empty: the bucket's items


@dataclass(slots=True)
class CrushMap:
    """The whole map."""

    max_devices: int
    buckets: dict[int, Bucket]
    rules: dict[int, Rule]
    tunables: Tunables = field(default_factory=Tunables)
    choose_args: dict[int, dict[int, ChooseArg]] = field(default_factory=dict)  # key -> bucket id -> ...
    type_names: dict[int, str] = field(default_factory=dict)
    item_names: dict[int, str] = field(default_factory=dict)
    rule_names: dict[int, str] = field(default_factory=dict)
    device_classes: dict[int, int] = field(default_factory=dict)  # device -> class
    class_names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: Buffer) -> "CrushMap":
        """Decode a map; what a later release appended is ignored."""
        try:
            return cls._decode(Cursor(data))
        except WireError as err:
            raise WireError(f"CRUSH map: {err}") from err

    @classmethod
    def _decode(cls, cursor: Cursor) -> "CrushMap":
        if cursor.u32() != _MAGIC:
            raise WireError("not a CRUSH map")
        max_buckets, max_rules, max_devices = cursor.s32(), cursor.u32(), cursor.s32()
        if not 0 <= max_buckets <= cursor.remaining // 4 or max_rules > cursor.remaining // 4 or max_devices < 0:
            raise WireError(f"{max_buckets} buckets, {max_rules} rules, {max_devices} devices announced")
        buckets = {}
        for index in range(max_buckets):
            bucket = _decode_bucket(cursor)
            if bucket is not None:
                if bucket.id != -1 - index:
                    raise WireError(f"bucket {bucket.id} at index {index}")
                buckets[bucket.id] = bucket
        _check_tree(buckets)
        rules = {}
        for number in range(max_rules):
            if cursor.u32():
                rules[number] = _decode_rule(cursor)
        crush = cls(max_devices, buckets, rules)
        crush.type_names, crush.item_names, crush.rule_names = (_decode_names(cursor) for _ in range(3))
        crush._decode_tail(cursor)
        return crush

    def _decode_tail(self, cursor: Cursor) -> None:
        """What releases added one after the other: each part is there only if bytes remain."""
        tunables = self.tunables
        if cursor.remaining:
            tunables.choose_local_tries = cursor.u32()
            tunables.choose_local_fallback_tries = cursor.u32()
            tunables.choose_total_tries = cursor.u32()
        if cursor.remaining:
            tunables.chooseleaf_descend_once = cursor.u32()
        if cursor.remaining:
            tunables.chooseleaf_vary_r = cursor.u8()
        if cursor.remaining:
            cursor.skip(1)  # straw_calc_version: of use only to who computes the straws
        if cursor.remaining:
            cursor.skip(4)  # allowed_bucket_algs: likewise
        if cursor.remaining:
            tunables.chooseleaf_stable = cursor.u8()
        if cursor.remaining:
            self.device_classes = {cursor.s32(): cursor.s32() for _ in range(cursor.count())}
            self.class_names = _decode_names(cursor)
            for _ in range(cursor.count()):  # class_bucket: bucket -> class -> shadow bucket
                cursor.skip(4)
                cursor.skip(8 * cursor.count())
        if cursor.remaining:
            for _ in range(cursor.count()):
                key = cursor.s64()
                self.choose_args[key] = dict(_decode_choose_arg(cursor, self.buckets) for _ in range(cursor.count()))
        if cursor.remaining:
            tunables.msr_descents = cursor.u32()
            tunables.msr_collision_tries = cursor.u32()

    def choose_args_for(self, pool_id: int) -> dict[int, ChooseArg]:
        """The weight sets that hold for a pool: its own, else the default ones, else none."""
        own = self.choose_args.get(pool_id)
        return own if own is not None else self.choose_args.get(CHOOSE_ARGS_DEFAULT, {})


def _numbers(cursor: Cursor, count: int, code: str = "I") -> tuple[int, ...]:
    if count > cursor.remaining // 4:
        raise WireError(f"{count} numbers announced at {cursor.offset}, {cursor.remaining} bytes left")
    return cursor.unpack(struct.Struct(f"<{count}{code}"))


def _decode_bucket(cursor: Cursor) -> Bucket | None:
    if cursor.u32() == 0:
        return None
    id_, type_, algorithm, hash_, weight, size = cursor.unpack(_BUCKET_HEAD)
    if hash_ != 0:
        raise WireError(f"bucket {id_}: hash {hash_} is unknown")
    items = _numbers(cursor, size, "i")
    try:
        bucket = Bucket(id_, type_, Algorithm(algorithm), weight, items)
    except ValueError as err:
        raise WireError(f"bucket {id_}: algorithm {algorithm} is unknown") from err
    match bucket.algorithm:
        case Algorithm.UNIFORM:
            bucket.weights = (cursor.u32(),)
        case Algorithm.LIST:
            pairs = _numbers(cursor, 2 * size)
            bucket.weights, bucket.sums = pairs[::2], pairs[1::2]
        case Algorithm.TREE:
            nodes = cursor.u8()
            # A power of two, so that every walk ends at a leaf.
            if size and (nodes < 2 or nodes & nodes - 1 or nodes >> 1 < size):
                raise WireError(f"bucket {id_}: a tree of {nodes} nodes over {size} items")
            bucket.weights = _numbers(cursor, nodes)
        case Algorithm.STRAW:
            pairs = _numbers(cursor, 2 * size)
            bucket.weights, bucket.straws = pairs[::2], pairs[1::2]
        case Algorithm.STRAW2:
            bucket.weights = _numbers(cursor, size)
    return bucket


def _check_tree(buckets: dict[int, Bucket]) -> None:
    """Refuse a bucket inside itself, whose descent would never end."""
    done: set[int] = set()
    for root in buckets:
        path: dict[int, None] = {}
        todo = [(root, False)]
        while todo:
            id_, leaving = todo.pop()
            if leaving:
                del path[id_]
                done.add(id_)
            elif id_ in path:
                raise WireError(f"bucket {id_} is inside itself")
            elif id_ not in done and id_ in buckets:
                path[id_] = None
                todo.append((id_, True))
                todo += [(item, False) for item in buckets[id_].items if item < 0]


def _decode_rule(cursor: Cursor) -> Rule:
    length = cursor.u32()
    _, type_, _, _ = cursor.take(4)
    if length > cursor.remaining // _STEP.size:
        raise WireError(f"rule of {length} steps announced at {cursor.offset}, {cursor.remaining} bytes left")
    return Rule(type_, tuple(Step(*cursor.unpack(_STEP)) for _ in range(length)))


def _decode_names(cursor: Cursor) -> dict[int, str]:
    names = {}
    for _ in range(cursor.count()):
        key = cursor.s32()
        length = cursor.u32()
        if length == 0:  # some old maps have 64-bit keys (CrushWrapper: decode_32_or_64_string_map)
            length = cursor.u32()
        names[key] = str(cursor.take(length), "utf-8", "surrogateescape")
    return names


def _decode_choose_arg(cursor: Cursor, buckets: dict[int, Bucket]) -> tuple[int, ChooseArg]:
    id_ = -1 - cursor.u32()
    weight_sets = tuple(_numbers(cursor, cursor.u32()) for _ in range(cursor.count()))
    ids = _numbers(cursor, cursor.u32(), "i")
    size = len(buckets[id_].items) if id_ in buckets else 0
    if any(len(weights) != size for weights in weight_sets) or (ids and len(ids) != size):
        raise WireError(f"choose_args of bucket {id_} do not fit its {size} items")
    return id_, ChooseArg(weight_sets, ids)
