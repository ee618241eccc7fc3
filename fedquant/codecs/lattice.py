"""Level vectors of bounded energy as integers: the enumerative codes of DataQ with scale l2.

DaQuSGD (Hanna et al., "Quantization of distributed data for learning"), (7) and Theorem 1. With
s = m − 1, d numbers z and B ≥ ‖z‖₂, the numbers t = |z|·s/B have Σt² ≤ s², and magnitude k needs

    rounding     t               so that Σ w(k) ≤ budget               and Σ k ≤ units
    floor        t ≥ k           w = k²                     s²         s²
    nearest      t ≥ k − ½       w = (2k − 1)², w(0) = 0    4s²        4s²
    stochastic   t > k − 1       w = (k − 1)², w(0) = 0     s²         d + ⌊s·√d⌋

`Cells` numbers exactly the vectors of the third column, with the help of a table. `Simplex` numbers the
paper's set S, the pairs (a, b) of the last column; most of them never occur, but it needs no table.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedquant.errors import CodecError
from fedquant.kernels import quantize

Levels = npt.NDArray[Any]

_TABLE: Final = 1 << 26  # bytes of a table times m: up to 8 MB and .1 s at m = 8
_WALK: Final = 1 << 22  # places times bits of an index: up to 2 ms each way
_FAR: Final = 1 << 28  # as above: what S is numbered for at all


def weights(m: int, rounding: quantize.Rounding) -> tuple[tuple[int, ...], int]:
    """(w of each magnitude below m, the budget)."""
    s = m - 1
    if rounding == "nearest":
        return (0, *((2 * k - 1) ** 2 for k in range(1, m))), 4 * s**2
    back = 1 if rounding == "stochastic" else 0
    return tuple(max(0, k - back) ** 2 for k in range(m)), s**2


def units(d: int, m: int, rounding: quantize.Rounding) -> int:
    """K, which the magnitudes of d levels sum up to at most."""
    if rounding == "stochastic":
        return d + math.isqrt((m - 1) ** 2 * d)
    return (m - 1) ** 2 * (4 if rounding == "nearest" else 1)


@dataclass(frozen=True)
class Simplex:
    """Numbers n counts of sum at most `units`: d magnitudes, or the 2d of (a, b) where they are signed.

    A vector is a row of n bars and `units` units: those unused, a bar, c₀ units, a bar, c₁ units, … Its
    index is the rank of a set of places in that row, of the units or, where these are not fewer, the bars:
    Σ C(place_j, j), j = 1, 2, … (T. Cover, "Enumerative Source Encoding", 1973).
    """

    d: int
    units: int
    signed: bool = True

    @property
    def n(self) -> int:
        """Counts a vector."""
        return 2 * self.d if self.signed else self.d

    @cached_property
    def count(self) -> int:
        """How many vectors are numbered."""
        return math.comb(self.n + self.units, self.units)

    @cached_property
    def bits(self) -> int:
        """Bits of an index."""
        return (self.count - 1).bit_length()

    def rank(self, levels: Levels) -> int:
        """The index of int[d]. Raises CodecError for a vector that has none."""
        parts = (np.maximum(levels, 0), np.maximum(-levels, 0)) if self.signed else (levels,)
        counts = np.concatenate(parts).astype(np.int64)
        unused = self.units - int(counts.sum())
        if unused < 0 or counts.min(initial=0) < 0:
            raise CodecError(f"lattice: magnitudes exceed {self.units} units, or have signs")
        if self.units < self.n:  # bars ahead of each unit
            ahead = np.repeat(np.arange(1, self.n + 1), counts)
        else:  # units ahead of each bar
            ahead = unused + np.cumsum(counts) - counts
        return _rank_set(ahead[ahead > 0].tolist(), min(self.n, self.units))

    def unrank(self, index: int) -> Levels:
        """int64[d] of an index below `count`."""
        ahead = np.array(_unrank_set(index, self.n + self.units, min(self.n, self.units)), np.int64)
        if self.units < self.n:
            counts = np.bincount(ahead, minlength=self.n + 1)[1:]
        else:
            counts = np.diff(np.append(ahead, self.units))
        return counts[: self.d] - counts[self.d :] if self.signed else counts


def _rank_set(ahead: list[int], k: int) -> int:
    """Σ C(place_j, j), place_j = j − 1 + ahead_j: the last of k places, those before have 0 ahead."""
    j = k - len(ahead)
    rank, place, sets = 0, j, 1  # sets = C(place, j)
    for others in ahead:
        place, j = place + 1, j + 1
        sets = sets * place // j
        while place < j - 1 + others:
            place += 1
            sets = sets * place // (place - j)
        rank += sets
    return rank


def _unrank_set(rank: int, n: int, k: int) -> list[int]:
    """What is ahead of each of the k places of n that have this rank < C(n, k)."""
    ahead, place, sets = [0] * k, n - 1, math.comb(n - 1, k) if n else 0  # sets = C(place, k)
    while rank:
        while sets > rank:
            sets = sets * (place - k) // place
            place -= 1
        ahead[k - 1] = place - k + 1
        rank -= sets
        sets = sets * k // place
        place, k = place - 1, k - 1
    return ahead


@dataclass(frozen=True)
class Cells:
    """Numbers the vectors of d levels with Σ weights[|c|] ≤ budget, in lexicographic order.

    The order of a coordinate's levels is 0, 1, −1, 2, −2, …, or 0, 1, 2, … where none is negative.
    """

    d: int
    weights: tuple[int, ...]
    budget: int
    slot: int
    """Bytes that hold `count`."""
    signed: bool = True

    @cached_property
    def table(self) -> tuple[bytes, ...]:
        """For j = 0 … d: how many vectors of j levels weigh at most 0, 1, … budget, in `slot` bytes each.

        A row is also one integer, so that adding two adds all their counts.
        """
        width = (self.budget + 1) * self.slot
        whole, row = (
            (1 << 8 * width) - 1,
            int.from_bytes(b"\1".ljust(self.slot, b"\0") * (self.budget + 1), "little"),
        )
        times = Counter(self.weights)
        times.update(self.weights[1:] if self.signed else ())
        rows = [row]
        for _ in range(self.d):
            row = sum(n * (row << 8 * self.slot * w & whole) for w, n in times.items() if w <= self.budget)
            rows.append(row)
        return tuple(row.to_bytes(width, "little") for row in rows)

    @cached_property
    def count(self) -> int:
        """How many vectors are numbered."""
        return self._count(self.d, self.budget)

    @cached_property
    def bits(self) -> int:
        """Bits of an index."""
        return (self.count - 1).bit_length()

    def _count(self, d: int, budget: int) -> int:
        return int.from_bytes(self.table[d][budget * self.slot : (budget + 1) * self.slot], "little")

    def rank(self, levels: Levels) -> int:
        """The index of int[d]. Raises CodecError for a vector that has none."""
        index, left, copies = 0, self.budget, 2 if self.signed else 1
        at = np.flatnonzero(levels)
        for j, c in zip(at.tolist(), levels[at].tolist(), strict=True):
            rest, k = self.d - 1 - j, abs(c)
            if k >= len(self.weights) or self.weights[k] > left or (c < 0 and not self.signed):
                raise CodecError(f"lattice: levels {levels} exceed the budget {self.budget}, or are signed")
            index += self._count(rest, left)
            index += copies * sum(self._count(rest, left - w) for w in self.weights[1:k])
            left -= self.weights[k]
            if c < 0:
                index += self._count(rest, left)
        return index

    def unrank(self, index: int) -> Levels:
        """int64[d] of an index below `count`."""
        levels, left, j = np.zeros(self.d, np.int64), self.budget, 0
        while index:
            # Vectors that begin with zeros come first, and the more zeros the fewer they are.
            j = bisect_left(range(self.d), True, j, key=lambda i: index >= self._count(self.d - 1 - i, left))
            rest = self.d - 1 - j
            index -= self._count(rest, left)
            k, here = 1, self._count(rest, left - self.weights[1])
            while index >= here * (1 + self.signed):
                index -= here * (1 + self.signed)
                k, here = k + 1, self._count(rest, left - self.weights[k + 1])
            negative = index >= here
            index -= here if negative else 0
            left -= self.weights[k]
            levels[j] = -k if negative else k
            j += 1
        return levels


Index = Cells | Simplex


@lru_cache(maxsize=8)
def simplex(d: int, m: int, rounding: quantize.Rounding) -> Simplex:
    """S itself. Raises CodecError where its indices are too long."""
    found = Simplex(d, units(d, m, rounding))
    if not _quick(found, _FAR):
        raise CodecError(f"dataq: the indices of S are too long for d={d} and m={m}; use code: auto")
    return found


@lru_cache(maxsize=4)
def shortest(d: int, m: int, rounding: quantize.Rounding, signed: bool) -> Index | None:
    """The shortest index there is time for; None where plain mixed radix takes no more.

    `Cells` where its table is small, else `Simplex` where its walk is short. Rests on integers alone, so that
    sender and receiver choose alike.
    """
    w, budget = weights(m, rounding)
    outer = Simplex(d, units(d, m, rounding), signed)
    index: Index | None = outer if _quick(outer, _WALK) else None
    if d * (budget + 1) * m <= _TABLE:
        slot = outer.bits // 8 + 1  # cells are vectors of the simplex, too
        if d * (budget + 1) * m * slot <= _TABLE:
            index = Cells(d, w, budget, slot, signed)
    if index is None or index.bits >= (((2 * m - 1 if signed else m) ** d) - 1).bit_length():
        return None
    return index


def _quick(index: Simplex, limit: int) -> bool:
    places = index.n + index.units
    if places * min(index.n, index.units) > limit:  # C(n + k, k) ≥ 2**min(n, k): too many bits to count
        return False
    return places * index.bits <= limit


def pack_indices(indices: Sequence[int], bits: int) -> bytes:
    """Indices of `bits` bits each, one after another, from the lowest bit up; the last byte filled with 0."""
    size = -(-bits // 8)
    rows = np.frombuffer(b"".join(i.to_bytes(size, "little") for i in indices), np.uint8)
    planes = np.unpackbits(rows.reshape(len(indices), size), axis=1, count=bits, bitorder="little")
    return np.packbits(planes, bitorder="little").tobytes()


def unpack_indices(data: bytes, n: int, bits: int, count: int) -> list[int]:
    """n indices, each below count. Raises CodecError for others, and for a wrong length."""
    size = -(-n * bits // 8)
    if len(data) != size:
        raise CodecError(f"lattice: {len(data)} bytes, {n} indices of {bits} bits take {size}")
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if flat[n * bits :].any():
        raise CodecError("lattice: padding is not zero")
    rows = np.packbits(flat[: n * bits].reshape(n, bits), axis=1, bitorder="little")
    indices = [int.from_bytes(row.tobytes(), "little") for row in rows]
    if any(index >= count for index in indices):
        raise CodecError(f"lattice: an index is not below {count}")
    return indices
