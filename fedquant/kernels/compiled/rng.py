"""The counter-based generator in numba."""

from __future__ import annotations

import numpy as np

from fedquant.kernels.compiled.jit import inlined, kernel, spread
from fedquant.kernels.reference.rng import F32, U32, UNIT, choice, halves, integers, order, permutation
from fedquant.keys import Key

__all__ = ["UNIT", "choice", "halves", "integers", "order", "permutation", "uint32", "uniform"]

f32, i32, u32 = np.float32, np.int32, np.uint32  # numba widens what a cast does not hold


@inlined
def _mix(x):  # type: ignore[no-untyped-def]
    x = u32((x ^ (x >> u32(16))) * u32(0x7FEB352D))
    x = u32((x ^ (x >> u32(15))) * u32(0x846CA68B))
    return u32(x ^ (x >> u32(16)))


@inlined
def draw(i, low, high):  # type: ignore[no-untyped-def]
    """Draw i: uint32 of the stream (low, high)."""
    return _mix(u32(_mix(u32(i ^ low)) + high))


@inlined
def unit(i, low, high):  # type: ignore[no-untyped-def]
    """Draw i as float32 in [0, 1)."""
    return f32(i32(draw(i, low, high) >> u32(8))) * UNIT


@kernel
def _fill(out, offset, low, high):  # type: ignore[no-untyped-def]
    i = u32(offset)
    for j in range(out.size):
        out[j] = draw(i, low, high)
        i = u32(i + u32(1))  # a counter of 32 bits; the loop's own has 64, and twice the vectors


@kernel
def _fill_unit(out, offset, low, high):  # type: ignore[no-untyped-def]
    i = u32(offset)
    for j in range(out.size):
        out[j] = unit(i, low, high)
        i = u32(i + u32(1))


def uint32(key: Key, n: int, offset: int = 0) -> U32:
    """Draws offset … offset+n−1 of the key: uint32[n]. Raises ValueError beyond 2**32 draws."""
    low, high = halves(key, n, offset)
    out = np.empty(n, u32)
    spread(lambda a, b: _fill(out[a:b], offset + a, low, high), n)
    return out


def uniform(key: Key, n: int, offset: int = 0) -> F32:
    """float32[n] in [0, 1): the upper 24 bits of each draw times 2**-24, exact in float32."""
    low, high = halves(key, n, offset)
    out = np.empty(n, f32)
    spread(lambda a, b: _fill_unit(out[a:b], offset + a, low, high), n)
    return out
