"""Real numbers to integers on a uniform grid and back: step q stands for q·step, and 0 for what is small.

Biased: q = sign(x)·⌊|x|/step + ρ⌋; a ρ below ½ widens the zero. Subtractive dither, u uniform in [0, 1):
q = ⌊x/step + u⌋ stands for (q − u + ½)·step, and the error is uniform in ±step/2 whatever x is
(Schuchman, "Dither signals and their effect on quantization noise", 1964).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.kernels.reference import rng
from fedquant.keys import Key

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int32]
Width = float | np.float32

CHUNK: Final = 1 << 14  # numbers whose moments are summed in order; also what stays in the cache
CLASSES: Final = 4  # |q| = 0, 1, 2 and above
TOP: Final = np.float32(np.finfo(np.float32).max)
UNIT: Final = np.float32(2.0**-8)  # of a centroid, in steps
MIDDLE: Final = np.zeros(CLASSES - 1, np.int8)


def to_steps(x: F32, step: Width, rho: float = 0.5, key: Key | None = None, offset: int = 0) -> Steps:
    """int32[n] of x: float32[n]; step is a positive float32 with |x|/step < 2**30.

    With a key ⌊x/step + u⌋, u its draws offset … offset+n−1; without, sign(x)·⌊|x|/step + ρ⌋.
    """
    out = np.empty(x.size, np.int32)
    for start in range(0, x.size, CHUNK):
        z = x[start : start + CHUNK] / np.float32(step)
        if key is None:
            magnitude = np.floor(np.abs(z) + np.float32(rho))
            out[start : start + CHUNK] = np.copysign(magnitude, z)
        else:
            out[start : start + CHUNK] = np.floor(z + rng.uniform(key, z.size, offset + start))
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
    out = np.empty(steps.size, np.float32)
    shifts = np.concatenate([-centroids[::-1].astype(np.float32), [0], centroids]).astype(np.float32) * UNIT
    for start in range(0, steps.size, CHUNK):
        q = steps[start : start + CHUNK]
        if key is None:
            shift = shifts[np.clip(q, 1 - CLASSES, CLASSES - 1) + (CLASSES - 1)]
        else:
            shift = np.float32(0.5) - rng.uniform(key, q.size, offset + start)
        with np.errstate(over="ignore"):
            value = (q.astype(np.float32) + shift) * np.float32(step)
        np.clip(value, -TOP, TOP, out=out[start : start + CHUNK])
    return out


def moments(x: F32, steps: Steps, step: Width) -> F64:
    """float64[4, 5]: of each class min(|q|, 3) the sums of 1, k², e, e² and k·e; k = |q|, e = |x| − k·step.

    Chunks are summed in order, and so are their sums.
    """
    rows = np.zeros((-(-x.size // CHUNK), CLASSES, 5))
    for i, row in enumerate(rows):
        k = np.abs(steps[i * CHUNK : (i + 1) * CHUNK])
        classes, k = np.minimum(k, CLASSES - 1), k.astype(np.float64)
        e = np.abs(x[i * CHUNK : (i + 1) * CHUNK]) - k * np.float64(step)
        for j, weight in enumerate((np.ones_like(e), k * k, e, e * e, k * e)):
            row[:, j] = np.bincount(classes, weight, CLASSES)
    return total(rows)


def total(rows: F64) -> F64:
    """float64[4, 5]: the sum of float64[m, 4, 5], first to last."""
    out = np.zeros(rows.shape[1:])
    for row in rows:
        out += row
    return out
