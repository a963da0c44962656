"""How a bucket of each algorithm chooses one of its items for an input `x` and an attempt `r`.

| algorithm | chooses by                                        | cost     |
|-----------|---------------------------------------------------|----------|
| uniform   | place `r` of a permutation; all weights are equal | O(r)     |
| list      | walk from the newest item, keep or go on          | O(n)     |
| tree      | a binary tree of weights                          | O(log n) |
| straw     | longest straw, lengths scaled beforehand          | O(n)     |
| straw2    | longest straw, drawn by an exponential variate    | O(n)     |
"""

from collections.abc import Callable

from rbdfs.ceph.crush.hash import LOG_COSTS, hash3, hash4
from rbdfs.ceph.crush.map import Algorithm, Bucket, ChooseArg

Chooser = Callable[[Bucket, int, int, ChooseArg | None, int], int]


def choose_item(bucket: Bucket, x: int, r: int, arg: ChooseArg | None, position: int) -> int:
    """One item of a bucket that is not empty; `position` in the result picks the weight set of `arg`."""
    return _CHOOSERS[bucket.algorithm](bucket, x, r, arg, position)


def choose_by_permutation(bucket: Bucket, x: int, r: int) -> int:
    """Item number `r` of the items in an order that `x` determines (bucket_perm_choose)."""
    size = len(bucket.items)
    place = r % size
    if place == 0:
        return bucket.items[hash3(x, bucket.id, 0) % size]
    order = list(bucket.items)
    for p in range(min(place + 1, size - 1)):
        i = p + hash3(x, bucket.id, p) % (size - p)
        order[p], order[i] = order[i], order[p]
    return order[place]


def _uniform(bucket: Bucket, x: int, r: int, arg: ChooseArg | None, position: int) -> int:
    return choose_by_permutation(bucket, x, r)


def _list(bucket: Bucket, x: int, r: int, arg: ChooseArg | None, position: int) -> int:
    for i in range(len(bucket.items) - 1, -1, -1):
        draw = hash4(x, bucket.items[i], r, bucket.id) & 0xFFFF
        if draw * bucket.sums[i] >> 16 < bucket.weights[i]:
            return bucket.items[i]
    return bucket.items[0]


def _tree(bucket: Bucket, x: int, r: int, arg: ChooseArg | None, position: int) -> int:
    # Leaves have odd numbers; an inner node whose lowest set bit is b has its children at b/2 to either side.
    weights = bucket.weights
    node = len(weights) >> 1
    while not node & 1:
        half = (node & -node) >> 1
        point = hash4(x, node, r, bucket.id) * weights[node] >> 32
        node += -half if point < weights[node - half] else half
    leaf = node >> 1
    return bucket.items[leaf] if leaf < len(bucket.items) else bucket.items[-1]


def _straw(bucket: Bucket, x: int, r: int, arg: ChooseArg | None, position: int) -> int:
    best, longest = bucket.items[0], -1
    for item, straw in zip(bucket.items, bucket.straws, strict=True):
        length = (hash3(x, item, r) & 0xFFFF) * straw
        if length > longest:
            best, longest = item, length
    return best


def _straw2(bucket: Bucket, x: int, r: int, arg: ChooseArg | None, position: int) -> int:
    # The longest straw is the least cost per weight; the first one wins where several are equal.
    ids, weights = bucket.items, bucket.weights
    if arg is not None:
        ids = arg.ids or ids
        if arg.weight_sets:
            weights = arg.weight_sets[min(position, len(arg.weight_sets) - 1)]
    best, least = bucket.items[0], None
    for item, id_, weight in zip(bucket.items, ids, weights, strict=True):
        if weight:
            cost = LOG_COSTS[hash3(x, id_, r) & 0xFFFF] // weight
            if least is None or cost < least:
                best, least = item, cost
    return best


_CHOOSERS: dict[Algorithm, Chooser] = {
    Algorithm.UNIFORM: _uniform,
    Algorithm.LIST: _list,
    Algorithm.TREE: _tree,
    Algorithm.STRAW: _straw,
    Algorithm.STRAW2: _straw2,
}
