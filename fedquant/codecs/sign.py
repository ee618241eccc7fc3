"""Signs: one bit a number, with a mean magnitude (1-bit SGD, EF-signSGD) or a majority vote (signSGD).

Seide et al., "1-Bit Stochastic Gradient Descent" (2014); Bernstein et al., "signSGD" (2018), with majority
vote in Algorithm 3; Karimireddy et al., "Error Feedback Fixes SignSGD" (2019), Algorithm 1.

Body, mean: a float32 scale a group, then the planar bits of each group whose scale is not zero. Vote: the
planar bits of the vector alone. A bit is 1 for x ≥ 0, so both zeros count as positive. Entropy-coded, it is
the scales (mean) and `entropy` of all bits, of groups with a zero scale, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from fedquant.codecs import entropy
from fedquant.codecs.base import Array, Body, Codec, Spec, State
from fedquant.codecs.groups import Scope, groups, pack_scales, unpack_scales
from fedquant.errors import CodecError
from fedquant.kernels import pack, scan
from fedquant.keys import Key
from fedquant.wire import Knobs


@final
@dataclass(frozen=True)
class Sign(Codec):
    """1 bit/coordinate, and a float32 a group with aggregate: mean.

    aggregate: "mean" decodes to ±‖x‖₁/n of the group of n numbers, and the server averages that. It is
    biased but a contraction, ‖x − x̂‖² = ‖x‖² − ‖x‖₁²/n, which error feedback needs.
    "vote" decodes to ±1, zeros included, and the sum of many becomes its sign: +1, −1, or 0 for a tie.
    scope: what shares a scale: "whole" vector, each "segment" (layer), or buckets of that many numbers.
    entropy: the bits in about their entropy, which pays where signs are not even, by layer.
    Raises ValueError for a scope with aggregate: vote, which has no scale.
    """

    name: ClassVar[str] = "sign"

    aggregate: Literal["mean", "vote"] = "mean"
    scope: Scope = "whole"
    entropy: bool = False

    def __post_init__(self) -> None:
        if self.aggregate == "vote" and self.scope != "whole":
            raise ValueError(
                f"sign: scope={self.scope!r} has no meaning with aggregate: vote (no scales); leave it out"
            )

    def finish(self, total: Array, weight: float) -> Array:
        """The weighted mean, or the sign of the weighted vote."""
        if self.aggregate == "mean":
            return super().finish(total, weight)
        winner: Array = np.sign(total)
        return winner

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        positive = (x >= 0).view(np.uint8)
        cuts = self._cuts(spec)
        scales = [np.float32(scan.sum_abs(x[a:b]) / (b - a)) for a, b in cuts]
        head = pack_scales(scales)
        if self.entropy:
            data = head + entropy.pack(positive, 2, spec.segments)
        elif self.aggregate == "vote":
            data = pack.pack_bits(positive, 1)
        else:
            sent = [cut for cut, scale in zip(cuts, scales, strict=True) if scale > 0]
            data = head + b"".join(pack.pack_bits(positive[a:b], 1) for a, b in sent)
        return Body(data, lambda: self._decode_body(data, spec, key, knobs), state)

    def _cuts(self, spec: Spec) -> Sequence[tuple[int, int]]:
        return () if self.aggregate == "vote" else groups(spec, self.scope)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        cuts = self._cuts(spec)
        scales = unpack_scales(data, len(cuts), self.name)
        at = 4 * len(cuts)
        bits: Array
        if self.entropy:
            bits = entropy.unpack(data[at:], spec.size, 2, spec.segments)
        elif self.aggregate == "vote":
            bits = pack.unpack_bits(data, spec.size, 1)
        if self.aggregate == "vote":
            return _signed(bits, np.float32(1))
        out = np.zeros(spec.size, np.float32)
        for (start, stop), scale in zip(cuts, scales, strict=True):
            if scale == 0:
                continue
            part: Array
            if self.entropy:
                part = bits[start:stop]
            else:
                end = at + pack.bits_size(stop - start, 1)
                part = pack.unpack_bits(data[at:end], stop - start, 1)
                at = end
            out[start:stop] = _signed(part, scale)
        if not self.entropy and at != len(data):
            raise CodecError(f"sign: body of {len(data)} bytes, expected {at}")
        return out


def _signed(bits: Array, scale: np.float32) -> Array:
    return np.where(bits, scale, -scale)
