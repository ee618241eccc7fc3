"""Real numbers to integers on a uniform grid and back in numba: the same bytes as the reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedquant.kernels.compiled.jit import kernel, spread
from fedquant.kernels.compiled.rng import halves, unit
from fedquant.kernels.reference.steps import (
    CHUNK,
    CLASSES,
    F32,
    F64,
    MIDDLE,
    TOP,
    UNIT,
    Steps,
    Width,
    total,
)
from fedquant.keys import Key

__all__ = ["CHUNK", "CLASSES", "MIDDLE", "TOP", "Steps", "Width", "from_steps", "moments", "to_steps"]

f32, f64, i32, u32 = np.float32, np.float64, np.int32, np.uint32


@kernel
def _to_steps(x, out, step, rho):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        k = i32(abs(x[i]) / step + rho)
        out[i] = -k if x[i] < f32(0) else k


@kernel
def _dither_to_steps(x, out, step, offset, low, high):  # type: ignore[no-untyped-def]
    at = u32(offset)
    for i in range(out.size):
        out[i] = i32(np.floor(x[i] / step + unit(at, low, high)))
        at = u32(at + u32(1))


@kernel
def _from_steps(steps, out, step, centroids):  # type: ignore[no-untyped-def]
    c1, c2, c3 = f32(centroids[0]) * UNIT, f32(centroids[1]) * UNIT, f32(centroids[2]) * UNIT
    for i in range(out.size):
        q = steps[i]
        k = abs(q)
        c = f32(0) if k == 0 else c1 if k == 1 else c2 if k == 2 else c3
        value = (f32(q) + (-c if q < 0 else c)) * step
        out[i] = min(max(value, -TOP), TOP)


@kernel
def _dither_from_steps(steps, out, step, offset, low, high):  # type: ignore[no-untyped-def]
    at = u32(offset)
    for i in range(out.size):
        value = (f32(steps[i]) + (f32(0.5) - unit(at, low, high))) * step
        out[i] = min(max(value, -TOP), TOP)
        at = u32(at + u32(1))


@kernel
def _moments(x, steps, step, row):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        q = abs(steps[i])
        k = f64(q)
        e = f64(abs(x[i])) - k * step
        sums = row[min(q, CLASSES - 1)]
        sums[0] += 1.0
        sums[1] += k * k
        sums[2] += e
        sums[3] += e * e
        sums[4] += k * e


def to_steps(x: F32, step: Width, rho: float = 0.5, key: Key | None = None, offset: int = 0) -> Steps:
    """int32[n] of x: float32[n]; step is a positive float32 with |x|/step < 2**30.

    With a key ⌊x/step + u⌋, u its draws offset … offset+n−1; without, sign(x)·⌊|x|/step + ρ⌋.
    """
    x, out = np.ascontiguousarray(x), np.empty(x.size, i32)
    if key is None:
        spread(lambda a, b: _to_steps(x[a:b], out[a:b], f32(step), f32(rho)), x.size)
    else:
        draws = halves(key, x.size, offset)
        spread(lambda a, b: _dither_to_steps(x[a:b], out[a:b], f32(step), offset + a, *draws), x.size)
    return out


def from_steps(
    steps: Steps,
    step: Width,
    centroids: npt.NDArray[np.int8] = MIDDLE,
    key: Key | None = None,
    offset: int = 0,
) -> F32:
    """float32[n]: (q ± c/256)·step, c = centroids[min(|q|, 3) − 1] away from 0; with a key (q − u + ½)·step.

    Never infinite for a finite step: cut at the largest float32.
    """
    out = np.empty(steps.size, f32)
    if key is None:
        spread(lambda a, b: _from_steps(steps[a:b], out[a:b], f32(step), centroids), out.size)
    else:
        draws = halves(key, out.size, offset)
        spread(lambda a, b: _dither_from_steps(steps[a:b], out[a:b], f32(step), offset + a, *draws), out.size)
    return out


def moments(x: F32, steps: Steps, step: Width) -> F64:
    """float64[4, 5]: of each class min(|q|, 3) the sums of 1, k², e, e² and k·e; k = |q|, e = |x| − k·step.

    Chunks are summed in order, and so are their sums.
    """
    x, rows = np.ascontiguousarray(x), np.zeros((-(-x.size // CHUNK), CLASSES, 5))

    def run(a: int, b: int) -> None:
        for start in range(a, b, CHUNK):
            stop = min(start + CHUNK, b)
            _moments(x[start:stop], steps[start:stop], f64(step), rows[start // CHUNK])

    spread(run, x.size, CHUNK)
    return total(rows)
