from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.kernels.compiled import topk as compiled
from fedquant.kernels.reference import rng
from fedquant.kernels.reference import topk as reference
from fedquant.keys import Key

QUICK = settings(max_examples=40, deadline=None, derandomize=True)
DENORMAL = np.float32(1e-45)


def normal(n: int) -> np.ndarray:
    """Sums of uniforms, with few numbers in the tails."""
    parts = [rng.uniform(Key(i), n) for i in range(4)]
    return np.sum(parts, axis=0, dtype=np.float32) - np.float32(2)


def by_sorting(x: np.ndarray, k: int) -> np.ndarray:
    order = np.lexsort((np.arange(x.size), -np.abs(x.astype(np.float64))))
    return np.sort(order[:k])


def check(x: np.ndarray, k: int) -> None:
    found = compiled.largest(x, k)
    assert found.dtype == np.int64
    assert np.array_equal(found, by_sorting(x, k))
    assert np.array_equal(found, reference.largest(x, k))


@QUICK
@given(st.integers(0, 60_000), st.floats(0, 1), st.integers(0, 2**32))
def test_equals_a_full_sort(n: int, share: float, seed: int) -> None:
    x = rng.uniform(Key(seed), n) - np.float32(0.5)
    check(x * x * x, round(share**4 * n))  # mostly few


@QUICK
@given(st.integers(16_384, 50_000), st.integers(1, 9), st.integers(0, 50_000), st.integers(0, 2**32))
def test_ties_go_to_the_lower_index(n: int, values: int, k: int, seed: int) -> None:
    drawn = rng.integers(Key(seed), n, 2 * values + 1) - values
    check(drawn.astype(np.float32), min(k, n))
    check(np.where(rng.integers(Key(seed + 1), n, 40) == 0, drawn, 0).astype(np.float32), min(k // 20, n))


@pytest.mark.parametrize("k", [0, 1, 2, 3, 17, 20_000, 39_999, 40_000])
def test_zeros_denormals_and_the_largest_floats(k: int) -> None:
    x = np.zeros(40_000, np.float32)
    x[1::2] = -0.0
    x[100:110] = [DENORMAL, -DENORMAL] * 5
    x[30_000:30_005] = [-3 * DENORMAL, 3e38, -3.4028235e38, 1e-38, -1e-38]
    check(x, k)
    check(np.full(40_000, DENORMAL), k)


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.1, 0.9])
def test_more_than_one_thread_has_work(share: float) -> None:
    x = normal(1_100_001)
    check(x, round(share * x.size))
    x[::3] = x.max()  # the bound is a tie across all pieces
    check(x, round(share * x.size))


def test_parts_and_strides_of_vectors() -> None:
    x = normal(100_000)
    x.flags.writeable = False
    check(x[1001:51_004], 321)
    check(x[::-2], 321)


@pytest.mark.parametrize("n", [3, 30_000])
def test_k_outside_the_vector(n: int) -> None:
    for k in (-1, n + 1):
        with pytest.raises(ValueError, match=rf"topk: k={k} is outside \[0, n={n}\]"):
            compiled.largest(np.zeros(n, np.float32), k)
