"""What all kinds of rules draw from: a map, an input, and the weights that hold for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rbdfs.ceph.crush.buckets import choose_item
from rbdfs.ceph.crush.hash import hash2
from rbdfs.ceph.crush.map import Bucket, ChooseArg, CrushMap

DEVICE = 0  # the type of what is no bucket


@dataclass(slots=True)
class Draw:
    """What stays the same while one rule is evaluated for one input."""

    map: CrushMap
    x: int
    weights: Sequence[int]  # of devices, 16.16: how likely each accepts what falls on it (`ceph osd reweight`)
    choose_args: Mapping[int, ChooseArg]

    def choose(self, bucket: Bucket, r: int, position: int) -> int:
        """One item of a bucket that is not empty."""
        return choose_item(bucket, self.x, r, self.choose_args.get(bucket.id), position)

    def type_of(self, item: int) -> int | None:
        """The type of an item, None where the map has no such item."""
        if item >= 0:
            return DEVICE if item < self.map.max_devices else None
        bucket = self.map.buckets.get(item)
        return bucket.type if bucket is not None else None

    def is_out(self, device: int) -> bool:
        """Whether the device does not take this input."""
        weight = self.weights[device] if device < len(self.weights) else 0
        if weight >= 0x10000:
            return False
        return weight == 0 or hash2(self.x, device) & 0xFFFF >= weight
