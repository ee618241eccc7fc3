"""How many levels each number gets at a rate."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.codecs.uniform import split_levels


def log2_bounds(k: int) -> tuple[Fraction, Fraction]:
    """Rationals 2⁻⁴⁰ apart around log2 k, by repeated squaring of integers."""
    top = k.bit_length() - 1
    mantissa, bits, digits = k << (200 - top), 0, 40
    for _ in range(digits):
        mantissa = mantissa * mantissa >> 200
        bits <<= 1
        if mantissa >> 201:
            mantissa, bits = mantissa >> 1, bits | 1
    low = top + Fraction(bits, 1 << digits)
    return low, low + Fraction(1, 1 << digits)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(n=st.integers(1, 200), bits=st.floats(1, 12))
def test_levels_are_the_most_that_the_rate_allows(n: int, bits: float) -> None:
    (j, high), (rest, low) = split_levels(n, bits) if not bits.is_integer() else ((0, 0), (n, 2 ** int(bits)))
    assert j + rest == n
    assert j < n
    goal = n * Fraction(bits)
    assert j * log2_bounds(high or 1)[0] + rest * log2_bounds(low)[0] <= goal
    if high:
        assert high == low + 1
        assert (j + 1) * log2_bounds(high)[1] + (rest - 1) * log2_bounds(low)[1] >= goal


@pytest.mark.parametrize("n", [1, 3, 10, 64])
@pytest.mark.parametrize("quarters", range(4, 24))
def test_levels_by_whole_numbers(n: int, quarters: int) -> None:
    # R = quarters/4: ΠM ≤ 2^(nR) iff (ΠM)⁴ ≤ 2^(n·quarters), exactly
    runs = split_levels(n, quarters / 4)
    product = math.prod(levels**count for count, levels in runs)
    assert product**4 <= 2 ** (n * quarters)
    (_, m) = runs[-1]
    assert m**4 <= 2**quarters < (m + 1) ** 4
    assert product**4 * (m + 1) ** 4 > 2 ** (n * quarters) * m**4


def test_levels_at_the_edges_of_a_whole_rate() -> None:
    assert split_levels(1000, 3.0) == ((1000, 8),)
    assert split_levels(1000, math.nextafter(3.0, 4)) == ((0, 9), (1000, 8))
    assert split_levels(1000, math.nextafter(3.0, 2)) == ((999, 8), (1, 7))
    assert split_levels(0, 2.5) == ((0, 6), (0, 5))
    assert split_levels(1, 31.0) == ((1, 1 << 31),)
    (_, high), (_, low) = split_levels(2**32 - 1, math.nextafter(31.0, 0))
    assert (high, low) == (2**31, 2**31 - 1)
