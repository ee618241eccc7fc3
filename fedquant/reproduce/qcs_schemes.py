"""The schemes that the QCS paper compares, at equal numbers of real bytes."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.codecs.base import EMPTY, Codec, Spec, State
from fedquant.codecs.floats import Float32
from fedquant.codecs.qcs import QCS
from fedquant.codecs.qsgd import QSGD
from fedquant.codecs.sparse import Sparse
from fedquant.keys import Key

F32 = npt.NDArray[np.float32]

PAPER: Final = (
    "Abdi & Fekri, “Quantized Compressive Sampling of Stochastic Gradients for Efficient Communication in\n"
    "Distributed Deep Learning” (2020)."
)
BASELINE: Final = Float32()
TERNARY: Final = QSGD(levels=1, scope=512)
"""QSGD as its authors run it: buckets of 512, scaled by their largest magnitude."""
QCS_2: Final = QCS()
"""k = n, Q = 1."""


def qcs_1(gain: float = 32) -> QCS:
    """k and Q, in partitions of 256, that make γ least for a gain."""
    return QCS(gain=gain)


def matching(x: F32, size: int, key: Key, draws: int = 4) -> Sparse:
    """Sparse at the density whose payloads of x take `size` bytes on average, as closely as can be told."""
    spec, low, high = Spec(x.size), 1 / x.size, 1.0
    for _ in range(16):
        density = (low * high) ** 0.5
        codec = Sparse(density=density)
        sizes = [len(codec.encode(x, spec, key.fold(round=i))[0]) for i in range(draws)]
        low, high = (density, high) if sum(sizes) < draws * size else (low, density)
    return Sparse(density=(low * high) ** 0.5)


def nmse(decoded: F32, x: F32) -> float:
    """‖x̂ − x‖² / ‖x‖², the paper's relative quantization error."""
    lost = decoded.astype(np.float64) - x
    return float(np.dot(lost, lost) / np.dot(x.astype(np.float64), x))


def through(codec: Codec, x: F32, spec: Spec, key: Key, state: State = EMPTY) -> tuple[F32, int, State]:
    """(what the server decodes, bytes sent, next state): x once over the wire."""
    payload, after = codec.encode(x, spec, key, state)
    return codec.decode(payload, spec, key), len(payload), after
