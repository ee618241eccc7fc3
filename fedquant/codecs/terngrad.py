"""TernGrad: each number becomes −1, 0 or 1 times the largest magnitude of its group, without bias.

Wen et al., "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning" (2017), with
its gradient clipping. Unclipped it is QSGD with one positive level and the max norm.

Body: a float32 scale a group, then for each group whose scale is not zero five codes {0, 1, 2} a byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, final

import numpy as np
from pydantic import Field

from fedquant.codecs.base import Array, Body, Codec, Spec, State
from fedquant.codecs.configured import ENCODER_ONLY
from fedquant.codecs.groups import Scope, bounds, groups, largest
from fedquant.codecs.levels import decode_coded, decode_groups, encode_coded, encode_groups
from fedquant.kernels import buckets
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs


@final
@dataclass(frozen=True)
class TernGrad(Codec):
    """Ternary levels, 1.6 bit/coordinate.

    scope: what shares a scale: "whole" vector, each "segment" (layer), or buckets of that many numbers.
    clip: numbers beyond ±clip·σ are clipped first; the paper's is 2.5. σ = √(mean x²) of the group, its
    standard deviation about zero: the paper takes gradients to have mean 0. None: no clipping, no bias.
    entropy: codes in about their entropy, never more than a byte above the plain form.
    """

    name: ClassVar[str] = "terngrad"
    finds_nonfinite = True

    scope: Scope = "segment"
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = field(
        default=None, metadata=ENCODER_ONLY
    )
    entropy: bool = False

    def variance_bound(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float | None:
        """γ = (√n − 1)/2 for the largest group of n numbers; None with clipping, which is biased.

        With M = max |x|, x_i becomes ±M with probability |x_i|/M: variance |x_i|·(M − |x_i|), in all
        M‖x‖₁ − ‖x‖². For x = (1, t, …, t) that is (1 + (n−1)t)/(1 + (n−1)t²) − 1 times ‖x‖², largest at
        t = 1/(1 + √n). No x does worse: at given M and ‖x‖₁, equal numbers make ‖x‖² least.
        """
        if self.clip is not None:
            return None
        return (math.sqrt(max(largest(spec, self.scope), 1)) - 1) / 2

    def _scales(self, x: Array, ends: buckets.I64) -> Array:
        top = buckets.max_abs(x, ends)
        if self.clip is None:
            return top
        deviation = np.sqrt(buckets.sum_squares(x, ends) / np.diff(ends))
        with np.errstate(over="ignore"):  # a limit of infinity is none
            return np.minimum(top, self.clip * deviation).astype(np.float32)

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        cuts = groups(spec, self.scope)
        scales = self._scales(x, bounds(cuts))
        if not np.isfinite(scales).all():
            self.refuse_nonfinite(x)
        if self.clip is not None:
            limits = np.repeat(scales, np.diff(bounds(cuts)))
            x = np.clip(x, -limits, limits)
        if self.entropy:
            data = encode_coded(x, spec, cuts, scales, 1, key)
        else:
            data = encode_groups(x, cuts, scales, 1, key)
        return Body(data, lambda: self._decode_body(data, spec, key, knobs), state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        cuts = groups(spec, self.scope)
        if self.entropy:
            return decode_coded(data, spec, cuts, 1, self.name)
        return decode_groups(data, spec.size, cuts, 1, self.name)
