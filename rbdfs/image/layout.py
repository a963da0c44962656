"""How a new image keeps its data: as somebody asks, else as the pool, else the configuration, else Ceph itself has it.

    rbd config pool set POOL rbd_default_order 20       kept in the pool, and stronger than what a client is told
    rbd default features = layering, exclusive-lock     in ceph.conf; or `ceph config set client rbd_default_features 5`

Of librbd's options these are honoured: rbd_default_order, _features, _stripe_unit, _stripe_count and _data_pool.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

from rbdfs.cls import rbd
from rbdfs.cls.query import ask
from rbdfs.errors import ConfigError, NotFound, PermissionDenied
from rbdfs.image.features import DEFAULT_FEATURES, FEATURE_NAMES, Feature, settle
from rbdfs.image.names import POOL_INFO
from rbdfs.rados.api import IoCtx, Option

_PREFIX = "rbd_default_"
_POOL_PREFIX = "conf_" + _PREFIX
_SIZE = re.compile(r"(\d+) ?([KMG]?)(?:i?B)?", re.IGNORECASE)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30}


class ImageLayout(TypedDict, total=False):
    """What somebody asks for."""

    order: int
    features: int
    stripe_unit: int
    stripe_count: int
    data_pool: str


class FullLayout(NamedTuple):
    """The same with nothing left out. Stripes of 0 mean the usual ones, an empty data pool the image's own."""

    order: int = 22
    features: int = int(DEFAULT_FEATURES)
    stripe_unit: int = 0
    stripe_count: int = 0
    data_pool: str = ""


async def complete(ioctx: IoCtx, layout: ImageLayout) -> FullLayout:
    """Fill in what is left out; ConfigError where the value configured for it makes no sense."""
    options = await _options_of_pool(ioctx)
    found: dict[str, Any] = dict(layout)
    for name, parse in _PARSERS.items():
        if name not in found:
            option = options.get(name) or await ioctx.cluster.option(_PREFIX + name)
            if option is not None and option.value.strip():
                found[name] = _parse(name, parse, option)
    return FullLayout(**found)


async def _options_of_pool(ioctx: IoCtx) -> dict[str, Option]:
    """What the pool itself keeps, whatever the namespace; nothing where a client may not look."""
    try:
        pool = await ioctx.cluster.open_pool(ioctx.pool_id)
        page = await ask(pool, POOL_INFO, rbd.list_metadata(_POOL_PREFIX))
    except (NotFound, PermissionDenied):
        return {}
    return {
        key.removeprefix(_POOL_PREFIX): Option(str(value, "utf-8", "replace"), f"pool {ioctx.pool_name}")
        for key, value in page.items()
        if key.startswith(_POOL_PREFIX)
    }


def _parse(name: str, parse: Callable[[str], Any], option: Option) -> Any:
    try:
        return parse(option.value.strip())
    except ValueError as err:
        raise ConfigError(f"{option.source}: {_PREFIX}{name} = {option.value}: {err}") from err


def _number(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("not a number")
    return int(match[1]) << _SHIFTS[match[2].upper()]


def _features(text: str) -> int:
    """A number, or names with commas between them."""
    if text.isdecimal():
        return settle(int(text))
    features = Feature(0)
    for name in text.split(","):
        feature = FEATURE_NAMES.get(name.strip())
        if feature is None:
            raise ValueError(f"no feature {name.strip()!r}")
        features |= feature
    return settle(features)


_PARSERS: dict[str, Callable[[str], Any]] = {
    "order": _number,
    "features": _features,
    "stripe_unit": _number,
    "stripe_count": _number,
    "data_pool": str,
}
