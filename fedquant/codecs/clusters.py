"""Which segments of a vector share a table of frequencies: k-means under code length, in integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fedquant.codecs.frequencies import (
    code_bits,
    costs,
    multiplicity,
    normalize,
    precisions,
    symbol_freq,
    write_table,
)
from fedquant.kernels import pack, rans, symbols
from fedquant.kernels.reference.symbols import Codes, Counts

MAX_SEGMENTS: Final = 1024  # more are not clustered
_COSTS: Final = (2, 4, 8)  # counts of clusters tried
_ROUNDS: Final = 4
_FEW: Final = 4096  # codes a segment


def cluster(codes: Codes, levels: int, segments: Sequence[int]) -> Counts | None:
    """The cluster of each segment where several tables pay, else None: k-means under code length."""
    if len(segments) > MAX_SEGMENTS or codes.size == 0:
        return None
    counts = _histograms(codes, levels, segments)
    one = np.zeros(len(segments), np.int64)
    sizes = counts.sum(axis=1)
    rate = counts @ costs(normalize(counts.sum(axis=0), rans.BITS)) // np.maximum(sizes, 1)
    order = np.argsort(rate, kind="stable")
    best, least = None, _clustered_size(counts, one)
    least -= least >> 8  # what pays less than 1/256 is not worth its time
    for k in _COSTS:
        ids = np.empty_like(one)
        ids[order] = (np.cumsum(sizes[order]) - sizes[order]) * k // codes.size
        for _ in range(_ROUNDS):
            ids = np.unique(ids, return_inverse=True)[1]
            tables = [normalize(counts[ids == c].sum(axis=0), rans.BITS) for c in range(ids.max() + 1)]
            nearest = np.argmin(counts @ np.stack([costs(f) for f in tables]).T, axis=1)
            if np.array_equal(nearest, ids):
                break
            ids = nearest
        ids = np.unique(ids, return_inverse=True)[1]
        size = _clustered_size(counts, ids)
        if ids.any() and size < least:
            best, least = ids, size
    return best


def _histograms(codes: Codes, levels: int, segments: Sequence[int]) -> Counts:
    """int64[segments, levels]: how often each code is in each segment."""
    ends = np.array(segments)
    if codes.size < _FEW * len(ends):  # a call a segment would take longer than the counting
        place = np.repeat(np.arange(len(ends)) * levels, np.diff(ends, prepend=0))
        return np.bincount(place + codes, minlength=len(ends) * levels).reshape(-1, levels)
    t = symbols.digits_per_symbol(levels)
    counts = np.zeros((len(ends), levels), np.int64)
    for i, (start, stop) in enumerate(zip((0, *segments), segments, strict=False)):
        joined, joint = symbols.join(codes[start:stop], levels)
        counts[i] = joint[: levels**t] @ multiplicity(levels)
        counts[i, 0] -= joined.size * t - (stop - start)  # padding
    return counts


def _clustered_size(counts: Counts, ids: Counts) -> int:
    """About how many bytes: codes, tables, states and assignments."""
    size = pack.radix_size(len(ids), int(ids.max()) + 1)
    for c in range(int(ids.max()) + 1):
        total = counts[ids == c].sum(axis=0)
        q = precisions(total)[-1]
        table = normalize(total, q)
        size += 8 + 3 * rans.lanes(int(total.sum())) + len(write_table(table, q))
        size += code_bits(total, symbol_freq(table, 1)) // 8
    return size
