"""Uncompressed floats: what every scheme is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedquant.codecs.base import Array, Body, Codec, Spec, State
from fedquant.errors import CodecError
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
        if len(data) != 4 * spec.size:
            raise CodecError(f"float32: body of {len(data)} bytes, expected {4 * spec.size}")
        return np.frombuffer(data, "<f4").astype(np.float32)
