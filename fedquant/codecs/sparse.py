"""Sparse: each number is sent or not at random, more likely the larger it is, without bias.

Wangni, Wang, Liu, Zhang, "Gradient Sparsification for Communication-Efficient Distributed Optimization"
(2018). Number g is kept with probability p = min(|g|/M, 1) and sent as g/p: ±M, or g itself above M.

Body: how many numbers are kept (a count up to the vector's size), and how many of these are above M (up to
the first count); the set of kept indices; which of the kept are above M (a set of their positions; for both
see `indices`); these as float32. If there are others, M as float32 and their signs, planar, 1 for negative.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, final

import numpy as np
from pydantic import Field

from fedquant.codecs.base import Array, Body, Spec, State
from fedquant.codecs.configured import ENCODER_ONLY
from fedquant.codecs.counts import count_size, pack_count, unpack_count
from fedquant.codecs.indices import decode_indices, encode_indices
from fedquant.codecs.scattered import Scattered
from fedquant.errors import CodecError
from fedquant.kernels import pack, rng
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs

DEFAULT_DENSITY: Final = 0.1
_TOP: Final = float(np.finfo(np.float32).max)


@final
@dataclass(frozen=True)
class Sparse(Scattered):
    """As few numbers as a variance of `variance`·‖x‖² takes, or `density`·n expected numbers, at least 1.

    entropy: indices also tried entropy-coded, which pays where they come in clusters.
    Raises ValueError where both are given; neither means density 0.1.
    """

    name: ClassVar[str] = "sparse"

    variance: Annotated[float, Field(gt=0, le=1 << 32)] | None = field(default=None, metadata=ENCODER_ONLY)
    density: Annotated[float, Field(gt=0, le=1)] | None = field(default=None, metadata=ENCODER_ONLY)

    entropy: bool = field(default=False, metadata=ENCODER_ONLY)

    def __post_init__(self) -> None:
        if self.variance is not None and self.density is not None:
            raise ValueError(
                f"sparse: variance={self.variance:g} and density={self.density:g} are both given; give one"
            )
        if self.variance is None and self.density is None:
            object.__setattr__(self, "density", DEFAULT_DENSITY)

    def variance_bound(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float | None:
        """γ = `variance`, or n/m − 1 for m = max(`density`·n, 1) expected numbers.

        Σg²/p = (1 + variance)·‖x‖² by construction. For m: min(|g|/M, 1) makes Σg²/p least among all p with
        Σp = m, and p = m/n for every number would make it n/m·‖x‖². Rounding M down lessens Σg²/p; the
        24 bits of a draw lower each p by less than 2⁻²⁴, which adds at most 2⁻²⁴·‖x‖² to the error.
        """
        if self.variance is not None:
            return self.variance
        return spec.size / self._expected(spec.size) - 1 if spec.size else 0.0

    def magnitude(self, x: Array) -> np.float32:
        """M for x: float32[n]. Raises CodecError where it does not fit float32.

        With a(1) ≥ … ≥ a(n) the magnitudes, S = Σ_{i>k} a(i) and T = Σ_{i>k} a(i)²: the smallest k with
        a(k+1)·S ≤ ε‖x‖² + T and M = (ε‖x‖² + T)/S for variance ε (Algorithm 2); the smallest k with
        a(k+1)·(m−k) ≤ S and M = S/(m−k) for m numbers, where the greedy Algorithm 3 ends if not stopped.
        """
        if not x.any():
            return np.float32(0)
        bits = x.view(np.int32) & np.int32(0x7FFFFFFF)
        bits.sort()
        a = bits.view(np.float32)[::-1]
        # Sums grow from their smallest term, one after another: the same on every machine.
        tails = np.cumsum(a[::-1], dtype=np.float64)[::-1]
        top: Array
        below: Array
        if self.variance is not None:
            squares = np.cumsum(np.square(a[::-1], dtype=np.float64))[::-1]
            top, below = squares + self.variance * squares[0], tails
            last = int(np.count_nonzero(a)) - 1
        else:
            expected = self._expected(a.size)
            top, below = tails, expected - np.arange(math.ceil(expected))
            last = below.size - 1
        # The conditions hold from some k on, at the latest from `last`.
        k = bisect_left(range(last), True, key=lambda i: bool(float(a[i]) * below[i] <= top[i]))
        shared = float(top[k] / below[k])
        if shared > _TOP:
            raise CodecError(
                f"sparse: the shared magnitude {shared:g} does not fit float32; scale x down, or allow less "
                "variance (a larger density)"
            )
        rounded = np.float32(shared)
        return rounded if float(rounded) <= shared else np.nextafter(rounded, np.float32(0), dtype=np.float32)

    def _expected(self, n: int) -> float:
        density = DEFAULT_DENSITY if self.density is None else self.density
        return max(density * n, 1.0)

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        shared, size = self.magnitude(x), np.abs(x)
        # Keeps with probability ⌊p·2²⁴⌋/2²⁴: 1 − u is exact, and so is its product with M in float64.
        keep = np.multiply(1 - rng.uniform(key, x.size), shared, dtype=np.float64) <= size
        kept = np.flatnonzero(keep & (size > 0))
        values = x[kept]
        exact = np.flatnonzero(size[kept] > shared)
        negative = np.delete(values, exact) < 0
        data = b"".join(
            (
                pack_count(kept.size, x.size),
                pack_count(exact.size, kept.size),
                encode_indices(kept, x.size, self.entropy),
                encode_indices(exact, kept.size, self.entropy),
                values[exact].astype("<f4", copy=False).tobytes(),
                np.array([shared] if negative.size else [], "<f4").tobytes(),
                pack.pack_bits(negative, 1),
            )
        )
        return Body(data, lambda: self._decode_body(data, spec, key, knobs), state)

    def _entries(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        width = count_size(spec.size)
        k = unpack_count(data, 0, spec.size, self.name)
        above = unpack_count(data, width, k, self.name)
        kept, at = decode_indices(data, width + count_size(k), spec.size, k)
        exact, at = decode_indices(data, at, k, above)
        others = k - above
        end = at + 4 * above + (4 + pack.bits_size(others, 1) if others else 0)
        if len(data) != end:
            raise CodecError(f"sparse: body of {len(data)} bytes, expected {end}")
        values = np.empty(k, np.float32)
        if others:
            shared = np.frombuffer(data, "<f4", 1, at + 4 * above)[0]
            if not 0 < shared < math.inf:
                raise CodecError(f"sparse: shared magnitude {shared} is not positive and finite")
            negative = pack.unpack_bits(data[at + 4 * above + 4 :], others, 1)
            values[np.delete(np.arange(k), exact)] = np.where(negative, -shared, shared)
        values[exact] = np.frombuffer(data, "<f4", above, at)
        return kept, values
