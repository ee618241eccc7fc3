"""The generator's statistics over 10⁶ draws a test; `rng_study` runs the same tests over 10⁸.

Each test takes the largest |z| of m comparisons and asks for a p-value above 10⁻⁵ (Bonferroni: |z| below
5.2 for m = 32, below 5.8 for m = 1024).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedquant.kernels import rng
from fedquant.keys import Key
from tests.kernels import rng_study as study

N = 10**6


def check(results: list[study.Result]) -> None:
    for r in results:
        assert r.passed, f"{r.test}: {r.quantity} {r.value:.6g}, expected {r.expected:g}, p={r.p:.3g}"


def test_bits_and_bytes_are_uniform() -> None:
    check(study.frequency(N))


def test_draws_of_a_stream_are_uncorrelated() -> None:
    check(study.serial(N))


@pytest.mark.parametrize("field", study.NEIGHBOURS)
def test_neighbouring_streams_are_uncorrelated(field: str) -> None:
    check(study.cross(field, N))


def test_any_flipped_bit_flips_every_bit_of_a_draw_half_the_time() -> None:
    check(study.avalanche(N))


def test_integers_of_any_bound_are_uniform() -> None:
    for bound in (2, 3, 10, 1000):
        counts = np.bincount(rng.integers(Key(5, part=bound % 100), N, bound), minlength=bound)
        check([study.chi_squares(f"integers below {bound}", N, counts[None])])


# ---- the tests find what they are for


def finalizer(x: Any) -> Any:
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return x ^ x >> np.uint32(16)


def counters(n: int, offset: int) -> Any:
    return np.arange(offset, offset + n, dtype=np.uint64).astype(np.uint32)


def test_shifted_copies_of_a_stream_are_found() -> None:
    # one keyed round: nearby seeds give one stream, shifted
    results = study.cross("seed", N, lambda key, n, at: finalizer(counters(n, at + key.seed)))
    assert [r.passed for r in results] == [False, False, False]


def test_a_biased_bit_is_found() -> None:
    def draw(key: Any, n: int, at: int) -> Any:
        x = rng.uint32(key, n, at)
        x[::50] |= np.uint32(1 << 7)  # a share of 0.51
        return x

    assert [r.passed for r in study.frequency(N, draw)] == [False, False]


def test_a_counter_without_a_mixer_is_found() -> None:
    def draw(key: Any, n: int, at: int) -> Any:
        return counters(n, at) * np.uint32(0x9E3779B9) + np.uint32(key.word & 0xFFFFFFFF)

    assert not all(r.passed for r in study.serial(N, draw))
    assert not any(r.passed for r in study.avalanche(N, draw))


def test_z_and_p_are_those_of_the_tables() -> None:
    # normal tables: P(|z| > 1.96) = 0.05, P(|z| > 3.2905) = 0.001; χ² tables: P(χ²(255) > 293.25) = 0.05
    assert study.shares("", 0, [5098], 10000).p == pytest.approx(0.05, rel=1e-3)
    assert study.correlations("", 0, [3.2905 * 10 / 12], 100).p == pytest.approx(0.001, rel=1e-3)
    # a tolerance moves ½: 0.5098 is as far from 0.5 ± 0.0048 as 0.505 from 0.5
    moved = study.shares("", 0, [5098], 10000, 0.0048)
    assert moved.p == pytest.approx(study.shares("", 0, [5050], 10000).p)
    assert study.shares("", 0, [5040], 10000, 0.0048).p == 1
    two = study.shares("", 0, [5098, 5000], 10000)
    assert two.p == pytest.approx(1 - 0.95**2, rel=1e-3)
    assert two.value == 0.5098
    counts = np.full((1, 256), 1000)
    counts[0, :2] += [1, -1] * np.array(round((293.25 * 1000 / 2) ** 0.5))
    result = study.chi_squares("", 0, counts)
    assert result.value == pytest.approx(293.25, rel=2e-3)
    assert result.p == pytest.approx(0.1, rel=0.05)  # two-sided
