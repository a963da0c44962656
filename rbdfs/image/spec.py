"""Names as a user writes them: `[pool/[namespace/]]image[@snap]`, and what a name may be.

The same grammar as the `rbd` command: `/` and `@` separate, so no name holds them; anything else may stand in a name.
"""

import re
from dataclasses import dataclass
from typing import Self

from rbdfs.errors import InvalidArgument

DEFAULT_POOL = "rbd"

_IMAGE_SPEC = re.compile(r"(?:([^/@]+)/(?:([^/@]*)/)?)?([^/@]+)(?:@([^/@]+))?")
_POOL_SPEC = re.compile(r"([^/@]+)(?:/([^/@]*))?")


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image, or a snapshot of it; the empty string stands for the default namespace and for no snapshot."""

    pool: str
    namespace: str
    image: str
    snap: str = ""

    @classmethod
    def parse(cls, text: str, default_pool: str = DEFAULT_POOL, default_namespace: str = "") -> Self:
        """Read `[pool/[namespace/]]image[@snap]`; each default stands for what is not named."""
        match = _IMAGE_SPEC.fullmatch(text)
        if match is None:
            raise InvalidArgument(f"invalid image spec: {text!r} (wanted: [pool/[namespace/]]image[@snap])")
        pool, namespace, image, snap = match.groups()
        return cls(pool or default_pool, default_namespace if namespace is None else namespace, image, snap or "")

    @property
    def pool_spec(self) -> "PoolSpec":
        """Where the image is."""
        return PoolSpec(self.pool, self.namespace)

    def __str__(self) -> str:
        return f"{self.pool_spec}/{self.image}" + (f"@{self.snap}" if self.snap else "")


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool and a namespace of it."""

    pool: str
    namespace: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `pool[/namespace]`."""
        match = _POOL_SPEC.fullmatch(text)
        if match is None:
            raise InvalidArgument(f"invalid pool spec: {text!r} (wanted: pool[/namespace])")
        return cls(match[1], match[2] or "")

    def __str__(self) -> str:
        return f"{self.pool}/{self.namespace}" if self.namespace else self.pool


def check_image_name(name: str) -> None:
    """Refuse what cannot be the name of an image."""
    _check("image name", name)


def check_snap_name(name: str) -> None:
    """Refuse what cannot be the name of a snapshot."""
    _check("snapshot name", name)


def _check(what: str, name: str) -> None:
    if not name:
        raise InvalidArgument(f"{what} is empty")
    if "/" in name or "@" in name:
        raise InvalidArgument(f"{what} {name!r} holds '/' or '@'")
    if "\0" in name:
        raise InvalidArgument(f"{what} {name!r} holds a zero byte")
