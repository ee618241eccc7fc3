"""Norms of float vectors, with a summation order that no machine changes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

LANES: Final = 256


def max_abs(x: npt.NDArray[Any]) -> float:
    """max |x_i| of float32[n] or float64[n]; 0 for n = 0; NaN or infinity where x holds one."""
    if x.size == 0:
        return 0.0
    # As integers, magnitudes order like the floats they are, and NaN comes out largest.
    bits = x.view(np.int32) & np.int32(0x7FFFFFFF) if x.dtype == np.float32 else np.abs(x).view(np.int64)
    return float(bits.max().view(x.dtype))


def first_nonfinite(x: npt.NDArray[Any]) -> int:
    """The first index of a NaN or an infinity, or −1."""
    bad = ~np.isfinite(x)
    return int(bad.argmax()) if bad.any() else -1


def sum_squares(x: npt.NDArray[Any]) -> float:
    """Σ x_i² in float64: 256 lanes, each summed in order, then a halving tree over the lanes."""
    return _lane_sum(x, np.square)


def sum_abs(x: npt.NDArray[Any]) -> float:
    """Σ |x_i| in float64, in the order of `sum_squares`."""
    return _lane_sum(x, np.abs)


def _lane_sum(x: npt.NDArray[Any], term: np.ufunc) -> float:
    lanes = np.zeros((1, LANES), np.float64)
    full = x.size - x.size % LANES
    step = LANES << 8
    for start in range(0, full, step):
        rows = x[start : min(start + step, full)].astype(np.float64).reshape(-1, LANES)
        term(rows, out=rows)
        lanes = np.add.reduce(np.concatenate([lanes, rows]), axis=0, keepdims=True)
    total = lanes[0]
    tail = x[full:].astype(np.float64)
    total[: tail.size] += term(tail)
    width = LANES
    while width > 1:
        width //= 2
        total[:width] += total[width : 2 * width]
    return float(total[0])
