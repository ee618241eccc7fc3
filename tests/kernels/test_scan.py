from __future__ import annotations

import math

import numpy as np
import pytest

from fedquant.kernels import rng, scan
from fedquant.keys import Key

KEY = Key(6)
SIZES = [0, 1, 2, 255, 256, 257, 65536, 65537, 140000]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", SIZES)
def test_norms_agree_with_exact_sums(n: int, dtype: type) -> None:
    x = (rng.uniform(KEY, n) - np.float32(0.5)).astype(dtype)
    assert scan.max_abs(x) == (float(np.abs(x).max()) if n else 0.0)
    exact = math.fsum(v * v for v in x.astype(float).tolist())
    assert scan.sum_squares(x) == pytest.approx(exact, rel=1e-12)
    assert scan.sum_abs(x) == pytest.approx(math.fsum(abs(v) for v in x.astype(float).tolist()), rel=1e-12)
    assert scan.first_nonfinite(x) == -1


def test_sum_squares_adds_in_its_documented_order() -> None:
    x = rng.uniform(KEY, 70001)
    lanes = [0.0] * 256
    for i, value in enumerate(x.astype(float).tolist()):
        lanes[i % 256] += value * value
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [lanes[i] + lanes[i + half] for i in range(half)]
    assert scan.sum_squares(x) == lanes[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_max_abs_passes_nonfinite_numbers_on(dtype: type) -> None:
    assert scan.max_abs(np.array([1, -np.inf, 2], dtype)) == math.inf
    for nan in (np.nan, -np.nan):
        assert math.isnan(scan.max_abs(np.array([np.inf, nan, 2], dtype)))
    assert scan.max_abs(np.array([-0.0, 0.0], dtype)) == 0
    tiny = np.finfo(dtype).smallest_subnormal
    assert scan.max_abs(np.array([0, -tiny], dtype)) == float(tiny)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_first_nonfinite_is_the_first(value: float) -> None:
    x = np.zeros(9, np.float32)
    x[[4, 7]] = value
    assert scan.first_nonfinite(x) == 4
