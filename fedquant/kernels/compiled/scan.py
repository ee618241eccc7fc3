"""Norms of float vectors in numba, in the reference's order of summation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedquant.kernels.compiled.jit import kernel, spread
from fedquant.kernels.reference.scan import LANES, first_nonfinite

__all__ = ["first_nonfinite", "max_abs", "sum_abs", "sum_squares"]

i32, i64 = np.int32, np.int64


# As integers, magnitudes order like the floats they are, and a maximum of integers vectorises.


@kernel
def max_abs32(x):  # type: ignore[no-untyped-def]
    bits, top = x.view(i32), i32(0)
    for i in range(bits.size):
        top = max(top, i32(bits[i] & i32(0x7FFFFFFF)))
    found = i32(top)
    return found.view(np.float32)


@kernel
def _max_abs64(x):  # type: ignore[no-untyped-def]
    bits, top = x.view(i64), i64(0)
    for i in range(bits.size):
        top = max(top, bits[i] & i64(0x7FFFFFFFFFFFFFFF))
    found = i64(top)
    return found.view(np.float64)


@kernel
def lane_sum(x, square):  # type: ignore[no-untyped-def]
    lanes = np.zeros(LANES, np.float64)
    for start in range(0, x.size, LANES):
        row = x[start : start + LANES]
        for j in range(row.size):
            value = np.float64(row[j])
            lanes[j] += value * value if square else abs(value)
    width = LANES
    while width > 1:
        width //= 2
        for j in range(width):
            lanes[j] += lanes[j + width]
    return lanes[0]


def max_abs(x: npt.NDArray[Any]) -> float:
    """max |x_i| of float32[n] or float64[n]; 0 for n = 0; NaN or infinity where x holds one."""
    x = np.ascontiguousarray(x)
    largest = max_abs32 if x.dtype == np.float32 else _max_abs64
    parts = spread(lambda a, b: largest(x[a:b]), x.size)
    return float(parts[0] if len(parts) == 1 else np.max(parts))  # np.max: a NaN of any part stays


def sum_squares(x: npt.NDArray[Any]) -> float:
    """Σ x_i² in float64: 256 lanes, each summed in order, then a halving tree over the lanes."""
    return float(lane_sum(np.ascontiguousarray(x), True))


def sum_abs(x: npt.NDArray[Any]) -> float:
    """Σ |x_i| in float64, in the order of `sum_squares`."""
    return float(lane_sum(np.ascontiguousarray(x), False))
