"""Evaluating a rule: from a number (the placement seed of a PG) to a list of devices. Steps firstn and indep.

firstn packs the devices that it found; each further one comes from attempts `r`, `r + 1`, ... indep gives every place
of the result its own sequence of attempts, so that a lost device leaves a hole (ITEM_NONE) and moves no other: what
erasure coding needs. A `chooseleaf` step chooses buckets of a type, and one device inside each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rbdfs.ceph.crush.buckets import choose_by_permutation
from rbdfs.ceph.crush.draw import DEVICE, Draw
from rbdfs.ceph.crush.map import ITEM_NONE, Algorithm, Bucket, ChooseArg, CrushMap, Op, Rule
from rbdfs.ceph.crush.msr import evaluate_msr
from rbdfs.errors import NotSupported

_UNDEFINED = ITEM_NONE - 1  # CRUSH_ITEM_UNDEF: a place of the result that is still to be filled


@dataclass(slots=True)
class _Effort:
    """The tunables as the steps of a rule may change them."""

    tries: int
    leaf_tries: int  # 0: not set by the rule
    local_tries: int
    local_fallback_tries: int
    descend_once: bool
    vary_r: int
    stable: bool

    @property
    def firstn_leaf_tries(self) -> int:
        if self.leaf_tries:
            return self.leaf_tries
        return 1 if self.descend_once else self.tries


def evaluate(
    crush: CrushMap,
    rule_number: int,
    x: int,
    size: int,
    weights: Sequence[int],
    choose_args: Mapping[int, ChooseArg] | None = None,
) -> list[int]:
    """The devices that a rule gives for an input, at most `size`; none where there is no such rule."""
    rule = crush.rules.get(rule_number)
    if rule is None or size <= 0:
        return []
    draw = Draw(crush, x, weights, choose_args or {})
    if rule.is_msr:
        return evaluate_msr(draw, rule, size)
    return _evaluate_classic(draw, rule, rule_number, size)


def _evaluate_classic(draw: Draw, rule: Rule, rule_number: int, size: int) -> list[int]:
    tunables = draw.map.tunables
    effort = _Effort(
        tries=tunables.choose_total_tries + 1,  # it counted retries once
        leaf_tries=0,
        local_tries=tunables.choose_local_tries,
        local_fallback_tries=tunables.choose_local_fallback_tries,
        descend_once=bool(tunables.chooseleaf_descend_once),
        vary_r=tunables.chooseleaf_vary_r,
        stable=bool(tunables.chooseleaf_stable),
    )
    result: list[int] = []
    working: list[int] = []
    for op, arg1, arg2 in rule.steps:
        match op:
            case Op.TAKE:
                if draw.type_of(arg1) is not None:
                    working = [arg1]
            case Op.CHOOSE_FIRSTN | Op.CHOOSELEAF_FIRSTN | Op.CHOOSE_INDEP | Op.CHOOSELEAF_INDEP:
                number = arg1 if arg1 > 0 else arg1 + size
                working = _choose_step(draw, op, number, arg2, working, size, effort) if number > 0 else []
            case Op.EMIT:
                result += working[: size - len(result)]
                working = []
            case Op.SET_CHOOSE_TRIES if arg1 > 0:
                effort.tries = arg1
            case Op.SET_CHOOSELEAF_TRIES if arg1 > 0:
                effort.leaf_tries = arg1
            case Op.SET_CHOOSE_LOCAL_TRIES if arg1 >= 0:
                effort.local_tries = arg1
            case Op.SET_CHOOSE_LOCAL_FALLBACK_TRIES if arg1 >= 0:
                effort.local_fallback_tries = arg1
            case Op.SET_CHOOSELEAF_VARY_R if arg1 >= 0:
                effort.vary_r = arg1
            case Op.SET_CHOOSELEAF_STABLE if arg1 >= 0:
                effort.stable = bool(arg1)
            case _ if op > max(Op):
                raise NotSupported(f"CRUSH rule {rule_number}: step {op} is unknown to this version")
    return result


def _choose_step(
    draw: Draw, op: int, number: int, type_: int, working: list[int], size: int, effort: _Effort
) -> list[int]:
    to_leaf = op in (Op.CHOOSELEAF_FIRSTN, Op.CHOOSELEAF_INDEP)
    found: list[int] = []
    for item in working:
        bucket = draw.map.buckets.get(item)
        if bucket is None:
            continue
        room = size - len(found)
        if op in (Op.CHOOSE_FIRSTN, Op.CHOOSELEAF_FIRSTN):
            found += _choose_firstn(draw, bucket, number, type_, room, to_leaf, effort)
        else:
            leaf_tries = effort.leaf_tries or 1
            found += _choose_indep(draw, bucket, min(number, room), number, type_, to_leaf, effort.tries, leaf_tries)
    return found


# firstn


def _choose_firstn(
    draw: Draw, bucket: Bucket, number: int, type_: int, room: int, to_leaf: bool, effort: _Effort
) -> list[int]:
    chosen: list[int] = []
    leaves: list[int] = []
    for attempt in range(number):
        if len(chosen) >= room:
            break
        item = _pick(draw, bucket, attempt, type_, chosen, effort.tries, leaves if to_leaf else None, effort)
        if item is not None:
            chosen.append(item)
    return leaves if to_leaf else chosen


def _pick(
    draw: Draw,
    top: Bucket,
    first_attempt: int,
    type_: int,
    chosen: list[int],
    tries: int,
    leaves: list[int] | None,
    effort: _Effort,
) -> int | None:
    """One more item of a type below `top`, none of `chosen`; appends a device inside it to `leaves` where given."""
    failures = 0
    bucket, failures_here = top, 0
    while True:
        r = first_attempt + failures
        collides = False
        size = len(bucket.items)
        if size:
            if 0 < effort.local_fallback_tries < failures_here and failures_here >= size >> 1:
                item = choose_by_permutation(bucket, draw.x, r)
            else:
                item = draw.choose(bucket, r, len(chosen))
            item_type = draw.type_of(item)
            if item_type is None:
                return None
            if item_type != type_:
                if item >= 0:
                    return None
                bucket = draw.map.buckets[item]
                continue
            collides = item in chosen
            if not collides and _accept(draw, item, item_type, r, leaves, effort):
                return item
        failures += 1
        failures_here += 1
        if collides and failures_here <= effort.local_tries:
            continue
        if effort.local_fallback_tries > 0 and failures_here <= size + effort.local_fallback_tries:
            continue
        if failures >= tries:
            return None
        bucket, failures_here = top, 0


def _accept(draw: Draw, item: int, item_type: int, r: int, leaves: list[int] | None, effort: _Effort) -> bool:
    if item_type == DEVICE:
        if draw.is_out(item):
            return False
        if leaves is not None:
            leaves.append(item)
    elif leaves is not None:
        first_attempt = (r >> effort.vary_r - 1 if effort.vary_r else 0) + (0 if effort.stable else len(leaves))
        bucket = draw.map.buckets[item]
        leaf = _pick(draw, bucket, first_attempt, DEVICE, leaves, effort.firstn_leaf_tries, None, effort)
        if leaf is None:
            return False
        leaves.append(leaf)
    return True


# indep


def _choose_indep(
    draw: Draw,
    top: Bucket,
    count: int,
    number: int,
    type_: int,
    to_leaf: bool,
    tries: int,
    leaf_tries: int,
) -> list[int]:
    chosen = [_UNDEFINED] * count
    leaves = [_UNDEFINED] * count
    for failures in range(tries):
        if _UNDEFINED not in chosen:
            break
        for place in range(count):
            if chosen[place] != _UNDEFINED:
                continue
            item, r = _descend_indep(draw, top, place, number, failures, type_, 0)
            if item == ITEM_NONE:
                chosen[place] = leaves[place] = ITEM_NONE
            elif item is not None and item not in chosen:
                if to_leaf and item < 0:
                    leaves[place] = _leaf_indep(draw, draw.map.buckets[item], place, number, leaf_tries, r)
                    if leaves[place] == ITEM_NONE:
                        continue
                elif to_leaf:
                    leaves[place] = item  # stays there even if the device is out and no other is found
                if type_ != DEVICE or not draw.is_out(item):
                    chosen[place] = item
    result = leaves if to_leaf else chosen
    return [ITEM_NONE if item == _UNDEFINED else item for item in result]


def _leaf_indep(draw: Draw, top: Bucket, place: int, number: int, tries: int, parent_r: int) -> int:
    for failures in range(tries):
        item, _ = _descend_indep(draw, top, place, number, failures, DEVICE, parent_r, position=place)
        if item == ITEM_NONE:
            break
        if item is not None and not draw.is_out(item):
            return item
    return ITEM_NONE


def _descend_indep(
    draw: Draw, top: Bucket, place: int, number: int, failures: int, type_: int, parent_r: int, position: int = 0
) -> tuple[int | None, int]:
    """An item of the type below `top`, and the attempt; ITEM_NONE: there is none; None: not this time."""
    bucket = top
    while True:
        # A uniform bucket whose size the number divides would otherwise meet the same items again.
        is_even = bucket.algorithm == Algorithm.UNIFORM and len(bucket.items) % number == 0
        r = place + parent_r + (number + is_even) * failures
        if not bucket.items:
            return None, r
        item = draw.choose(bucket, r, position)
        item_type = draw.type_of(item)
        if item_type == type_:
            return item, r
        if item_type is None or item >= 0:
            return ITEM_NONE, r
        bucket = draw.map.buckets[item]
