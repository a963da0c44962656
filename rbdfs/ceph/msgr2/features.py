"""The feature bits that we announce to monitors and OSDs, and by which they choose how to encode for us.

Announcing a bit promises its behaviour. So there is no bit here that is not honoured: SERVER_REEF (31) promises
pg_upmap_primaries, SERVER_LUMINOUS (21) promises backoffs and to send ops again when a PG splits, bit 38 with 57 also
CRUSH's rules of multi-step retry; with OSD_CACHEPOOL (35) a cluster may have pools with a cache tier, which we refuse
by name, and serve its other pools. SERVER_SQUID (49) and SERVER_TENTACLE (50) are left out on purpose: with them
pg_temp of an EC pool comes in another order, and ops would go to the wrong shard. Bits were used again after their
first owners retired ("incarnations"): one of incarnation 2 counts only beside bit 57, one of incarnation 3 only beside
57 and 28 (`ceph_features.h`).
"""

from enum import IntFlag


class Feature(IntFlag):
    """CEPH_FEATURE_*: those that are announced."""

    UID = 1 << 0
    NOSRCADDR = 1 << 1
    SERVER_NAUTILUS = 1 << 2
    FLOCK = 1 << 3
    SUBSCRIBE2 = 1 << 4
    MONNAMES = 1 << 5
    RECONNECT_SEQ = 1 << 6
    OBJECTLOCATOR = 1 << 8
    PGID64 = 1 << 9
    INCSUBOSDMAP = 1 << 10
    PGPOOL3 = 1 << 11
    OSDREPLYMUX = 1 << 12
    OSDENC = 1 << 13
    SERVER_KRAKEN = 1 << 14
    MONENC = 1 << 15
    SERVER_OCTOPUS = 1 << 16
    CRUSH_TUNABLES = 1 << 18
    SERVER_LUMINOUS = 1 << 21
    MSG_AUTH = 1 << 23
    RECOVERY_DELETES = 1 << 24
    CRUSH_TUNABLES2 = 1 << 25
    CREATEPOOLID = 1 << 26
    SERVER_MIMIC = 1 << 28
    OSDHASHPSPOOL = 1 << 30
    SERVER_REEF = 1 << 31
    OSD_CACHEPOOL = 1 << 35
    CRUSH_V2 = 1 << 36
    OSD_ERASURE_CODES = 1 << 38
    OSDMAP_ENC = 1 << 39
    CRUSH_TUNABLES3 = 1 << 41
    MSGR_KEEPALIVE2 = 1 << 42
    OSD_POOLRESEND = 1 << 43
    OSD_SET_ALLOC_HINT = 1 << 45
    OSD_FADVISE_FLAGS = 1 << 46
    CRUSH_V4 = 1 << 48
    NEW_OSDOP_ENCODING = 1 << 56
    SERVER_JEWEL = 1 << 57
    CRUSH_TUNABLES5 = 1 << 58
    MSG_ADDR2 = 1 << 59
    CEPHX_V2 = 1 << 61


SUPPORTED = int(sum(Feature))  # goes into CLIENT_IDENT, and at the end of every MOSDOp
REQUIRED = int(Feature.MSG_ADDR2)  # of a peer: nothing that speaks messenger 2 is without it


def describe(bits: int) -> str:
    """The bits by name, for an error message."""
    names = {int(feature): str(feature.name) for feature in Feature}
    return ", ".join(names.get(1 << n, f"bit {n}") for n in range(64) if bits >> n & 1)
