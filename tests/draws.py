"""Draws of distributions that several tests code."""

from __future__ import annotations

import numpy as np

from fedquant.kernels import rng
from fedquant.keys import Key

KEY = Key(9)


def skewed(n: int, levels: int, power: float, key: Key = KEY) -> np.ndarray:
    """uint32[n] below `levels`; the larger the power, the more of them are small."""
    return (rng.uniform(key, n).astype(np.float64) ** power * levels).astype(np.uint32)


def normal(n: int, sensor: int = 0, scale: float = 1.0) -> np.ndarray:
    """float32[n], close to Gaussian: sums of twelve uniforms."""
    draws = rng.uniform(Key(6, sensor=sensor), 12 * n).reshape(12, n)
    return ((draws.sum(axis=0, dtype=np.float64) - 6) * scale).astype(np.float32)


def heavy(n: int, sensor: int = 0) -> np.ndarray:
    """float32[n]: a few numbers are far larger than most."""
    return normal(n, sensor) ** 3 * np.exp2(normal(n, sensor + 1))
