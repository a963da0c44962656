"""The hashes that turn an object's name into the number its placement group is found by."""

from rbdfs.ceph.crush.hash import mix

RJENKINS = 2  # CEPH_STR_HASH_RJENKINS: every pool made since 2010
LINUX = 1  # CEPH_STR_HASH_LINUX: as the kernel's directory cache hashed names then

_M = 0xFFFFFFFF
_GOLDEN_RATIO = 0x9E3779B9


def hash_name(kind: int, data: bytes) -> int:
    """A name's hash, of the kind that its pool uses (`pg_pool_t::object_hash`)."""
    return rjenkins(data) if kind == RJENKINS else linux_dcache(data)


def rjenkins(data: bytes) -> int:
    """Bob Jenkins's hash of 1996 (ceph_str_hash_rjenkins)."""
    a = b = _GOLDEN_RATIO
    c = 0
    length = len(data)
    whole = length - length % 12
    for start in range(0, whole, 12):
        words = int.from_bytes(data[start : start + 12], "little")
        a, b, c = mix(a + (words & _M) & _M, b + (words >> 32 & _M) & _M, c + (words >> 64) & _M)
    # The last bytes; the lowest byte of c is kept for the length.
    words = int.from_bytes(data[whole:], "little")
    c += length + (words >> 64 << 8)
    return mix(a + (words & _M) & _M, b + (words >> 32 & _M) & _M, c & _M)[2]


def linux_dcache(data: bytes) -> int:
    """The Linux kernel's old hash of a file name (ceph_str_hash_linux)."""
    value = 0
    for byte in data:
        value = (value + (byte << 4) + (byte >> 4)) * 11 & _M
    return value


def stable_mod(value: int, count: int) -> int:
    """`value` modulo `count`, such that a growing count moves only what goes to a new place (ceph_stable_mod)."""
    mask = (1 << (count - 1).bit_length()) - 1
    low = value & mask
    return low if low < count else value & mask >> 1
