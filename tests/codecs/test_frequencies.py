from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.codecs.frequencies import normalize


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 50) | st.integers(0, 2**40), min_size=1, max_size=256), st.integers(8, 14))
def test_frequencies_are_exact_shares(weights: list[int], bits: int) -> None:
    given_ = np.array([*weights[:-1], max(1, weights[-1])])
    freq = normalize(given_, bits)
    assert freq.sum() == 1 << bits
    assert np.array_equal(freq > 0, given_ > 0)
    # no share above the fair one by 1 or more, other than those lifted to 1
    assert (freq <= np.maximum(1, given_.astype(float) / given_.sum() * 2**bits + 1)).all()
    assert np.array_equal(normalize(freq, bits), freq)
