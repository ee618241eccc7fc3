"""Real numbers to integer codes and back. A code c in [0, 2s] stands for the level c − s."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from fedquant.kernels.reference import rng
from fedquant.keys import Key

Rounding = Literal["floor", "nearest", "stochastic"]
Codes = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]

_CHUNK = 1 << 14
_TINY = np.float32(2.0**-100)
_LIFT = np.float32(2.0**100)
_MAX = float(np.finfo(np.float32).max)
# Three roundings (2⁻²⁴ each) lie between a grid point and its level; `floor` may cost none its level.
FLOOR_GAIN: Final = np.float32(1 + 2.0**-22)


def code_type(s: int) -> type[np.uint8] | type[np.uint32]:
    """What codes in [0, 2s] are kept in."""
    return np.uint8 if 2 * s < 256 else np.uint32


def reciprocal_step(scale: float, s: int) -> tuple[np.float32, np.float32]:
    """(lift, inv): |x|·lift·inv is the level of x in [0, s]; the lift keeps denormal scales exact."""
    lift = _LIFT if np.float32(scale) < _TINY else np.float32(1)
    return lift, np.float32(s) / (np.float32(scale) * lift)


def step(scale: float, s: int) -> np.float32:
    """What one level is worth: scale/s, rounded so that s steps stay finite."""
    step = np.float32(float(np.float32(scale)) / s)
    if float(step) * s > _MAX:  # rounded up at the very end of the range
        step = np.nextafter(step, np.float32(0))
    return step


def to_levels(
    x: F32,
    scale: float,
    s: int,
    rounding: Rounding = "floor",
    key: Key | None = None,
    offset: int = 0,
) -> Codes:
    """Codes `code_type(s)`[n] in [0, 2s] of x: float32[n] on the grid scale·{−s…s}/s; scale > 0.

    floor is toward zero; stochastic is unbiased and takes draws offset … offset+n−1 of `key`.
    """
    if rounding == "stochastic" and key is None:
        raise ValueError("to_levels: stochastic rounding needs a key")
    out: Codes = np.empty(x.size, code_type(s))
    lift, inv = reciprocal_step(scale, s)
    for start in range(0, x.size, _CHUNK):
        z = x[start : start + _CHUNK] * lift
        magnitude = np.abs(z)
        magnitude *= inv
        if key is not None and rounding == "stochastic":
            magnitude += rng.uniform(key, z.size, offset + start)
        elif rounding == "nearest":
            magnitude += np.float32(0.5)
        else:
            magnitude *= FLOOR_GAIN
        np.minimum(magnitude, np.float32(s), out=magnitude)
        level = np.copysign(magnitude, z, out=magnitude).astype(np.int32)
        level += s
        out[start : start + z.size] = level
    return out


def from_levels(codes: npt.NDArray[Any], scale: float, s: int) -> F32:
    """float32[n]: (c − s)·scale/s."""
    return (codes.astype(np.int32) - np.int32(s)).astype(np.float32) * step(scale, s)
