"""QSGD: each number is rounded at random to one of 2s+1 levels of its group's norm, without bias.

Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding" (2017).

Body: a float32 scale a group, then the codes of each group whose scale is not zero: planar when `bits` is
2, 4 or 8, mixed radix otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from fedquant.codecs.base import Array, Body, Codec, Sent, Spec, State
from fedquant.codecs.groups import Scope, groups, largest
from fedquant.codecs.levels import add_groups, decode_coded, decode_groups, encode_coded, encode_groups
from fedquant.errors import CodecError
from fedquant.kernels import scan
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs

MAX_LEVELS = 1 << 16


@final
@dataclass(frozen=True)
class QSGD(Codec):
    """s = 2**(bits−1) − 1 positive levels, or s = `levels`; knobs `bits` and `levels` override them.

    norm: "max" (rate log2(2s+1) bit/coordinate, every level in use) or "l2" (the paper's).
    scope: what shares a scale: "whole" vector, each "segment" (layer), or buckets of that many numbers.
    entropy: codes in about their entropy, never more than a byte above the plain form.
    """

    name: ClassVar[str] = "qsgd"
    finds_nonfinite = True
    knob_names = frozenset({"bits", "levels"})

    bits: Annotated[int, Field(ge=2, le=16)] = 4
    levels: Annotated[int, Field(ge=1, le=MAX_LEVELS)] | None = None
    norm: Literal["max", "l2"] = "max"
    scope: Scope = "whole"
    entropy: bool = False

    def positive_levels(self, knobs: Knobs) -> tuple[int, int | None]:
        """(s, bits of a planar code or None for mixed radix). Raises CodecError for a bad knob."""
        levels, bits = self.levels, self.bits
        if "bits" in knobs or "levels" in knobs:
            levels = _integer(knobs, "levels", 1, MAX_LEVELS)
            bits = _integer(knobs, "bits", 2, 16) or bits
        if levels is not None:
            return levels, None
        return (1 << (bits - 1)) - 1, bits if bits in (2, 4, 8) else None

    def variance_bound(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float | None:
        """γ of the largest group of n numbers.

        l2: min(n/s², √n/s) (Lemma 3.1). max: a coordinate's variance is at most (M/s)²/4 and (M/s)·|x|,
        and M·‖x‖₁ ≤ (1+√n)/2·‖x‖², hence min(n/4s², (1+√n)/2s).
        """
        n, (s, _) = largest(spec, self.scope), self.positive_levels(knobs)
        if self.norm == "l2":
            return min(n / s**2, math.sqrt(n) / s)
        return min(n / (4 * s**2), (1 + math.sqrt(n)) / (2 * s))

    def _scale(self, x: Array) -> np.float32:
        if self.norm == "max":
            return np.float32(scan.max_abs(x))
        norm = math.sqrt(scan.sum_squares(x))
        if not math.isfinite(norm):
            return np.float32(norm)
        if norm > float(np.finfo(np.float32).max):
            raise CodecError(f"qsgd: the l2 norm {norm:g} does not fit float32; use norm: max")
        scale = np.float32(norm)  # rounded up, so that no number exceeds it
        if float(scale) < norm:
            scale = np.nextafter(scale, np.float32(np.inf), dtype=np.float32)
        return min(scale, np.finfo(np.float32).max)

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        s, bits = self.positive_levels(knobs)
        cuts = groups(spec, self.scope)
        scales = [self._scale(x[start:stop]) for start, stop in cuts]
        if not all(map(math.isfinite, scales)):
            self.refuse_nonfinite(x)
        if self.entropy:
            data = encode_coded(x, spec, cuts, scales, s, key)
        else:
            data = encode_groups(x, cuts, scales, s, key, bits)
        return Body(data, lambda: self._decode_body(data, spec, key, knobs), state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        (s, bits), cuts = self.positive_levels(knobs), groups(spec, self.scope)
        if self.entropy:
            return decode_coded(data, spec, cuts, s, self.name)
        return decode_groups(data, spec.size, cuts, s, self.name, bits)

    def _add_bodies(
        self, out: Array, sent: Sequence[Sent], spec: Spec, knobs: Knobs
    ) -> dict[int, CodecError]:
        s, bits = self.positive_levels(knobs)
        if bits is None or self.entropy:
            return super()._add_bodies(out, sent, spec, knobs)
        return add_groups(out, sent, groups(spec, self.scope), s, self.name, bits)


def _integer(knobs: Knobs, name: str, low: int, high: int) -> int | None:
    value = knobs.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or not low <= value <= high:
        raise CodecError(f"qsgd: knob {name}={value!r} is not an integer in [{low}, {high}]")
    return value
