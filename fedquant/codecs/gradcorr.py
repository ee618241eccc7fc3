"""GradCorrQ: one bit about the gradient's error that quantized samples leave, without bias.

Hanna et al., "Quantization of distributed data for learning", Algorithm 2 and (31); in (10) Δ has the wrong
sign. Δ = g_z − g_zQ has ‖Δ‖₂ ≤ c = C_z·B·√d/(m−1). Of h coordinates one is drawn, i, and a bit
e ~ Bernoulli(Δ_i/2c + ½); the receiver takes Δ̂_i = (2e − 1)·c·h, and 0 elsewhere: E Δ̂ = Δ.

But ‖Δ̂‖₂ = h·c whatever Δ is. For a large model that is noise without use, unless m ~ h·√d: the paper's own
runs with ResNet leave it out. It is for models of some hundred parameters.

Body: C_z as float32 where it is estimated; then one little-endian integer, in its lowest bit e, in the next
whether some |Δ_i| exceeds c (the correction is biased then), above them i where that is sent.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, NamedTuple, final

import numpy as np
from pydantic import Field

from fedquant import wire
from fedquant.codecs.base import Array, Spec
from fedquant.codecs.configured import Configured
from fedquant.errors import CodecError
from fedquant.kernels import rng, scan
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS

_FLOAT32: Final = struct.Struct("<f")
_LARGEST: Final = float(np.finfo(np.float32).max)


@final
@dataclass(frozen=True)
class Correction:
    """A payload; the C_z that it was made with; how many |Δ_i| exceed c, each of which is biased."""

    payload: bytes
    lipschitz: float
    clipped: int


class Received(NamedTuple):
    """Δ̂_i at i, the one coordinate that is not 0; whether the sender clipped some coordinate."""

    i: int
    value: float
    clipped: bool


@final
@dataclass(frozen=True)
class GradCorr(Configured):
    """One bit for each batch's Δ, as `Quantized.error_bound` and C_z say how large it may be.

    lipschitz: C_z, with ‖g_z − g_z'‖₂ ≤ C_z·‖z − z'‖₂; None: the largest ratio seen, which is sent.
    index: "shared", both draw i from the key, for 0 bits; "sent", ⌈log2 h⌉ bits.
    """

    name: ClassVar[str] = "grad_corr"

    lipschitz: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    index: Literal["shared", "sent"] = "shared"

    def __post_init__(self) -> None:
        if self.lipschitz is not None:  # 1 and 1.0 are one configuration
            object.__setattr__(self, "lipschitz", float(self.lipschitz))

    def encode(
        self, delta: Array, spec: Spec, key: Key, bound: float, distance: float, seen: float = 0.0
    ) -> Correction:
        """One bit about delta: float[h], the error of a batch's gradient.

        bound: on the mean ‖z − z_Q‖₂ of the batch, which the receiver knows, too; distance: the mean itself.
        seen: the `lipschitz` of the last correction. Raises CodecError where c·h does not fit float32.
        """
        if delta.shape != (spec.size,) or not spec.size or not np.isfinite(scan.max_abs(delta)):
            raise CodecError(f"grad_corr: delta{list(delta.shape)}, expected {spec.size} ≥ 1 finite numbers")
        lipschitz, head = self.lipschitz, b""
        if lipschitz is None:
            norm = math.sqrt(scan.sum_squares(delta))
            lipschitz = _rounded_up(max(seen, norm / distance if distance > 0 else 0.0))
            head = _FLOAT32.pack(lipschitz)
        c = _reach(lipschitz, bound, spec)
        i = _drawn(key, spec)
        p = 0.5 + 0.5 * min(1.0, max(-1.0, float(delta[i]) / c)) if c > 0 else 0.5
        e = int(float(rng.uniform(key, 1, 1)[0]) < p)
        clipped = int((np.abs(delta) > c).sum())
        number = (i if self.index == "sent" else 0) << 2 | (clipped > 0) << 1 | e
        body = head + number.to_bytes(self._size(spec), "little")
        return Correction(wire.frame(body, self.context(spec, key, NO_KNOBS)), lipschitz, clipped)

    def decode(self, payload: bytes, spec: Spec, key: Key, bound: float) -> Received:
        """What a payload says. Raises CodecError, and nothing else, for a bad one."""
        data = wire.unframe(payload, self.context(spec, key, NO_KNOBS))
        at = 0 if self.lipschitz is not None else _FLOAT32.size
        if len(data) != at + self._size(spec) or not spec.size:
            raise CodecError(f"grad_corr: body of {len(data)} bytes, expected {at + self._size(spec)}")
        lipschitz = _FLOAT32.unpack_from(data)[0] if self.lipschitz is None else self.lipschitz
        if not 0 <= lipschitz < math.inf:
            raise CodecError(f"grad_corr: C_z = {lipschitz} is negative or not finite")
        number = int.from_bytes(data[at:], "little")
        i = number >> 2 if self.index == "sent" else _drawn(key, spec)
        if i >= spec.size or (self.index == "shared" and number > 3):
            raise CodecError(f"grad_corr: {number} is no two bits, or its index is not below {spec.size}")
        sign = 1 if number & 1 else -1
        return Received(i, sign * _reach(lipschitz, bound, spec) * spec.size, bool(number & 2))

    def _size(self, spec: Spec) -> int:
        return (2 + (spec.size - 1).bit_length() + 7) // 8 if self.index == "sent" else 1


def _reach(lipschitz: float, bound: float, spec: Spec) -> float:
    c = lipschitz * bound
    if not 0 <= c * spec.size <= _LARGEST:
        raise CodecError(f"grad_corr: c·h = {c:g}·{spec.size} does not fit float32, or is negative")
    return c


def _drawn(key: Key, spec: Spec) -> int:
    if spec.size > 1 << 31:
        raise CodecError(f"grad_corr: up to 2**31 coordinates, got {spec.size}")
    return int(rng.integers(key, 1, spec.size)[0])


def _rounded_up(x: float) -> float:
    """To float32."""
    if x > _LARGEST:
        raise CodecError(f"grad_corr: C_z = {x:g} does not fit float32")
    near = np.float32(x)
    return float(near if float(near) >= x else np.nextafter(near, np.float32(np.inf), dtype=np.float32))
