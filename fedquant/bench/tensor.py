"""A gradient-like tensor that anyone can make again: normal numbers, each layer at a scale of its own.

The layers are those of ResNet-18 for CIFAR-10 (He et al. 2016); scales are 10⁻³ times lognormal, σ = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.codecs.base import Spec

SEED: Final = 20240917
SIZE: Final = 11_173_962

F32 = npt.NDArray[np.float32]


def layer_shapes() -> Iterator[tuple[int, ...]]:
    """Convolutions, the two vectors of each batch norm, and the classifier, in the order of the network."""

    def convolution(inputs: int, outputs: int, width: int) -> Iterator[tuple[int, ...]]:
        yield from ((outputs, inputs, width, width), (outputs,), (outputs,))

    yield from convolution(3, 64, 3)
    inputs = 64
    for channels in (64, 128, 256, 512):
        for _ in range(2):
            yield from convolution(inputs, channels, 3)
            yield from convolution(channels, channels, 3)
            if inputs != channels:  # the shortcut must change the width, too
                yield from convolution(inputs, channels, 1)
            inputs = channels
    yield from ((10, 512), (10,))


def layered_normal(size: int = SIZE, seed: int = SEED) -> tuple[F32, Spec]:
    """(float32[size], its layers): the first numbers of the tensor."""
    rng, parts, ends = np.random.default_rng(seed), [], [0]
    for shape in layer_shapes():
        if ends[-1] >= size:
            break
        scale = np.float32(1e-3 * np.exp(rng.standard_normal()))
        parts.append(rng.standard_normal(math.prod(shape), dtype=np.float32) * scale)
        ends.append(ends[-1] + parts[-1].size)
    return np.concatenate(parts)[:size], Spec(ends[-1], segments=tuple(ends[1:])).slice(0, size)
