"""Uniform: the cube quantizer of differential quantization, M midpoints a dimension of [−r, r].

Lin, Kostina, Hassibi, "Differentially Quantized Gradient Descent": with M levels the cells of the cube
[−r, r]^n have sides of 2r/M, and |x̂ − x| ≤ r/M in each dimension.

Body: r as float64 where neither `range` nor its knob gives it; then, unless r = 0, the codes of the
coordinates with M+1 levels and those with M, each run planar for 2, 4, 16 or 256 levels, else mixed radix.
Entropy-coded, it is `entropy` of the codes of all coordinates, with the most levels that one has.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal, localcontext
from functools import lru_cache
from typing import Annotated, ClassVar, Final, final

import numpy as np
from pydantic import Field

from fedquant.codecs import entropy
from fedquant.codecs.base import Array, Body, Codec, Spec, State
from fedquant.errors import CodecError
from fedquant.kernels import pack, scan
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs

MAX_LEVELS: Final = 1 << 31
Runs = tuple[tuple[int, int], ...]
"""(numbers, levels) of consecutive coordinates."""

MAX_CODED: Final = entropy.MAX_LEVELS

_FLOAT64: Final = struct.Struct("<d")
_PLANAR: Final = {2: 1, 4: 2, 16: 4, 256: 8}  # levels: bits


@final
@dataclass(frozen=True)
class Uniform(Codec):
    """M = `levels`, or `bits` = R bit/coordinate: M_i ∈ {⌊2^R⌋, ⌊2^R⌋+1} with ΠM_i ≤ 2^(nR).

    range: r, known to both sides; None: max |x|, sent with each payload. Knobs override: `levels`, and
    `range` as 8 bytes, float64 little-endian. A number outside [−r, r] is an error, never clipped:
    |x̂_i − x_i| ≤ r/M_i always, up to 4·2⁻⁵²·r of rounding. Computes in float64, also for float32 vectors
    (whose x̂ is rounded once more).
    entropy: codes in about their entropy; at most 2**17+1 levels.
    """

    name: ClassVar[str] = "uniform"
    knob_names = frozenset({"levels", "range"})

    bits: Annotated[float, Field(ge=1, le=31, allow_inf_nan=False)] = 4.0
    levels: Annotated[int, Field(ge=2, le=MAX_LEVELS)] | None = None
    range: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    entropy: bool = False

    def __post_init__(self) -> None:
        # 3 and 3.0 are one configuration, so they must be one text in the checksum.
        object.__setattr__(self, "bits", float(self.bits))
        if self.range is not None:
            object.__setattr__(self, "range", float(self.range))

    def check(self, spec: Spec) -> None:
        """Raises CodecError for more levels than entropy coding takes; codes float32 and float64."""
        self._check_levels(self.runs(spec))

    def _check_levels(self, runs: Runs) -> None:
        levels = max(levels for _, levels in runs)
        if self.entropy and levels > MAX_CODED:
            raise CodecError(f"uniform: {levels} levels, entropy: true takes at most {MAX_CODED}")

    def runs(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> Runs:
        """How many consecutive coordinates take how many levels. Raises CodecError for a bad knob."""
        levels = knobs.get("levels", self.levels)
        if levels is None:
            return split_levels(spec.size, self.bits)
        if not isinstance(levels, int) or not 2 <= levels <= MAX_LEVELS:
            raise CodecError(f"uniform: levels={levels!r} is not an integer in [2, {MAX_LEVELS}]")
        return ((spec.size, levels),)

    def covering_ratio(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float:
        """q = √ΣM_i⁻²: the largest ‖x̂ − x‖₂ over the cube is q·r. Raises CodecError for a bad knob."""
        return math.sqrt(sum(n / levels**2 for n, levels in self.runs(spec, knobs)))

    def known_range(self, knobs: Knobs) -> float | None:
        """r where both sides know it, None where it is sent. Raises CodecError for a bad knob."""
        if "range" not in knobs:
            return self.range
        knob = knobs["range"]
        if isinstance(knob, int) or len(knob) != _FLOAT64.size:
            raise CodecError(f"uniform: knob range={knob!r} is not the 8 bytes of a float64")
        return _checked(*_FLOAT64.unpack(knob))

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        r, head, runs = self.known_range(knobs), b"", self.runs(spec, knobs)
        if r is None:
            r = scan.max_abs(x)
            head = _FLOAT64.pack(r)
        elif scan.max_abs(x) > r:
            at = int((np.abs(x) > r).argmax())
            raise CodecError(f"uniform: x[{at}] = {x[at]} is outside [−r, r], r = {r}; give a larger range")
        data = head
        if r > 0:
            codes = _codes(x.astype(np.float64, copy=False), r, runs)
            data += self._pack(codes, spec, runs)
        return Body(data, lambda: self._decode_body(data, spec, key, knobs), state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        r, at, runs = self.known_range(knobs), 0, self.runs(spec, knobs)
        if r is None:
            if len(data) < _FLOAT64.size:
                raise CodecError(f"uniform: body of {len(data)} bytes, its range alone takes 8")
            at, r = _FLOAT64.size, _checked(*_FLOAT64.unpack_from(data))
        if r == 0:
            if len(data) != at:
                raise CodecError(f"uniform: body of {len(data)} bytes, expected {at}")
            return np.zeros(spec.size, spec.dtype)
        if r > float(np.finfo(spec.dtype).max):
            raise CodecError(f"uniform: range {r} is beyond {spec.dtype}")
        return _values(self._unpack(data[at:], spec, runs), r, runs).astype(spec.dtype, copy=False)

    def _pack(self, codes: Array, spec: Spec, runs: Runs) -> bytes:
        self._check_levels(runs)
        if self.entropy:
            return entropy.pack(codes, max(levels for _, levels in runs), spec.segments)
        out, start = [], 0
        for n, levels in runs:
            part, bits = codes[start : start + n], _PLANAR.get(levels)
            out.append(pack.pack_bits(part, bits) if bits else pack.pack_radix(part, levels))
            start += n
        return b"".join(out)

    def _unpack(self, data: bytes, spec: Spec, runs: Runs) -> Array:
        self._check_levels(runs)
        if self.entropy:
            codes = entropy.unpack(data, spec.size, max(levels for _, levels in runs), spec.segments)
            start = 0
            for n, levels in runs:
                if n and codes[start : start + n].max() >= levels:
                    raise CodecError(f"uniform: a code is not below its {levels} levels")
                start += n
            return codes
        sizes = [_size(n, levels) for n, levels in runs]
        if len(data) != sum(sizes):
            raise CodecError(f"uniform: codes of {len(data)} bytes, expected {sum(sizes)}")
        out, at = [], 0
        for (n, levels), size in zip(runs, sizes, strict=True):
            part, bits = data[at : at + size], _PLANAR.get(levels)
            out.append(pack.unpack_bits(part, n, bits) if bits else pack.unpack_radix(part, n, levels))
            at += size
        return np.concatenate([codes.astype(np.uint32, copy=False) for codes in out])


@lru_cache(maxsize=64)
def split_levels(n: int, bits: float) -> Runs:
    """((j, M+1), (n−j, M)): M = ⌊2^bits⌋ and the largest j with (M+1)^j·M^(n−j) ≤ 2^(n·bits).

    Computed in decimals, whose ln is correctly rounded on every machine. 60 digits decide: but for whole
    `bits`, treated apart, 2^(n·bits) equals no such product, and no float64 comes that close to one.
    """
    if bits.is_integer():
        return ((n, 1 << int(bits)),)
    with localcontext(Context(prec=60)):
        goal = Decimal(bits) * Decimal(2).ln()
        m = int(goal.exp())
        low, high = Decimal(m).ln(), Decimal(m + 1).ln()
        j = int((n * (goal - low) / (high - low)).to_integral_value(ROUND_FLOOR))
    return (j, m + 1), (n - j, m)


def _checked(r: float) -> float:
    if not 0 <= r < math.inf:
        raise CodecError(f"uniform: range {r} is negative or not finite")
    return r


def _size(n: int, levels: int) -> int:
    return pack.bits_size(n, _PLANAR[levels]) if levels in _PLANAR else pack.radix_size(n, levels)


def _codes(x: Array, r: float, runs: Runs) -> Array:
    """c = ⌊(x/r + 1)·M/2⌋, and M − 1 for x = r: uint32[n]."""
    codes, start = np.empty(x.size, np.uint32), 0
    for n, levels in runs:
        cell = x[start : start + n] / r
        cell += 1
        cell *= levels / 2
        codes[start : start + n] = np.minimum(cell.astype(np.uint32), np.uint32(levels - 1))
        start += n
    return codes


def _values(codes: Array, r: float, runs: Runs) -> Array:
    """x̂ = r·(2c + 1 − M)/M: float64[n]."""
    x, start = codes.astype(np.float64), 0
    for n, levels in runs:
        part = x[start : start + n]
        part *= 2
        part += 1 - levels
        part /= levels
        part *= r
        start += n
    return x
