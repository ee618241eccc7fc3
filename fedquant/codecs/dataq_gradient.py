"""DataQ of a gradient: rounded at random, without bias, to m levels a sign of its l2 norm.

Hanna et al., "Quantization of distributed data for learning", Remark 3.

Body: B = ‖x‖₂ as float32, rounded up; unless B = 0, a byte and the levels: 0 for the index of all of them,
or mixed radix (see `lattice`, rounding stochastic), 1 where they are entropy-coded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, final

import numpy as np
from pydantic import Field

from fedquant.codecs import lattice
from fedquant.codecs.base import Array, Body, Codec, Spec, State
from fedquant.codecs.dataq import ENTROPY, pack_levels, unpack_levels
from fedquant.codecs.grid import l2_levels, l2_scale, l2_values
from fedquant.codecs.groups import pack_scales, unpack_scales
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs

_CHUNK: Final = 1 << 16


@final
@dataclass(frozen=True)
class DataQGradient(Codec):
    """The grid B·i/(m−1), |i| < m. m: None for ⌈√size⌉ + 1, with which E‖x̂ − x‖² ≤ ‖x‖²/4.

    With that m no vector takes more than some 2.9 bit a number: levels have Σ(|c| − 1)² < size over those
    that are not 0, which bounds their entropy (Remark 3 promises 2·log2(3e) = 6.1). Gaussian ones take 2.2.
    """

    name: ClassVar[str] = "dataq_gradient"

    m: Annotated[int, Field(ge=2, le=1 << 16)] | None = None

    def levels(self, spec: Spec) -> int:
        """m, given or by the size."""
        return self.m or math.isqrt(max(0, spec.size - 1)) + 2

    def variance_bound(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float | None:
        """min(h/4s², √h/s), s = m − 1: a coordinate's variance is at most (B/s)²/4 and (B/s)·|x|."""
        s = self.levels(spec) - 1
        return min(spec.size / (4 * s**2), math.sqrt(spec.size) / s)

    def _index(self, spec: Spec) -> lattice.Index | None:
        return lattice.shortest(spec.size, self.levels(spec), "stochastic", True)

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        scale = l2_scale(x, self.name)
        data = pack_scales([scale])
        if scale > 0:
            m, scales, levels = self.levels(spec), np.array([scale]), np.empty((1, spec.size), np.int32)
            for start in range(0, spec.size, _CHUNK):
                part = x[np.newaxis, start : start + _CHUNK]
                draws = rng.uniform(key, part.size, start)[np.newaxis]
                levels[:, start : start + _CHUNK] = l2_levels(part, scales, m - 1, "stochastic", draws)
            coding, coded = pack_levels(levels, (spec.size,), m, False, self._index(spec))
            data += bytes([coding]) + coded
        return Body(data, lambda: self._decode_body(data, spec, key, knobs), state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        scales = unpack_scales(data, 1, self.name)
        if scales[0] == 0 or spec.size == 0:
            if len(data) != 4:
                raise CodecError(f"dataq_gradient: body of {len(data)} bytes, zeros take 4")
            return np.zeros(spec.size, np.float32)
        if len(data) < 5 or data[4] > ENTROPY:
            raise CodecError(
                f"dataq_gradient: coding {data[4:5].hex() or 'missing'} is not known to this version"
            )
        m = self.levels(spec)
        index = self._index(spec) if data[4] != ENTROPY else None
        levels = unpack_levels(data[5:], 1, (spec.size,), m, False, index, data[4])
        return l2_values(levels, scales, m - 1).reshape(spec.size)
