"""Real numbers to integer codes and back in numba. A code c in [0, 2s] stands for the level c − s."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedquant.kernels.compiled.jit import inlined, kernel, spread
from fedquant.kernels.compiled.rng import halves, unit
from fedquant.kernels.reference.quantize import (
    F32,
    FLOOR_GAIN,
    Codes,
    Rounding,
    code_type,
    reciprocal_step,
    step,
)
from fedquant.keys import Key

__all__ = [
    "FLOOR_GAIN",
    "Codes",
    "Rounding",
    "code_type",
    "from_levels",
    "reciprocal_step",
    "step",
    "to_levels",
]

f32, i32, u32 = np.float32, np.int32, np.uint32

_BLOCK: Final = 1024  # its levels stay in the first-level cache
_ONE: Final = f32(1)
_NONE: Final = u32(0)
_GAIN_SHIFT: Final = {
    "floor": (FLOOR_GAIN, f32(0)),
    "nearest": (_ONE, f32(0.5)),
    "stochastic": (_ONE, f32(0)),
}
Grid = tuple[float, np.float32, np.float32, int, bool, np.uint32, np.uint32]

_reciprocal_step = inlined(reciprocal_step)


def grid(scale: float, s: int, rounding: Rounding, key: Key | None, n: int, offset: int) -> Grid:
    """What the kernels need to know: scale, gain, shift, s, stochastic, low, high."""
    low = high = _NONE
    if rounding == "stochastic":
        if key is None:
            raise ValueError("to_levels: stochastic rounding needs a key")
        low, high = halves(key, n, offset)
    gain, shift = _GAIN_SHIFT[rounding]
    return float(scale), gain, shift, s, rounding == "stochastic", low, high


@inlined
def place(x, levels, scale, s, gain):  # type: ignore[no-untyped-def]
    """Where x lies between levels. A loop of its own: a light one keeps many reads of x under way."""
    lift, inv = _reciprocal_step(scale, s)
    for j in range(levels.size):
        levels[j] = x[j] * lift * inv * gain


@inlined
def code(level, up, s):  # type: ignore[no-untyped-def]
    """The code of |level| + up, cut toward zero and at s."""
    cut = i32(min(abs(level) + up, f32(s)))
    return i32(i32(s) + (-cut if level < f32(0) else cut))


@kernel
def levels_of(x, out, offset, scale, gain, shift, s, stochastic, low, high):  # type: ignore[no-untyped-def]
    room = np.empty(_BLOCK, f32)
    for start in range(0, x.size, _BLOCK):
        codes = out[start : start + _BLOCK]
        levels = room[: codes.size]
        place(x[start : start + _BLOCK], levels, scale, s, gain)
        if stochastic:
            i = u32(offset + start)
            for j in range(codes.size):
                codes[j] = code(levels[j], unit(i, low, high), s)
                i = u32(i + u32(1))
        else:
            for j in range(codes.size):
                codes[j] = code(levels[j], shift, s)


@kernel
def values_of(codes, out, s, step):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = f32(i32(i32(codes[i]) - i32(s))) * step


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
    known = grid(scale, s, rounding, key, x.size, offset)
    x = np.ascontiguousarray(x)
    out: Codes = np.empty(x.size, code_type(s))
    spread(lambda a, b: levels_of(x[a:b], out[a:b], offset + a, *known), x.size)
    return out


def from_levels(codes: npt.NDArray[Any], scale: float, s: int) -> F32:
    """float32[n]: (c − s)·scale/s."""
    codes = np.ascontiguousarray(codes, np.uint8 if codes.dtype == np.uint8 else u32)
    size, out = step(scale, s), np.empty(codes.size, f32)
    spread(lambda a, b: values_of(codes[a:b], out[a:b], s, size), codes.size)
    return out
