from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.kernels import rng
from fedquant.keys import Key

KEY = Key(2024, round=3, sensor=4)
MASK = 0xFFFFFFFF


def mix(x: int) -> int:
    x = (x ^ (x >> 16)) * 0x7FEB352D & MASK
    x = (x ^ (x >> 15)) * 0x846CA68B & MASK
    return x ^ (x >> 16)


def test_draws_follow_their_formula() -> None:
    low, high = KEY.word & MASK, KEY.word >> 32
    for offset in (0, 5, 2**32 - 10):
        expected = [mix((mix((offset + i) ^ low) + high) & MASK) for i in range(10)]
        assert rng.uint32(KEY, 10, offset).tolist() == expected


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 40000), st.integers(0, 40000))
def test_a_draw_depends_on_its_index_alone(offset: int, n: int) -> None:
    whole = rng.uint32(KEY, 80000)
    assert np.array_equal(rng.uint32(KEY, n, offset), whole[offset : offset + n])


def test_uniform_is_flat_and_its_keys_are_independent() -> None:
    n = 1 << 18
    a, b = rng.uniform(KEY, n).astype(float), rng.uniform(KEY.fold(sensor=5), n).astype(float)
    assert rng.uniform(KEY, 4).dtype == np.float32
    assert a.min() >= 0
    assert a.max() < 1
    # sd of the mean is sqrt(1/12n), of the correlation sqrt(1/n); 5 sigma
    assert abs(a.mean() - 0.5) < 5 / np.sqrt(12 * n)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 5 / np.sqrt(n)
    counts = np.bincount((a * 64).astype(int), minlength=64)
    # chi-square with 63 degrees of freedom: mean 63, sd sqrt(126); 5 sigma
    chi = ((counts - n / 64) ** 2 / (n / 64)).sum()
    assert abs(chi - 63) < 5 * np.sqrt(126)


def test_uniform_keeps_the_upper_24_bits() -> None:
    assert np.array_equal(rng.uniform(KEY, 99), (rng.uint32(KEY, 99) >> 8).astype(np.float64) / 2**24)


def test_bits_are_balanced() -> None:
    n = 1 << 16
    draws = rng.uint32(KEY, n)
    for bit in range(32):
        # binomial(n, 1/2): sd sqrt(n)/2; 5 sigma
        assert abs(int((draws >> np.uint32(bit) & np.uint32(1)).sum()) - n / 2) < 5 * np.sqrt(n) / 2


def test_integers_stay_below_their_bound() -> None:
    assert set(rng.integers(KEY, 1000, 7).tolist()) == set(range(7))
    assert rng.integers(KEY, 5, 1).tolist() == [0] * 5
    assert rng.integers(KEY, 100, 1 << 31).max() < 1 << 31
    for bound in (0, (1 << 31) + 1):
        with pytest.raises(ValueError, match=f"bound={bound}"):
            rng.integers(KEY, 1, bound)


def test_permutation_and_choice() -> None:
    order = rng.permutation(KEY, 500)
    assert sorted(order.tolist()) == list(range(500))
    assert order.tolist() != list(range(500))
    assert rng.choice(KEY, 500, 20).tolist() == order[:20].tolist()
    assert rng.permutation(KEY, 0).tolist() == []
    kept = rng.order(KEY, 500)
    assert kept.tolist() == order.tolist()
    assert kept is rng.order(KEY, 500)
    assert not kept.flags.writeable
    assert rng.choice(KEY, 3, 0).tolist() == []
    for k in (-1, 4):
        with pytest.raises(ValueError, match=f"k={k} is outside"):
            rng.choice(KEY, 3, k)


def test_first_place_of_a_permutation_is_uniform() -> None:
    n = 3000
    first = [int(rng.permutation(KEY.fold(round=r), 5)[0]) for r in range(n)]
    # binomial(n, 1/5): sd sqrt(n·0.16); 5 sigma
    assert np.abs(np.bincount(first, minlength=5) - n / 5).max() < 5 * np.sqrt(n * 0.16)


@pytest.mark.parametrize(("n", "offset"), [(-1, 0), (1, -1), (2, 2**32 - 1)])
def test_draws_outside_the_counter_are_refused(n: int, offset: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        rng.uint32(KEY, n, offset)
