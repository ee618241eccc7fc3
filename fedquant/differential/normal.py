"""Normal draws from a key."""

from __future__ import annotations

import math

import numpy as np

from fedquant.differential.arrays import F64
from fedquant.kernels import rng
from fedquant.keys import Key


def normal(key: Key, shape: tuple[int, ...]) -> F64:
    """float64[shape]: independent N(0, 1) by Box and Muller's transform.

    Draw i is a function of (key, i); machines agree up to the last digits of their ln and cos.
    """
    n = math.prod(shape)
    u = (rng.uint32(key, 2 * n).astype(np.float64) + 0.5) * 2.0**-32  # in (0, 1), symmetric about ½
    radius: F64 = np.sqrt(-2 * np.log(u[0::2]))
    return (radius * np.cos(2 * np.pi * u[1::2])).reshape(shape)
