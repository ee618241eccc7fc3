"""Plain floats: float32, what schemes are compared with, its two halves, rounded to nearest even, float64.

Body: the numbers one after another, little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedquant.codecs.base import Array, Body, Codec, Spec, State
from fedquant.errors import CodecError
from fedquant.kernels import scan
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs


@final
@dataclass(frozen=True)
class Float32(Codec):
    """float32, little-endian: 32 bit/coordinate."""

    name: ClassVar[str] = "float32"

    def variance_bound(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float | None:
        """0: nothing is lost."""
        return 0.0

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        return Body(x.astype("<f4", copy=False).tobytes(), x.copy, state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        return _read(data, "<f4", spec, self.name).astype(np.float32)


@final
@dataclass(frozen=True)
class Float64(Codec):
    """float64, little-endian: 64 bit/coordinate. For float64 vectors alone."""

    name: ClassVar[str] = "float64"

    def check(self, spec: Spec) -> None:
        """Raises CodecError for float32 vectors."""
        if spec.dtype != "float64":
            raise CodecError(f"float64: codes float64, not {spec.dtype}; use float32")

    def variance_bound(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float | None:
        """0: nothing is lost."""
        return 0.0

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        return Body(x.astype("<f8", copy=False).tobytes(), x.copy, state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        return _read(data, "<f8", spec, self.name).astype(np.float64)


@final
@dataclass(frozen=True)
class Float16(Codec):
    """IEEE half precision: 16 bit/coordinate, 11 bits of precision, |x| < 65520, steps of 2⁻²⁴ near 0."""

    name: ClassVar[str] = "float16"

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        with np.errstate(over="ignore", under="ignore"):  # too large is refused below
            half = x.astype("<f2")
        decoded = half.astype(np.float32)
        _check_finite(decoded, x, self.name, "use bfloat16 or float32")
        return Body(half.tobytes(), lambda: decoded, state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        return _read(data, "<f2", spec, self.name).astype(np.float32)


@final
@dataclass(frozen=True)
class BFloat16(Codec):
    """The upper half of a float32: 16 bit/coordinate, 8 bits of precision, the range of float32."""

    name: ClassVar[str] = "bfloat16"

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        upper = x.view(np.uint32)
        # Just under half a step, and one more where the step below is odd: ties go to even.
        upper = upper + (upper >> np.uint32(16) & np.uint32(1)) + np.uint32(0x7FFF)
        half = (upper >> np.uint32(16)).astype("<u2")
        decoded = _widen(half)
        _check_finite(decoded, x, self.name, "use float32")
        return Body(half.tobytes(), lambda: decoded, state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        return _widen(_read(data, "<u2", spec, self.name))


def _widen(upper: Array) -> Array:
    bits: Array = upper.astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32)


def _read(data: bytes, dtype: str, spec: Spec, name: str) -> Array:
    expected = np.dtype(dtype).itemsize * spec.size
    if len(data) != expected:
        raise CodecError(f"{name}: body of {len(data)} bytes, expected {expected}")
    return np.frombuffer(data, dtype)


def _check_finite(decoded: Array, x: Array, name: str, instead: str) -> None:
    if (at := scan.first_nonfinite(decoded)) >= 0:
        raise CodecError(f"{name}: x[{at}] = {x[at]} rounds to infinity; {instead}, or scale x down")
