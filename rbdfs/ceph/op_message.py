"""An op on the wire (MOSDOp, version 8), built from parts that are cached, and its reply (MOSDOpReply).

The front of an op, in order:

    32  placement group, hash of the name, epoch of the map     per object and epoch (`ObjectTarget.prefix`)
    59  flags; reqid, trace and client incarnation, all zero    per kind of op (`flag_part`)
     8  mtime                                                   per op
     -  locator (pool, namespace) and name                      per object (`ObjectTarget.name_part`)
     -  u16 count and 38 bytes per step                         per op (osd_ops.py)
     -  snap id read; snap context                              per snapshot (`read_tail`, `write_tail`)
    12  attempt; feature bits                                   the same but for attempts after the first

The reqid stays zero: the OSD makes it from the connection's global id and the message's tid. It knows an op that it has
done by it, so that an op that is sent again must keep its tid.
"""

from enum import IntFlag
from functools import lru_cache
from struct import Struct, error
from typing import NamedTuple

from rbdfs.ceph.msgr2.features import SUPPORTED
from rbdfs.ceph.placement import Placement
from rbdfs.errors import WireError
from rbdfs.rados.ops import HEAD, Buffer, SnapContext, SnapId

VERSION, COMPAT = 8, 3  # of the message
PRIORITY = 63  # osd_client_op_priority


class OpFlag(IntFlag):
    """CEPH_OSD_FLAG_*."""

    ONDISK = 0x4
    RETRY = 0x8
    READ = 0x10
    WRITE = 0x20
    PGOP = 0x400
    RWORDERED = 0x4000  # a read that may not overtake writes to its object
    IGNORE_OVERLAY = 0x20000
    KNOWN_REDIR = 0x400000
    FULL_TRY = 0x800000


ALWAYS = int(OpFlag.ONDISK | OpFlag.KNOWN_REDIR)

_PREFIX = Struct("<BBIBQIibII")  # spg_t, raw hash, epoch
_FLAG_PART = Struct("<IBBI21x24xI")  # flags, reqid's envelope and body, trace, client incarnation
_LOCATOR = Struct("<BBIqiI")  # envelope, pool, -1, length of the empty key
_LENGTH = Struct("<I")
_READ_TAIL = Struct("<QQI")
_ATTEMPT = Struct("<iQ")
MTIME = Struct("<II")
NO_MTIME = bytes(8)


def prefix(placement: Placement, raw_hash: int, epoch: int) -> bytes:
    """What comes first: where the op goes, by which map."""
    pg = placement.pg
    return _PREFIX.pack(1, 1, 18, 1, pg.pool, pg.seed, -1, placement.shard, raw_hash, epoch)


@lru_cache(maxsize=64)
def flag_part(flags: int) -> bytes:
    """The flags, and the identity of the op, which the OSD fills in."""
    return _FLAG_PART.pack(flags, 2, 2, 21, 0)


def name_part(pool: int, namespace: str, name: str) -> bytes:
    """The locator and the name."""
    space, oid = namespace.encode("utf-8", "surrogateescape"), name.encode("utf-8", "surrogateescape")
    return b"".join(
        (
            _LOCATOR.pack(5, 4, 20 + len(space), pool, -1, 0),
            _LENGTH.pack(len(space)),
            space,
            _LENGTH.pack(len(oid)),
            oid,
        )
    )


@lru_cache(maxsize=1024)
def read_tail(snap_id: SnapId) -> bytes:
    """Which snapshot is read; no snap context."""
    return _READ_TAIL.pack(snap_id, 0, 0)


@lru_cache(maxsize=1024)
def write_tail(snapc: SnapContext) -> bytes:
    """Writes go to the head, under a snap context."""
    return _READ_TAIL.pack(HEAD, snapc.seq, len(snapc.snaps)) + Struct(f"<{len(snapc.snaps)}Q").pack(*snapc.snaps)


def attempt_part(attempt: int) -> bytes:
    """How often the op has been sent before, and our feature bits."""
    return _ATTEMPT.pack(attempt, SUPPORTED)


FIRST_ATTEMPT = attempt_part(0)


class OpReply(NamedTuple):
    """What an OSD answers."""

    result: int
    version: int  # the object's, for AssertVersion
    attempt: int  # which of ours is answered
    lengths: tuple[int, ...]  # of the output of each step
    is_redirected: bool = False  # the object is in another pool: this one is a cache tier in front of it


_HEAD = 17 + 8  # placement group and flags, between the name and the result
_COUNT_PLACE = 20  # from the result on
_MAX_STEPS = 1024


@lru_cache(maxsize=32)
def _reply_of(count: int) -> Struct:
    """Result, epoch, count, length of the output of each step, attempt, version, whether redirected."""
    return Struct("<i12xII" + "34xI" * count + f"i{4 * count}x12xQB")


_ONE_STEP = _reply_of(1)


def decode_reply(front: Buffer) -> OpReply:
    """Read the front of an MOSDOpReply of version 7 or later."""
    try:
        start = 4 + _LENGTH.unpack_from(front, 0)[0] + _HEAD
        result, _, count, length, attempt, version, redirected = _ONE_STEP.unpack_from(front, start)
        if count == 1:
            return OpReply(result, version, attempt, (length,), redirected != 0)
    except error:
        pass  # it may be shorter: a reply without steps
    return _decode_reply_of_steps(front)


def _decode_reply_of_steps(front: Buffer) -> OpReply:
    try:
        start = 4 + _LENGTH.unpack_from(front, 0)[0] + _HEAD
        (count,) = _LENGTH.unpack_from(front, start + _COUNT_PLACE)
        if count > _MAX_STEPS:
            raise WireError(f"reply with {count} steps")
        result, _, _, *lengths, attempt, version, redirected = _reply_of(count).unpack_from(front, start)
    except error as err:
        raise WireError(f"MOSDOpReply: {err}") from err
    return OpReply(result, version, attempt, tuple(lengths), redirected != 0)
