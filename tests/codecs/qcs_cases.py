"""Vectors and ways through the codec that QCS is tested with."""

from __future__ import annotations

import numpy as np

from fedquant import wire
from fedquant.codecs.base import Spec
from fedquant.codecs.qcs import QCS
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS

KEY = Key(21)


def gaussian(n: int, sensor: int = 0) -> np.ndarray:
    u = rng.uniform(Key(5, sensor=sensor), 2 * n).astype(float)
    return (np.sqrt(-2 * np.log1p(-u[:n])) * np.cos(2 * np.pi * u[n:])).astype(np.float32)


def through(codec: QCS, x: np.ndarray, key: Key = KEY) -> np.ndarray:
    spec = Spec(x.size)
    return codec.decode(codec.encode(x, spec, key)[0], spec, key)


def body_of(codec: QCS, x: np.ndarray) -> tuple[bytearray, wire.Context]:
    spec = Spec(x.size)
    context = codec.context(spec, KEY, NO_KNOBS)
    return bytearray(wire.unframe(codec.encode(x, spec, KEY)[0], context)), context
