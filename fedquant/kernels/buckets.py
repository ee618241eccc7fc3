"""Numbers in groups, each on a grid of its own scale: bytes of the levels of one group after another.

bounds: int64[g + 1], where the groups begin and end. Groups whose scale is 0 take no bytes, and are all 0.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.kernels import COMPILED, fused, pack, quantize, scan
from fedquant.keys import Key

if COMPILED:
    from fedquant.kernels.compiled import buckets as compiled

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_FEW: Final = 32  # groups, up to which Python's own loop is quicker than numpy
LARGE: Final = 1 << 14  # numbers of a group from which on a call for each costs nothing


def _small(bounds: I64) -> bool:
    """Whether there are compiled kernels for all groups in one call, and that is quicker."""
    return COMPILED and bounds.size > 2 and int(bounds[-1] - bounds[0]) < LARGE * (bounds.size - 1)


def max_abs(x: F32, bounds: I64) -> F32:
    """float32[g]: max |x_i| of each group, none empty; NaN or infinity where a group holds one."""
    if _small(bounds):
        return compiled.max_abs(x, bounds)
    return np.array([scan.max_abs(x[a:b]) for a, b in _pairs(bounds)], np.float32)


def sum_squares(x: F32, bounds: I64) -> F64:
    """float64[g]: Σ x_i² of each group."""
    if _small(bounds):
        return compiled.sum_squares(x, bounds)
    return np.array([scan.sum_squares(x[a:b]) for a, b in _pairs(bounds)], np.float64)


def sizes(bounds: I64, scales: F32, s: int, bits: int) -> I64:
    """int64[g]: bytes of each group: `pack_bits` of so many bits or, where that is 0, `pack_radix`."""
    if bounds.size < _FEW:
        pairs = zip(_pairs(bounds), scales.tolist(), strict=True)
        return np.array([_size(b - a, s, bits) if scale > 0 else 0 for (a, b), scale in pairs], np.int64)
    lengths, which = np.unique(np.diff(bounds), return_inverse=True)
    full = np.array([_size(n, s, bits) for n in lengths.tolist()], np.int64)[which]
    return np.where(scales > 0, full, 0)


def _size(n: int, s: int, bits: int) -> int:
    return pack.bits_size(n, bits) if bits else pack.radix_size(n, 2 * s + 1)


def encode(x: F32, bounds: I64, scales: F32, s: int, bits: int, key: Key) -> bytes | memoryview:
    """Stochastic levels of x on the grids scale·{−s…s}/s; number i takes draw i of `key`."""
    if _small(bounds):
        return compiled.encode(x, bounds, scales, s, bits, key, sizes(bounds, scales, s, bits))
    parts: list[bytes | memoryview] = []
    for (a, b), scale in zip(_pairs(bounds), scales.tolist(), strict=True):
        if scale > 0 and bits:
            parts.append(fused.quantize_bits(x[a:b], scale, s, bits, "stochastic", key, a))
        elif scale > 0:
            codes = quantize.to_levels(x[a:b], scale, s, "stochastic", key, a)
            parts.append(pack.pack_radix(codes, 2 * s + 1))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decode(data: memoryview, bounds: I64, scales: F32, s: int, bits: int, out: F32) -> None:
    """The values of the levels, to out[bounds[0]:bounds[g]] of zeros, of as many bytes as `sizes` says.

    Raises CodecError for bytes that `encode` does not write.
    """
    taken = sizes(bounds, scales, s, bits)
    if _small(bounds) and compiled.decode(data, bounds, scales, s, bits, taken, out):
        return  # the loop below says what is wrong otherwise
    at = 0
    for (a, b), scale, size in zip(_pairs(bounds), scales.tolist(), taken.tolist(), strict=True):
        part, at = data[at : at + size], at + size
        if scale > 0 and bits:
            fused.dequantize_bits(part, b - a, scale, s, bits, out[a:b])
        elif scale > 0:
            codes = pack.unpack_radix(bytes(part), b - a, 2 * s + 1)
            out[a:b] = quantize.from_levels(codes, scale, s)


def _pairs(bounds: I64) -> list[tuple[int, int]]:
    return list(pairwise(bounds.tolist()))
