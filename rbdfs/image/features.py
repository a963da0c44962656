"""What an image may have been made with, and what of it we can read and write (Ceph, `include/rbd/features.h`).

A bit that we do not know forbids reading only where it changes how data is laid out; every other one forbids writing.
"""

from rbdfs.cls.rbd_types import OP_FEATURES_ALL, Feature, ImageFlag
from rbdfs.errors import InvalidArgument, NotSupported

__all__ = [
    "DEFAULT_FEATURES",
    "FEATURE_NAMES",
    "Feature",
    "ImageFlag",
    "check_creatable",
    "check_readable",
    "feature_names",
    "forbids_writing",
    "settle",
]

DEFAULT_FEATURES = (
    Feature.LAYERING | Feature.EXCLUSIVE_LOCK | Feature.OBJECT_MAP | Feature.FAST_DIFF | Feature.DEEP_FLATTEN
)

# What the code here reads and writes; of the others, what it can at least read.
_WRITABLE = DEFAULT_FEATURES | Feature.STRIPINGV2 | Feature.DATA_POOL | Feature.OPERATIONS
_READABLE = _WRITABLE | Feature.JOURNALING | Feature.NON_PRIMARY

# Each needs the other one (`librbd: validate_features`).
_NEEDS = {Feature.OBJECT_MAP: Feature.EXCLUSIVE_LOCK, Feature.FAST_DIFF: Feature.OBJECT_MAP}


def feature_names(features: int) -> list[str]:
    """The names that `rbd info` shows: `exclusive-lock`; an unknown bit is `feature-<bit>`."""
    return [
        (Feature(1 << bit).rbd_name if 1 << bit in _KNOWN else f"feature-{bit}")
        for bit in range(features.bit_length())
        if features & (1 << bit)
    ]


_KNOWN = {int(feature) for feature in Feature}
FEATURE_NAMES = {feature.rbd_name: feature for feature in Feature}


def forbids_writing(features: int, op_features: int = 0) -> list[str]:
    """The names of the features, and of what else has been done with the image, because of which we can read only."""
    operations = op_features & ~OP_FEATURES_ALL
    names = [f"operation-{bit}" for bit in range(operations.bit_length()) if operations & (1 << bit)]
    return feature_names(features & ~int(_WRITABLE)) + names


def check_readable(features: int, incompatible: int, what: str) -> None:
    """NotSupported, naming the features, where the image cannot even be read.

    `incompatible` is what the store's object class says that a reader must know: it may be newer than we are.
    """
    refused = (incompatible & ~int(_READABLE)) | (features & (Feature.MIGRATING | Feature.DIRTY_CACHE))
    if refused:
        raise NotSupported(f"{what}: feature {', '.join(feature_names(refused))} is not supported")


def check_creatable(features: int) -> None:
    """NotSupported, InvalidArgument where an image cannot be made with these features."""
    makeable = DEFAULT_FEATURES | Feature.STRIPINGV2 | Feature.DATA_POOL
    if features & ~int(makeable):
        raise NotSupported(f"feature {', '.join(feature_names(features & ~int(makeable)))} is not supported")
    for feature, needed in _NEEDS.items():
        if features & feature and not features & needed:
            raise InvalidArgument(f"feature {feature_names(feature)[0]} needs {feature_names(needed)[0]}")


# These follow from other features, from the layout, or from what is done with the image.
_FOLLOWING = Feature.FAST_DIFF | Feature.STRIPINGV2 | Feature.DATA_POOL | Feature.OPERATIONS | Feature.MIGRATING


def settle(features: int) -> int:
    """What librbd makes of features that somebody asks for."""
    features &= ~int(_FOLLOWING)
    return features | Feature.FAST_DIFF if features & Feature.OBJECT_MAP else features
