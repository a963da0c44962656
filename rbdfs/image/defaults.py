"""How an image is laid out where nobody says: as the pool, else the configuration, else Ceph itself has it.

    rbd config pool set POOL rbd_default_order 20       kept in the pool, and stronger than what a client is told
    rbd default features = layering, exclusive-lock     in ceph.conf; or `ceph config set client rbd_default_features 5`

Of librbd's options these are honoured: rbd_default_order, _features, _stripe_unit, _stripe_count and _data_pool.
"""

import re
from typing import NamedTuple

from rbdfs.cls import rbd
from rbdfs.cls.query import ask
from rbdfs.cls.rbd_types import Feature
from rbdfs.errors import ConfigError, NotFound, PermissionDenied
from rbdfs.image.features import DEFAULT_FEATURES, FEATURE_NAMES, settle
from rbdfs.image.names import POOL_INFO
from rbdfs.rados.api import IoCtx, Option

DEFAULT_ORDER = 22
_UNSET = Option("", "")
_PREFIX = "rbd_default_"
_POOL_PREFIX = "conf_" + _PREFIX
_SIZE = re.compile(r"(\d+) ?([KMG]?)(?:i?B)?", re.IGNORECASE)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30}


class Defaults(NamedTuple):
    """What a new image gets that is not asked for; stripes of 0 are those of an image without striping."""

    order: int = DEFAULT_ORDER
    features: int = DEFAULT_FEATURES
    stripe_unit: int = 0
    stripe_count: int = 0
    data_pool: str = ""


async def find_defaults(ioctx: IoCtx) -> Defaults:
    """The defaults for a pool; ConfigError where a value makes no sense."""
    of_pool = await _options_of_pool(ioctx)

    async def option(name: str) -> Option:
        return of_pool.get(name) or await ioctx.cluster.option(_PREFIX + name) or _UNSET

    return Defaults(
        _number("order", await option("order"), DEFAULT_ORDER),
        _features(await option("features")),
        _number("stripe_unit", await option("stripe_unit"), 0),
        _number("stripe_count", await option("stripe_count"), 0),
        (await option("data_pool")).value,
    )


async def _options_of_pool(ioctx: IoCtx) -> dict[str, Option]:
    """Those that the pool itself keeps, whatever the namespace; none where a client may not look."""
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


def _number(name: str, option: Option, default: int) -> int:
    if not option.value:
        return default
    match = _SIZE.fullmatch(option.value.strip())
    if match is None:
        raise ConfigError(f"{option.source}: {_PREFIX}{name} = {option.value}: not a number")
    return int(match[1]) << _SHIFTS[match[2].upper()]


def _features(option: Option) -> int:
    text = option.value.strip()
    if not text:
        return DEFAULT_FEATURES
    if text.isdecimal():
        return settle(int(text))
    features = Feature(0)
    for name in text.split(","):
        feature = FEATURE_NAMES.get(name.strip())
        if feature is None:
            raise ConfigError(f"{option.source}: {_PREFIX}features = {text}: no feature {name.strip()!r}")
        features |= feature
    return settle(features)
