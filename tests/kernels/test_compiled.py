"""The compiled generator, scans and quantizer give the reference's bits; test_fused has the fused paths."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedquant import kernels
from fedquant.kernels.compiled import jit, quantize, rng, scan
from fedquant.kernels.reference import quantize as reference_quantize
from fedquant.kernels.reference import rng as reference_rng
from fedquant.kernels.reference import scan as reference_scan
from fedquant.keys import Key

KEY = Key(77, round=3)
MANY = jit.MANY + 4321
QUICK = settings(max_examples=60, deadline=None, derandomize=True)
SIZES = st.integers(0, 5000) | st.sampled_from([255, 256, 257, 1023, 1024, 1025, 16384, 16385])
ROUNDINGS: tuple[quantize.Rounding, ...] = ("floor", "nearest", "stochastic")
TINIEST = float(np.finfo(np.float32).smallest_subnormal)
LARGEST = float(np.finfo(np.float32).max)


def vector(n: int, scale: float = 1.0) -> np.ndarray:
    """Numbers in [-scale, scale], both ends and both zeros among them."""
    x = (reference_rng.uniform(KEY, n) * np.float32(2) - np.float32(1)) * np.float32(scale)
    ends = np.float32([scale, -scale, 0.0, -0.0])
    x[: min(n, 4)] = ends[:n]
    return x


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = kernels.get_threads()
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("numba was started with fewer threads")
    kernels.set_threads(request.param)
    yield request.param
    kernels.set_threads(before)


@pytest.mark.parametrize(
    "module", [(rng, reference_rng), (scan, reference_scan), (quantize, reference_quantize)]
)
def test_the_public_names_are_the_reference_s(module: tuple) -> None:
    compiled, reference = module
    own = {k for k, v in vars(reference).items() if getattr(v, "__module__", "") == reference.__name__}
    assert {name for name in own if not name.startswith("_")} <= set(compiled.__all__)
    assert all(hasattr(compiled, name) for name in compiled.__all__)


# ---- generator


@QUICK
@given(SIZES, st.integers(0, 2**32 - 20000), st.integers(0, 2**64 - 1))
@example(0, 0, 0)
def test_draws(n: int, offset: int, seed: int) -> None:
    key = Key(seed)
    assert same(rng.uint32(key, n, offset), reference_rng.uint32(key, n, offset))
    assert same(rng.uniform(key, n, offset), reference_rng.uniform(key, n, offset))


@pytest.mark.parametrize("n", [0, 1, 5, 1000])
def test_draws_up_to_the_last(n: int) -> None:
    for module in (rng, reference_rng):
        with pytest.raises(ValueError, match="outside"):
            module.uniform(KEY, n, 2**32 - n + 1)
        with pytest.raises(ValueError, match="outside"):
            module.uint32(KEY, -1)
    assert same(rng.uint32(KEY, n, 2**32 - n), reference_rng.uint32(KEY, n, 2**32 - n))


def test_draws_on_many_threads(threads: int) -> None:
    assert same(rng.uint32(KEY, MANY, 7), reference_rng.uint32(KEY, MANY, 7))
    assert same(rng.uniform(KEY, MANY, 7), reference_rng.uniform(KEY, MANY, 7))


# ---- scans


@QUICK
@given(SIZES, st.sampled_from([np.float32, np.float64]), st.sampled_from([1.0, 1e-42, 3e38, 1e-20]))
def test_norms(n: int, dtype: type, scale: float) -> None:
    x = vector(n, scale).astype(dtype)
    for y in (x, x[1:], x[::3]):
        assert scan.max_abs(y) == reference_scan.max_abs(y)
        assert scan.sum_squares(y) == reference_scan.sum_squares(y)
        assert scan.sum_abs(y) == reference_scan.sum_abs(y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("at", [0, 300, 511, 999])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_norms_of_nonfinite_numbers(dtype: type, at: int, value: float) -> None:
    x = vector(1000).astype(dtype)
    x[500] = np.inf
    x[at] = value
    for name in ("max_abs", "sum_squares", "sum_abs"):
        got, expected = getattr(scan, name)(x), getattr(reference_scan, name)(x)
        assert got == expected or (np.isnan(got) and np.isnan(expected))
    assert scan.first_nonfinite(x) == min(at, 500)


def test_norms_on_many_threads(threads: int) -> None:
    for dtype in (np.float32, np.float64):
        x = vector(MANY).astype(dtype)
        x[MANY - 1] = -1.5
        assert scan.max_abs(x) == 1.5
        assert scan.sum_squares(x) == reference_scan.sum_squares(x)
        assert scan.sum_abs(x) == reference_scan.sum_abs(x)
        for at in (0, MANY // 2, MANY - 1):
            y = x.copy()
            y[[at, 9]] = np.nan, np.inf
            assert np.isnan(scan.max_abs(y))


# ---- quantization


@QUICK
@given(
    SIZES,
    st.floats(TINIEST, LARGEST, width=32),
    st.integers(1, 2**16),
    st.sampled_from(ROUNDINGS),
    st.integers(0, 2**32 - 20000),
)
@example(1000, TINIEST, 7, "stochastic", 0)
@example(1000, 1e-42, 65536, "nearest", 0)
@example(1000, 2.0**-100, 127, "floor", 0)
@example(1000, LARGEST, 1, "stochastic", 0)
@example(1000, 3e38, 127, "floor", 0)
def test_codes_and_levels(n: int, scale: float, s: int, rounding: quantize.Rounding, offset: int) -> None:
    x = vector(n, scale)
    codes = quantize.to_levels(x, scale, s, rounding, KEY, offset)
    assert same(codes, reference_quantize.to_levels(x, scale, s, rounding, KEY, offset))
    for width in (np.uint32, np.int64, np.uint8)[: 3 if s < 128 else 2]:
        levels = quantize.from_levels(codes.astype(width), scale, s)
        assert same(levels, reference_quantize.from_levels(codes.astype(width), scale, s))
    assert np.isfinite(levels).all()


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_numbers_beyond_the_scale_take_the_last_level(rounding: quantize.Rounding) -> None:
    x = np.float32([1.5, -1.5, 1e9, -1e9, 1e37, -1e37])
    for module in (quantize, reference_quantize):
        assert module.to_levels(x, 1.0, 7, rounding, KEY).tolist() == [14, 0] * 3


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_codes_on_many_threads(rounding: quantize.Rounding, threads: int) -> None:
    x = vector(MANY)
    codes = quantize.to_levels(x, 1.0, 100, rounding, KEY, 5)
    assert same(codes, reference_quantize.to_levels(x, 1.0, 100, rounding, KEY, 5))
    assert same(quantize.from_levels(codes, 1.0, 100), reference_quantize.from_levels(codes, 1.0, 100))


def test_codes_up_to_the_last_draw() -> None:
    x, offset = vector(3000), 2**32 - 3000
    codes = quantize.to_levels(x, 1.0, 7, "stochastic", KEY, offset)
    assert same(codes, reference_quantize.to_levels(x, 1.0, 7, "stochastic", KEY, offset))
    for module in (quantize, reference_quantize):
        with pytest.raises(ValueError, match="outside"):
            module.to_levels(x, 1.0, 7, "stochastic", KEY, offset + 1)
        with pytest.raises(ValueError, match="needs a key"):
            module.to_levels(x, 1.0, 7, "stochastic")


def test_every_second_number_of_an_array() -> None:
    x = vector(2001)[::2]
    codes = quantize.to_levels(x, 1.0, 7)
    assert same(codes, reference_quantize.to_levels(x, 1.0, 7))
    assert same(quantize.from_levels(codes[::3], 1.0, 7), reference_quantize.from_levels(codes[::3], 1.0, 7))


# ---- threads


def test_spread_cuts_at_multiples_of_the_grain(threads: int) -> None:
    for n in (jit.MANY, MANY, 3 * MANY):
        parts = jit.spread(lambda a, b: (a, b), n, 512)
        assert parts[0][0] == 0
        assert parts[-1][1] == n
        assert all(a[1] == b[0] and b[0] % 512 == 0 for a, b in pairwise(parts))
        assert (len(parts) > 1) == (threads > 1)
    assert jit.spread(lambda a, b: (a, b), jit.MANY - 1, 512) == [(0, jit.MANY - 1)]
    assert jit.spread(lambda a, b: (a, b), 0) == [(0, 0)]
