"""From messages about the OSD map to maps: increments applied, gaps noticed."""

import logging
from collections.abc import Iterator
from typing import Protocol

from rbdfs.ceph.messages import OSDMapMessage
from rbdfs.ceph.osdmap import Incremental, OSDMap
from rbdfs.errors import ProtocolError, WireError

log = logging.getLogger(__name__)


class WantMaps(Protocol):
    """How to ask for maps that are missing."""

    def __call__(self, *, full: bool = False) -> None:
        """Ask for those after the one that we have, or for the newest one, whole."""


def newer_maps(current: OSDMap | None, message: OSDMapMessage, want_maps: WantMaps) -> Iterator[OSDMap]:
    """The maps of a message that follow ours, each made from the one before."""
    if current is None:
        if not message.full_maps:
            want_maps()
            return
        current = OSDMap.from_bytes(message.full_maps[max(message.full_maps)])
        yield current
    for epoch in sorted(message.increments.keys() | message.full_maps.keys()):
        if epoch <= current.epoch:
            continue
        if epoch == current.epoch + 1 and epoch in message.increments:
            try:
                current = current.apply(Incremental.from_bytes(message.increments[epoch]))
            except (WireError, ProtocolError) as err:
                log.warning("increment %d of the OSD map: %s; asking for the whole map", epoch, err)
                want_maps(full=True)
                return
        elif epoch in message.full_maps:  # the epochs between are gone: the monitors have trimmed them
            current = OSDMap.from_bytes(message.full_maps[epoch])
        else:
            want_maps()
            return
        yield current
