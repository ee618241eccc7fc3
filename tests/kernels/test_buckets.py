from __future__ import annotations

from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant import kernels
from fedquant.errors import CodecError
from fedquant.kernels import buckets, pack, quantize
from fedquant.kernels.compiled import jit
from fedquant.kernels.reference import rng, scan
from fedquant.keys import Key

KEY = Key(91, sensor=3)
QUICK = settings(max_examples=60, deadline=None, derandomize=True)
GRIDS = [(1, 2), (1, 0), (2, 0), (3, 0), (7, 4), (7, 0), (100, 8), (127, 0), (300, 0), (40_000, 0)]
LENGTHS = st.lists(st.integers(1, 700), min_size=1, max_size=12)
SCALES = st.sampled_from([1.0, 2.0**-140, 2.0**-101, 1e38])


def cut(lengths: list[int], start: int = 0) -> buckets.I64:
    return np.cumsum([start, *lengths], dtype=np.int64)


def vector(bounds: buckets.I64) -> np.ndarray:
    """Numbers up to ±1, ±0.01, ±1 …; every fifth group is 0."""
    x = rng.uniform(KEY, int(bounds[-1])) * np.float32(2) - np.float32(1)
    for g, (a, b) in enumerate(pairwise(bounds.tolist())):
        x[a:b] *= np.float32(0 if g % 5 == 4 else 0.01 if g % 2 else 1)
    return x


@pytest.fixture(params=[0, buckets.LARGE], ids=["group by group", "in one call"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "LARGE", request.param)


either_way = pytest.mark.usefixtures("_either_way")


@QUICK
@given(LENGTHS, st.sampled_from(GRIDS), SCALES, st.integers(0, 40))
def test_one_call_is_group_by_group(
    lengths: list[int], grid: tuple[int, int], scale: float, start: int
) -> None:
    (s, bits), bounds = grid, cut(lengths, start)
    x = vector(bounds) * np.float32(scale)
    told = []
    for large in (0, 1 << 14):
        with patch.object(buckets, "LARGE", large):
            scales, squares = buckets.max_abs(x, bounds), buckets.sum_squares(x, bounds)
            data = bytes(buckets.encode(x, bounds, scales, s, bits, KEY))
            out = np.zeros(x.size, np.float32)
            buckets.decode(memoryview(data), bounds, scales, s, bits, out)
        told.append((scales.tobytes(), squares.tobytes(), data, out.tobytes()))
    assert told[0] == told[1]
    assert len(told[0][2]) == buckets.sizes(bounds, scales, s, bits).sum()
    expected = b""
    for (a, b), own in zip(pairwise(bounds.tolist()), scales.tolist(), strict=True):
        assert own == scan.max_abs(x[a:b])
        if own > 0:
            codes = quantize.to_levels(x[a:b], own, s, "stochastic", KEY, a)
            expected += pack.pack_bits(codes, bits) if bits else pack.pack_radix(codes, 2 * s + 1)
    assert told[0][2] == expected


@either_way
@pytest.mark.parametrize(("s", "bits"), [(1, 2), (1, 0), (2, 0), (6, 4), (300, 0)])
def test_what_is_never_written_is_refused(s: int, bits: int) -> None:
    bounds = cut([7, 513, 300])
    x = np.ones(820, np.float32)
    scales = buckets.max_abs(x, bounds)
    data = bytes(buckets.encode(x, bounds, scales, s, bits, KEY))
    out, ends = np.zeros(820, np.float32), np.cumsum(buckets.sizes(bounds, scales, s, bits))
    refused = 0
    for at in (*range(5), *(int(end) - 1 for end in ends)):
        bad = bytearray(data)
        bad[at] = 255
        try:
            buckets.decode(memoryview(bytes(bad)), bounds, scales, s, bits, out)
        except CodecError:
            refused += 1
    assert refused >= 3  # at least the last byte of each group, whose padding or top digits it breaks


@either_way
def test_a_group_that_is_not_finite_shows() -> None:
    x = np.ones(40, np.float32)
    x[[13, 30]] = np.nan, -np.inf
    found = buckets.max_abs(x, cut([10] * 4))
    assert found[0] == found[2] == 1
    assert np.isnan(found[1])
    assert found[3] == np.inf


@either_way
def test_no_group() -> None:
    none, empty = cut([]), np.zeros(0, np.float32)
    assert buckets.max_abs(empty, none).size == buckets.sum_squares(empty, none).size == 0
    assert bytes(buckets.encode(empty, none, empty, 1, 0, KEY)) == b""
    buckets.decode(memoryview(b""), none, empty, 1, 0, empty)


@pytest.mark.parametrize(("s", "bits"), [(1, 0), (7, 4)])
def test_threads_change_no_byte(s: int, bits: int) -> None:
    n = jit.MANY + 999
    bounds = cut([*[512] * (n // 512), n % 512])
    x = vector(bounds)
    scales = buckets.max_abs(x, bounds)
    before, told = kernels.get_threads(), []
    try:
        for threads in (1, 3):
            kernels.set_threads(threads)
            out = np.zeros(n, np.float32)
            data = bytes(buckets.encode(x, bounds, scales, s, bits, KEY))
            buckets.decode(memoryview(data), bounds, scales, s, bits, out)
            told.append((data, out.tobytes()))
    finally:
        kernels.set_threads(before)
    assert told[0] == told[1]
