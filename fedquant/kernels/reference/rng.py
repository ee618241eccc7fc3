"""The counter-based generator: draw i of a key is a pure function of (key.word, i).

    draw(i) = mix(mix(i ^ low) + high)   low, high: the halves of key.word; mix: a bijection of uint32

`mix` is lowbias32 (C. Wellons, "Prospecting for hash functions"). Two keyed rounds, because with one
key alone two nearby keys give shifted copies of one stream.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.keys import Key

U32 = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_CHUNK: Final = 1 << 14  # two uint32 arrays of it stay in the first-level cache
_M1: Final = np.uint32(0x7FEB352D)
_M2: Final = np.uint32(0x846CA68B)
UNIT: Final = np.float32(2.0**-24)


def _mix_inplace(x: U32, scratch: U32) -> None:
    for shift, factor in ((16, _M1), (15, _M2)):
        np.right_shift(x, np.uint32(shift), out=scratch)
        np.bitwise_xor(x, scratch, out=x)
        np.multiply(x, factor, out=x)
    np.right_shift(x, np.uint32(16), out=scratch)
    np.bitwise_xor(x, scratch, out=x)


def halves(key: Key, n: int, offset: int) -> tuple[np.uint32, np.uint32]:
    """(low, high) of key.word. Raises ValueError where draws offset … offset+n−1 exceed the counter."""
    if n < 0 or offset < 0 or offset + n > 1 << 32:
        raise ValueError(f"rng: draws {offset}…{offset + n} are outside [0, 2**32]")
    return np.uint32(key.word & 0xFFFFFFFF), np.uint32(key.word >> 32)


def uint32(key: Key, n: int, offset: int = 0) -> U32:
    """Draws offset … offset+n−1 of the key: uint32[n]. Raises ValueError beyond 2**32 draws."""
    low, high = halves(key, n, offset)
    out = np.empty(n, np.uint32)
    scratch = np.empty(min(n, _CHUNK), np.uint32)
    steps = np.arange(min(n, _CHUNK), dtype=np.uint32)
    for start in range(0, n, _CHUNK):
        x = out[start : start + _CHUNK]
        np.add(steps[: x.size], np.uint32(offset + start), out=x)
        np.bitwise_xor(x, low, out=x)
        _mix_inplace(x, scratch[: x.size])
        np.add(x, high, out=x)
        _mix_inplace(x, scratch[: x.size])
    return out


def uniform(key: Key, n: int, offset: int = 0) -> F32:
    """float32[n] in [0, 1): the upper 24 bits of each draw times 2**-24, exact in float32."""
    draws = uint32(key, n, offset)
    draws >>= np.uint32(8)
    out = draws.astype(np.float32)
    out *= UNIT
    return out


def integers(key: Key, n: int, bound: int) -> I64:
    """int64[n] in [0, bound): ⌊draw·bound / 2**32⌋; bound ≤ 2**31."""
    if not 1 <= bound <= 1 << 31:
        raise ValueError(f"rng: bound={bound} is outside [1, 2**31]")
    return ((uint32(key, n).astype(np.uint64) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def permutation(key: Key, n: int) -> I64:
    """int64[n]: a uniform permutation of range(n), the order of n 64-bit draws."""
    draws = uint32(key, 2 * n).astype(np.uint64)
    return np.argsort(draws[0::2] << np.uint64(32) | draws[1::2], kind="stable").astype(np.int64)


@lru_cache(maxsize=32)
def order(key: Key, n: int) -> I64:
    """`permutation`, read-only and kept: of a pass that takes one part of it after another."""
    kept = permutation(key, n)
    kept.flags.writeable = False
    return kept


def choice(key: Key, n: int, k: int) -> I64:
    """int64[k]: k of range(n) without replacement, in the order drawn. Raises ValueError for k > n."""
    if not 0 <= k <= n:
        raise ValueError(f"rng: k={k} is outside [0, n={n}]")
    return permutation(key, n)[:k]
