from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedquant import kernels
from fedquant.kernels.compiled import jit
from fedquant.kernels.compiled import steps as compiled
from fedquant.kernels.reference import rng
from fedquant.kernels.reference import steps as reference
from fedquant.keys import Key

KEY = Key(91, sensor=3)
QUICK = settings(max_examples=80, deadline=None, derandomize=True)
WIDTHS = st.floats(2.0**-149, 2.0**127, width=32) | st.sampled_from([1.0, 0.25, 1e-42, 3e38])
CENTROIDS = st.lists(st.integers(-128, 127), min_size=3, max_size=3)
TOP = float(np.finfo(np.float32).max)
both = pytest.mark.parametrize("kernels", [compiled, reference])


def vector(n: int, width: float, spread: float = 20.0) -> np.ndarray:
    """Numbers of up to `spread` steps, ties and both zeros among them."""
    draws = rng.uniform(KEY.fold(stream=1), n) * np.float32(2) - np.float32(1)
    with np.errstate(over="ignore"):
        x = np.clip(draws * np.float32(spread) * np.float32(width), -TOP, TOP)
        ties = np.float32([0.0, -0.0, 0.5, -0.5, 1.5]) * np.float32(width)
        x[: min(n, 5)] = np.clip(ties, -TOP, TOP)[:n]
    return x


@QUICK
@given(
    st.integers(0, 300), WIDTHS, st.sampled_from([0.5, 27 / 64, 0.25]), CENTROIDS, st.integers(0, 2**32 - 400)
)
@example(300, 1e-45, 0.5, [-128, 127, 0], 2**32 - 300)
def test_compiled_equals_reference(n: int, width: float, rho: float, c: list[int], offset: int) -> None:
    x, centroids = vector(n, width), np.array(c, np.int8)
    for key in (None, KEY):
        q = reference.to_steps(x, width, rho, key, offset)
        assert q.dtype == np.int32
        assert np.array_equal(q, compiled.to_steps(x, width, rho, key, offset))
        y = reference.from_steps(q, width, centroids, key, offset)
        assert y.dtype == np.float32
        assert y.tobytes() == compiled.from_steps(q, width, centroids, key, offset).tobytes()
        assert np.isfinite(y).all()
    assert reference.moments(x, q, width).tobytes() == compiled.moments(x, q, width).tobytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_many_numbers_take_threads_and_the_same_bytes(threads: int) -> None:
    before = kernels.get_threads()
    if threads > before:
        pytest.skip(f"numba has {before} thread")
    x, centroids = vector(jit.MANY + 4321, 0.1), np.array([-9, 3, -1], np.int8)
    kernels.set_threads(threads)
    try:
        for key in (None, KEY):
            q = compiled.to_steps(x, 0.1, 0.4, key, 7)
            assert np.array_equal(q, reference.to_steps(x, 0.1, 0.4, key, 7))
            y = compiled.from_steps(q, 0.1, centroids, key, 7)
            assert y.tobytes() == reference.from_steps(q, 0.1, centroids, key, 7).tobytes()
        assert compiled.moments(x, q, 0.1).tobytes() == reference.moments(x, q, 0.1).tobytes()
    finally:
        kernels.set_threads(before)


@both
def test_biased_rounding_is_symmetric_with_a_wide_zero(kernels: ModuleType) -> None:
    x = np.float32([0, 0.49, 0.5, 0.74, 0.75, 1.74, 1.75, 100.75])
    q = kernels.to_steps(x, 1.0, 0.25)
    assert q.tolist() == [0, 0, 0, 0, 1, 1, 2, 101]
    assert kernels.to_steps(-x, 1.0, 0.25).tolist() == (-q).tolist()
    assert kernels.to_steps(x, 1.0).tolist() == [0, 0, 1, 1, 1, 2, 2, 101]


@both
def test_centroids_shift_away_from_zero(kernels: ModuleType) -> None:
    q, c = np.array([0, 1, -1, 2, -2, 3, -3, 7], np.int32), np.array([-64, 32, 127], np.int8)
    y = kernels.from_steps(q, 4.0, c)
    assert y.tolist() == [0, 3, -3, 8.5, -8.5, 12 + 127 / 64, -12 - 127 / 64, 28 + 127 / 64]
    assert kernels.from_steps(q, 4.0).tolist() == (4 * q).tolist()


@both
def test_what_would_overflow_is_cut(kernels: ModuleType) -> None:
    q = np.array([2**31 - 1, -(2**31) + 1, 2, -2, 1], np.int32)
    for key in (None, KEY):
        y = kernels.from_steps(q, 3e38, key=key)
        assert y[:4].tolist() == [TOP, -TOP, TOP, -TOP]


@both
def test_dither_leaves_a_uniform_error_of_half_a_step_at_most(kernels: ModuleType) -> None:
    x = vector(20000, 1.0, 3.0)
    y = kernels.from_steps(kernels.to_steps(x, 0.5, key=KEY), 0.5, key=KEY)
    error = (y.astype(np.float64) - x) / 0.5
    assert np.abs(error).max() <= 0.5 + 2.0**-20
    histogram = np.histogram(error, 10, (-0.5, 0.5))[0]
    # 2000 a bin, binomial with p = .1: sigma is √(20000·.1·.9) = 42; 5 sigma
    assert np.abs(histogram - 2000).max() < 5 * 42.5
    # independent of where x lies: |correlation| < 5/√n
    assert abs(np.corrcoef(error, x)[0, 1]) < 5 / np.sqrt(20000)


@both
def test_draws_go_by_offset(kernels: ModuleType) -> None:
    x = vector(100, 1.0)
    whole = kernels.to_steps(x, 0.7, key=KEY)
    parts = [kernels.to_steps(x[a : a + 30], 0.7, key=KEY, offset=a) for a in range(0, 100, 30)]
    assert np.array_equal(whole, np.concatenate(parts))
    y = kernels.from_steps(whole, 0.7, key=KEY)
    assert np.array_equal(y[40:], kernels.from_steps(whole[40:], 0.7, key=KEY, offset=40))


@both
@pytest.mark.parametrize("n", [0, 1, 1000, reference.CHUNK + 3])
def test_moments(kernels: ModuleType, n: int) -> None:
    x = vector(n, 0.1, 5.0)
    q = kernels.to_steps(x, 0.1, 0.4)
    k = np.abs(q).astype(float)
    e = np.abs(x).astype(float) - k * 0.1
    rows = [
        np.stack([np.ones(n), k * k, e, e * e, k * e])[:, np.minimum(k, 3) == c].sum(axis=1) for c in range(4)
    ]
    np.testing.assert_allclose(kernels.moments(x, q, 0.1), rows, rtol=1e-9, atol=1e-9)
