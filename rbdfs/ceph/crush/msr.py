"""Evaluating a rule of multi-step retry (MSR, Squid and later): several devices in each of several failure domains.

    step take default
    step choosemsr 4 type host
    step choosemsr 2 type osd
    step emit

A classic rule with two choose steps cannot leave a host whose devices are all out. Here the steps between take and
emit are one descent, which is tried again from its top. The places of the result are divided among the items of the
first step (here four strides of two), each stride among those of the next step. The strides of a step hold disjoint
sets of buckets; within its stride a bucket may be met again. A descent that ends at a device that is out leaves its
place for the next try, `msr_descents` in all; one that meets a bucket of another stride chooses again on the spot,
`msr_collision_tries` in all.

A rule that is not of this form gives no devices at all.
"""

from collections.abc import Sequence
from math import prod

from rbdfs.ceph.crush.draw import DEVICE, Draw
from rbdfs.ceph.crush.map import ITEM_NONE, Bucket, Op, Rule, RuleType, Step

_EMPTY = None


def evaluate_msr(draw: Draw, rule: Rule, size: int) -> list[int]:
    """The devices that the rule gives; with holes (ITEM_NONE) where it is of type MSR_INDEP."""
    tunables = draw.map.tunables
    descents, collision_tries = tunables.msr_descents, tunables.msr_collision_tries
    steps = list(rule.steps)
    while steps and steps[0].op in (Op.SET_MSR_DESCENTS, Op.SET_MSR_COLLISION_TRIES):
        step = steps.pop(0)
        if step.op == Op.SET_MSR_DESCENTS:
            descents = step.arg1
        else:
            collision_tries = step.arg1
    found: list[tuple[int, int]] = []  # (place, device), in the order of finding
    start = 0
    while steps:
        block = _next_block(steps)
        if block is None:
            return []
        del steps[: len(block) + 1]
        root, choices = block[0].arg1, block[1:]
        if root >= 0 and not choices:
            found.append((start, root))
            start += 1
            continue
        if root not in draw.map.buckets or not choices:
            return []
        fanout = prod(step.arg1 or size for step in choices)
        end = min(start + fanout, size)
        descent = _Descent(draw, choices, size, collision_tries, found)
        limit = len(found) + end - start
        for attempt in range(descents):
            if len(found) >= limit:
                break
            descent.choose(draw.map.buckets[root], 0, start, end, fanout, attempt)
        start = end
    if rule.type == RuleType.MSR_FIRSTN:
        return [device for _, device in found]
    by_place = dict(found)
    return [by_place.get(place, ITEM_NONE) for place in range(size)]


def _next_block(steps: Sequence[Step]) -> Sequence[Step] | None:
    """The steps take, choosemsr ... before the next emit; None where there are others."""
    ops = [step.op for step in steps]
    if Op.EMIT not in ops:
        return None
    block = steps[: ops.index(Op.EMIT)]
    if not block or block[0].op != Op.TAKE or any(step.op != Op.CHOOSE_MSR or step.arg1 < 0 for step in block[1:]):
        return None
    return block


class _Descent:
    """The choices of one block, kept from try to try."""

    def __init__(
        self, draw: Draw, steps: Sequence[Step], size: int, collision_tries: int, found: list[tuple[int, int]]
    ) -> None:
        self._draw = draw
        self._steps = steps
        self._size = size  # of the whole result
        self._collision_tries = collision_tries
        self._found = found
        # By step and place. A stride's items stand anywhere among its places; in the last step each at its own.
        self._used: list[list[int | None]] = [[_EMPTY] * size for _ in steps]

    def choose(self, bucket: Bucket, depth: int, start: int, end: int, fanout: int, attempt: int) -> int:
        """Fill places from `start` to `end` as far as this attempt succeeds, by step `depth`; how many were filled."""
        step, used = self._steps[depth], self._used[depth]
        is_last = depth + 1 == len(self._steps)
        length = fanout // (step.arg1 or self._size)
        filled = 0
        unused: list[int] = []  # places of buckets in which nothing was found
        for index, stride in enumerate(range(start, end, length)):
            stride_end = min(stride + length, end)
            if _EMPTY not in self._used[-1][stride:stride_end]:
                continue
            item = self._descend(bucket, step.arg2, used, (start, end), (stride, stride_end), index, attempt)
            if item is None or is_last != (step.arg2 == DEVICE):
                continue
            if is_last:
                if not self._draw.is_out(item):
                    used[stride] = item
                    self._found.append((stride, item))
                    filled += 1
                continue
            inside = self.choose(self._draw.map.buckets[item], depth + 1, stride, stride_end, length, attempt)
            filled += inside
            if item not in used[stride:stride_end] and _EMPTY in used[stride:stride_end]:
                place = used.index(_EMPTY, stride, stride_end)
                used[place] = item
                if not inside:
                    unused.append(place)
        # Not before: what was met in this attempt is not chosen again in it.
        for place in unused:
            used[place] = _EMPTY
        return filled

    def _descend(
        self,
        top: Bucket,
        type_: int,
        used: list[int | None],
        places: tuple[int, int],
        stride: tuple[int, int],
        index: int,
        attempt: int,
    ) -> int | None:
        """An item of the type below `top` that no other stride holds."""
        for collisions in range(self._collision_tries):
            item = self._find(top, type_, ((attempt * self._size + index) << 16) + collisions & 0xFFFFFFFF, index)
            if item is None:
                return None
            place = next((place for place in range(*places) if used[place] == item), None)
            if place is None or stride[0] <= place < stride[1]:
                return item
        return None

    def _find(self, top: Bucket, type_: int, r: int, position: int) -> int | None:
        bucket: Bucket | None = top
        while bucket is not None and bucket.items:
            item = self._draw.choose(bucket, r, position)
            if self._draw.type_of(item) == type_:
                return item
            bucket = self._draw.map.buckets.get(item)
        return None
