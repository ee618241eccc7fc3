"""QSGD: each number is rounded at random to one of 2s+1 levels of its group's norm, without bias.

Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding" (2017).

Body: a float32 scale a group, then the codes of each group whose scale is not zero: planar when `bits` is
2, 4 or 8, mixed radix otherwise. See `levels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, final

import numpy as np
from pydantic import Field

from fedquant.codecs.base import Array, Body, Codec, Sent, Spec, State
from fedquant.codecs.groups import Scope, bounds, groups
from fedquant.codecs.levels import (
    Fineness,
    add_groups,
    decode_coded,
    decode_groups,
    encode_coded,
    encode_groups,
    longest,
    of_bits,
)
from fedquant.errors import CodecError, ConfigError
from fedquant.kernels import buckets
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs

MAX_LEVELS = 1 << 16
_FEW: Final = 64  # groups, for more of which to decode and to add is quicker than to add one after another
_MAX: Final = np.finfo(np.float32).max
_LIMITS: Final = {"bits": (2, 16, "<u1"), "levels": (1, MAX_LEVELS, "<u2")}
"""Of a knob: least and largest value, and how a value a segment is written."""


@final
@dataclass(frozen=True)
class QSGD(Codec):
    """s = 2**(bits−1) − 1 positive levels, or s = `levels`; knobs `bits` and `levels` override them.

    Raises ConfigError for `levels` beside `bits`, whose place it takes.

    With scope "segment" a knob may give each segment its own (`each_segment`).

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

    def __post_init__(self) -> None:
        if self.levels is not None and self.bits != type(self).bits:
            raise ConfigError(
                f"qsgd: levels={self.levels} takes the place of bits={self.bits}; remove one of the two"
            )

    def finenesses(self, spec: Spec, knobs: Knobs) -> list[Fineness]:
        """Of each group. Raises CodecError for a bad knob."""
        n = len(groups(spec, self.scope))
        told = {name: self._told(name, knobs[name], n) for name in _LIMITS if name in knobs}
        if "levels" in told:
            return [Fineness(s) for s in told["levels"]]
        if "bits" in told:
            return [of_bits(bits) for bits in told["bits"]]
        return [of_bits(self.bits) if self.levels is None else Fineness(self.levels)] * n

    def _told(self, name: str, value: int | bytes, n: int) -> list[int]:
        """What a knob says of each of n groups."""
        low, high, form = _LIMITS[name]
        if isinstance(value, int) and low <= value <= high:
            return [value] * n
        if isinstance(value, int) or self.scope != "segment":
            raise CodecError(f"qsgd: knob {name}={value!r} is not an integer in [{low}, {high}]")
        values = numbers(name, value) if len(value) == n * np.dtype(form).itemsize else []
        if len(values) != n or not all(low <= v <= high for v in values):
            raise CodecError(
                f"qsgd: knob {name} of {len(value)} bytes is not one integer in [{low}, {high}] for each of "
                f"{n} segments"
            )
        return values

    def limit(self, spec: Spec, knobs: Knobs) -> int:
        """Bytes of the longest body: of every body whose scales are not zero, where no entropy is coded."""
        return longest(spec, groups(spec, self.scope), self.finenesses(spec, knobs), self.entropy)

    def variance_bound(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float | None:
        """γ of the worst group, of n numbers.

        l2: min(n/s², √n/s) (Lemma 3.1). max: a coordinate's variance is at most (M/s)²/4 and (M/s)·|x|,
        and M·‖x‖₁ ≤ (1+√n)/2·‖x‖², hence min(n/4s², (1+√n)/2s).
        """
        cuts, fine = groups(spec, self.scope), self.finenesses(spec, knobs)
        found = {(stop - start, s) for (start, stop), (s, _) in zip(cuts, fine, strict=True)}
        if self.norm == "l2":
            return max((min(n / s**2, math.sqrt(n) / s) for n, s in found), default=0.0)
        return max((min(n / (4 * s**2), (1 + math.sqrt(n)) / (2 * s)) for n, s in found), default=0.0)

    def _scales(self, x: Array, ends: buckets.I64) -> Array:
        if self.norm == "max":
            return buckets.max_abs(x, ends)
        norms = np.sqrt(buckets.sum_squares(x, ends))
        largest = norms.max(initial=0)
        if np.isfinite(largest) and largest > _MAX:
            raise CodecError(f"qsgd: the l2 norm {largest:g} does not fit float32; use norm: max")
        with np.errstate(over="ignore"):
            scales = norms.astype(np.float32)
            above = np.minimum(np.nextafter(scales, np.float32(np.inf)), _MAX)
        return np.where(scales < norms, above, scales)  # rounded up, so that no number exceeds it

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        fine, cuts = self.finenesses(spec, knobs), groups(spec, self.scope)
        scales = self._scales(x, bounds(cuts))
        if not np.isfinite(scales).all():
            self.refuse_nonfinite(x)
        if self.entropy:
            data = encode_coded(x, spec, cuts, scales, fine, key)
        else:
            data = encode_groups(x, cuts, scales, fine, key)
        return Body(data, lambda: self._decode_body(data, spec, key, knobs), state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        fine, cuts = self.finenesses(spec, knobs), groups(spec, self.scope)
        if self.entropy:
            return decode_coded(data, spec, cuts, fine, self.name)
        return decode_groups(data, spec.size, cuts, fine, self.name)

    def _add_bodies(
        self, out: Array, sent: Sequence[Sent], spec: Spec, knobs: Knobs
    ) -> dict[int, CodecError]:
        fine, cuts = self.finenesses(spec, knobs), groups(spec, self.scope)
        if self.entropy or len(cuts) > _FEW or not all(bits for _, bits in fine):
            return super()._add_bodies(out, sent, spec, knobs)
        return add_groups(out, sent, cuts, fine, self.name)


def each_segment(name: str, values: Sequence[int]) -> Knobs:
    """The knob `bits` or `levels` that gives each segment its own: 1 byte, or 2, lowest first, each."""
    return {name: np.array(values, _LIMITS[name][2]).tobytes()}


def numbers(name: str, value: bytes) -> list[int]:
    """What such a knob says."""
    return [int(v) for v in np.frombuffer(value, _LIMITS[name][2])]
