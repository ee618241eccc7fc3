from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.kernels import quantize, rng
from fedquant.keys import Key

KEY = Key(4)
QUICK = settings(max_examples=50, deadline=None, derandomize=True)


def vector(n: int, scale: float = 1.0) -> np.ndarray:
    return (rng.uniform(KEY, n) * np.float32(2) - np.float32(1)) * np.float32(scale)


@pytest.mark.parametrize("rounding", ["floor", "nearest", "stochastic"])
@pytest.mark.parametrize("s", [1, 2, 7, 127, 32767])
@pytest.mark.parametrize("scale", [1.0, 3e-30, 1e-42, 3e30])
def test_codes_are_in_range_and_near(rounding: quantize.Rounding, s: int, scale: float) -> None:
    x = vector(3000, scale)
    top = float(np.abs(x).max())
    codes = quantize.to_levels(x, top, s, rounding, KEY)
    assert codes.dtype == (np.uint8 if s < 128 else np.uint32)
    assert codes.max() <= 2 * s
    exact = x.astype(np.float64) / top * s
    error = codes.astype(np.float64) - s - exact
    width = 0.5 if rounding == "nearest" else 1.0
    assert np.abs(error).max() <= width + s * 2.0**-21  # a few float32 roundings of numbers up to s
    if rounding == "floor":
        assert (np.abs(codes.astype(np.float64) - s) <= np.abs(exact) + s * 2.0**-21).all()
    signs = np.sign(codes.astype(np.int64) - s)
    assert ((signs == 0) | (signs == np.sign(x))).all()


@QUICK
@given(st.integers(1, 2**16), st.floats(2.0**-90, 2.0**90, width=32))
def test_floor_keeps_grid_points(s: int, scale: float) -> None:
    grid = np.unique(np.linspace(0, 2 * s, 200).astype(np.uint32))
    x = quantize.from_levels(grid, scale, s)
    for rounding in ("floor", "nearest"):
        assert np.array_equal(quantize.to_levels(x, scale, s, rounding), grid)


def test_known_values() -> None:
    x = np.array([-1.0, -0.75, -0.0, 0.0, 0.49, 0.5, 1.0], np.float32)
    assert quantize.to_levels(x, 1.0, 2).tolist() == [0, 1, 2, 2, 2, 3, 4]
    assert quantize.to_levels(x, 1.0, 2, "nearest").tolist() == [0, 0, 2, 2, 3, 3, 4]
    assert quantize.from_levels(np.arange(5), 1.0, 2).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_stochastic_rounding_is_unbiased() -> None:
    n = 40000
    for value in (0.1, -0.37, 0.9):
        x = np.full(n, value, np.float32)
        mean = (quantize.to_levels(x, 1.0, 3, "stochastic", KEY).astype(float) - 3).mean() / 3
        # a rounded number is off by at most one level (sd ≤ 1/2 level); 5 sigma of the mean
        assert abs(mean - value) < 5 * 0.5 / 3 / np.sqrt(n)


def test_stochastic_draws_are_named_by_their_offset() -> None:
    x = vector(40000)
    whole = quantize.to_levels(x, 1.0, 5, "stochastic", KEY)
    for start in (1, 16384, 20001):
        assert np.array_equal(whole[start:], quantize.to_levels(x[start:], 1.0, 5, "stochastic", KEY, start))


def test_stochastic_rounding_needs_a_key() -> None:
    with pytest.raises(ValueError, match="needs a key"):
        quantize.to_levels(np.ones(1, np.float32), 1.0, 1, "stochastic")


def test_the_lift_keeps_denormal_scales_finite() -> None:
    tiny = np.float32(2.0**-149)
    lift, inv = quantize.reciprocal_step(float(tiny), 7)
    assert np.isfinite(inv)
    assert tiny * lift * inv == np.float32(7)
    assert quantize.reciprocal_step(1.0, 7) == (np.float32(1), np.float32(7))
