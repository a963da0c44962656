"""CRUSH's hash of a few 32-bit numbers (rjenkins1), and the logarithm that straw2 buckets draw with.

All arithmetic is modulo 2**32; a negative number (the id of a bucket) stands for its two's complement.
"""

import functools
from decimal import Decimal, localcontext

_M = 0xFFFFFFFF
_SEED = 1315423911
_X, _Y = 231232, 1232


def mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    """Bob Jenkins's mix of three numbers (1996).

    The first number is not cut to 32 bits: it is never shifted to the right, so its high bits do no harm.
    """
    a = a - b - c ^ c >> 13
    b = (b - c - a ^ a << 8) & _M
    c = (c - a - b ^ b >> 13) & _M
    a = a - b - c ^ c >> 12
    b = (b - c - a ^ a << 16) & _M
    c = (c - a - b ^ b >> 5) & _M
    a = a - b - c ^ c >> 3
    b = (b - c - a ^ a << 10) & _M
    return a & _M, b, (c - a - b ^ b >> 15) & _M


def hash2(a: int, b: int) -> int:
    """crush_hash32_2."""
    h = (_SEED ^ a ^ b) & _M
    a, b, h = mix(a & _M, b & _M, h)
    _, a, h = mix(_X, a, h)
    return mix(b, _Y, h)[2]


def hash3(a: int, b: int, c: int) -> int:
    """crush_hash32_3."""
    h = (_SEED ^ a ^ b ^ c) & _M
    a, b, h = mix(a & _M, b & _M, h)
    c, x, h = mix(c & _M, _X, h)
    y, a, h = mix(_Y, a, h)
    b, x, h = mix(b, x, h)
    return mix(y, c, h)[2]


def hash4(a: int, b: int, c: int, d: int) -> int:
    """crush_hash32_4."""
    h = (_SEED ^ a ^ b ^ c ^ d) & _M
    a, b, h = mix(a & _M, b & _M, h)
    c, d, h = mix(c & _M, d & _M, h)
    a, x, h = mix(a, _X, h)
    y, b, h = mix(_Y, b, h)
    c, x, h = mix(c, x, h)
    return mix(y, d, h)[2]


class _LogCosts(dict[int, int]):
    """2**48 minus 2**44 * log2(u + 1), as crush_ln's tables have it, for u up to 0xffff; made when asked for."""

    def __missing__(self, u: int) -> int:
        cost = self[u] = 2**48 - _crush_ln(u)
        return cost


LOG_COSTS = _LogCosts()


def _crush_ln(u: int) -> int:
    """2**44 * log2(u + 1): a table for the upper 8 bits, one for what remains (crush_ln)."""
    reciprocals, upper_logs, lower_logs = _log_tables()
    x, exponent = u + 1, 15
    if not x & 0x18000:
        shift = 16 - x.bit_length()
        x <<= shift
        exponent -= shift
    k = (x >> 8) - 128
    remainder = (x * reciprocals[k] >> 48) & 0xFF
    return (exponent << 44) + (upper_logs[k] + lower_logs[remainder] >> 4)


# The lower table was meant to be 2**48 * log2(1 + k / 2**15). It was generated with errors, and they place the data of
# every cluster: 21 entries are right, these 23 are odd, all others are too large by one constant (crush_ln_table.h).
_LOWER_RIGHT = frozenset((0, 1, 203, 216, 222, 233, *range(237, 240), *range(243, 247), *range(248, 256)))
_LOWER_ODD = {
    56: 0xA2B07F3458,
    127: 0x16DF6CA19BD,
    134: 0x182B07F3458,
    181: 0x209C06E6212,
    184: 0x212B07F3458,
    188: 0x21D6A73A78F,
    193: 0x22C23679B4E,
    198: 0x23A2C3B0EA4,
    199: 0x23D13EE805B,
    200: 0x24035E9221F,
    207: 0x25492644D65,
    210: 0x25D13EE805B,
    212: 0x26296453882,
    225: 0x287BDBF5255,
    227: 0x28D13EE805B,
    228: 0x29035E9221F,
    229: 0x29296453882,
    231: 0x29902A37AAB,
    235: 0x2A4C7605D61,
    236: 0x2A7BDBF5255,
    240: 0x2B296453882,
    241: 0x2B5D022D80F,
    247: 0x2C61A5E8F4C,
}
_LOWER_EXCESS = 0x147700000


@functools.cache
def _log_tables() -> tuple[list[int], list[int], list[int]]:
    """Reciprocals and logarithms of 1 + k/128, logarithms of 1 + k/2**15."""
    with localcontext() as context:
        context.prec = 60
        scale, ln2 = Decimal(2**48), Decimal(2).ln()

        def scaled_log2(numerator: int, denominator: int) -> int:
            return int(scale * ((Decimal(numerator) / denominator).ln() / ln2))

        reciprocals = [-(-(2**48) * 128 // (128 + k)) for k in range(129)]
        upper = [scaled_log2(128 + k, 128) for k in range(128)] + [0xFFFF00000000]  # the last one not by the formula
        lower = [scaled_log2(2**15 + k, 2**15) for k in range(256)]
    for k in range(256):
        if k in _LOWER_ODD:
            lower[k] = _LOWER_ODD[k]
        elif k not in _LOWER_RIGHT:
            lower[k] += _LOWER_EXCESS
    return reciprocals, upper, lower
