from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.kernels import rng, topk
from fedquant.keys import Key

DENORMAL = 1e-45
VALUES = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, DENORMAL, -DENORMAL, 2e-45, 3.4028235e38]),
)


def slow(x: np.ndarray, k: int) -> list[int]:
    order = sorted(range(x.size), key=lambda i: (-abs(float(x[i])), i))
    return sorted(order[:k])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(VALUES, max_size=40), st.data())
def test_largest_equals_a_full_sort(values: list[float], data: st.DataObject) -> None:
    x = np.array(values, np.float32)
    k = data.draw(st.integers(0, x.size))
    found = topk.largest(x, k)
    assert found.dtype == np.int64
    assert found.tolist() == slow(x, k)


@pytest.mark.parametrize(
    ("values", "k", "found"),
    [
        ([1, -1, 1, -1], 2, [0, 1]),
        ([1, -2, 2, 2, 3], 3, [1, 2, 4]),
        ([0.0, -0.0, 0.0], 1, [0]),
        ([-0.0, DENORMAL, 0.0, -2e-45], 2, [1, 3]),
        ([0.0, -0.0, DENORMAL], 2, [0, 2]),
        ([3.4028235e38, -3.4028235e38, 1e38], 1, [0]),
        ([], 0, []),
        ([5], 0, []),
        ([5], 1, [0]),
        ([0, 0], 2, [0, 1]),
    ],
)
def test_ties_zeros_and_denormals(values: list[float], k: int, found: list[int]) -> None:
    assert topk.largest(np.array(values, np.float32), k).tolist() == found


@pytest.mark.parametrize("k", [1, 7, 300, 2999, 3000])
def test_many_ties(k: int) -> None:
    x = (rng.integers(Key(3), 3000, 7) - 3).astype(np.float32)
    before = x.copy()
    assert topk.largest(x, k).tolist() == slow(x, k)
    assert np.array_equal(x, before)


def test_a_part_of_a_vector() -> None:
    x = rng.uniform(Key(4), 100) - np.float32(0.5)
    assert topk.largest(x[10:60], 9).tolist() == slow(x[10:60], 9)


@pytest.mark.parametrize("k", [-1, 4])
def test_k_outside_the_vector(k: int) -> None:
    with pytest.raises(ValueError, match=rf"topk: k={k} is outside \[0, n=3\]"):
        topk.largest(np.zeros(3, np.float32), k)
