"""Exact selection of the largest numbers in numba, by radix histograms of the magnitudes.

As integers, magnitudes order like the floats they are. A histogram of their upper 12 bits tells the bin of
the k-th largest; the little that lies in that bin or above is copied out and left to the reference.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.kernels.compiled.jit import inlined, kernel, spread
from fedquant.kernels.reference import topk as reference

__all__ = ["largest"]

I64 = npt.NDArray[np.int64]
i32, i64 = np.int32, np.int64

_MAGNITUDE: Final = i32(0x7FFFFFFF)
_SHIFT: Final = i32(19)  # exponent and 4 bits of the fraction: bins 6 % wide
_BINS: Final = 1 << 12
_STRIP: Final = 32
_FEW: Final = 1 << 14  # numbers for which the histogram costs more than it saves
_MOST: Final = 8  # if more than one in so many is to be copied out, numpy's own selection is as fast


@inlined
def _bin(word):  # type: ignore[no-untyped-def]
    return i32(word & _MAGNITUDE) >> _SHIFT


@kernel
def _histogram(words, counts):  # type: ignore[no-untyped-def]
    """In four tables, so that equal neighbours do not wait for each other."""
    c0, c1, c2, c3 = counts[0], counts[1], counts[2], counts[3]
    quarter = words.size // 4
    w0, w1, w2, w3 = words[:quarter], words[quarter:], words[2 * quarter :], words[3 * quarter :]
    for j in range(quarter):
        c0[_bin(w0[j])] += 1
        c1[_bin(w1[j])] += 1
        c2[_bin(w2[j])] += 1
        c3[_bin(w3[j])] += 1
    for j in range(quarter, w3.size):
        c3[_bin(w3[j])] += 1


@kernel
def _collect(words, least, first, indices, magnitudes):  # type: ignore[no-untyped-def]
    """Magnitudes of `least` and more, and their indices, counted from `first`."""
    found, least = 0, i32(least)
    for at in range(0, words.size, _STRIP):
        strip = words[at : at + _STRIP]
        top = i32(0)
        for j in range(strip.size):
            top = max(top, i32(strip[j] & _MAGNITUDE))
        if top >= least:
            for j in range(strip.size):
                magnitude = i32(strip[j] & _MAGNITUDE)
                if magnitude >= least:
                    indices[found], magnitudes[found] = first + at + j, magnitude
                    found += 1


def largest(x: npt.NDArray[np.float32], k: int) -> I64:
    """int64[k], ascending: where the k largest |x_i| of finite x: float32[n] are.

    Raises ValueError for k outside [0, n].
    """
    if not 0 < k < x.size or x.size < _FEW:
        return reference.largest(x, k)
    words = np.ascontiguousarray(x).view(i32)
    words.flags.writeable = False

    def count(a: int, b: int) -> tuple[int, I64]:
        counts = np.zeros((4, _BINS), i32)
        _histogram(words[a:b], counts)
        return a, counts.sum(axis=0, dtype=i64)[::-1].cumsum()[::-1]  # in each bin and above

    above = dict(spread(count, words.size))
    bound = int(np.flatnonzero(sum(above.values()) >= k)[-1])
    ends = np.cumsum([counts[bound] for counts in above.values()])
    if ends[-1] * _MOST > x.size:
        return reference.largest(x, k)
    stops = dict(zip(above, ends.tolist(), strict=True))
    indices, magnitudes = np.empty(ends[-1], i64), np.empty(ends[-1], i32)

    def collect(a: int, b: int) -> None:
        here = slice(stops[a] - int(above[a][bound]), stops[a])
        _collect(words[a:b], bound << int(_SHIFT), a, indices[here], magnitudes[here])

    spread(collect, words.size)
    return indices[reference.largest(magnitudes.view(np.float32), k)]
