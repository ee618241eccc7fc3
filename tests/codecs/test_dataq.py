from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.codecs.data import DataSpec
from fedquant.codecs.dataq import DataQ
from fedquant.codecs.labels import labels_size
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key

KEY = Key(31)
QUICK = settings(max_examples=50, deadline=None, derandomize=True)


def batch(n: int, d: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, DataSpec]:
    x = (rng.uniform(KEY, n * d) * np.float32(2) - np.float32(1)) * np.float32(scale)
    return x.reshape(n, d), np.arange(n) % 7, DataSpec((d,), n, 7)


def through(codec: DataQ, x: np.ndarray, y: np.ndarray, spec: DataSpec) -> np.ndarray:
    back, labels = codec.decode(codec.encode(x, y, spec, KEY), spec, KEY)
    assert labels.tolist() == y.tolist()
    return back


@QUICK
@given(
    st.integers(2, 2**16),
    st.sampled_from(["floor", "nearest", "stochastic"]),
    st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_errors_stay_within_one_step(m: int, rounding: str, scale: float) -> None:
    x, y, spec = batch(16, 20, scale)
    back = through(DataQ(m, rounding=rounding), x, y, spec)
    top = float(np.abs(x).max())
    step = top / (m - 1) * (0.5 if rounding == "nearest" else 1)
    slack = top * 2.0**-21  # float32 roundings
    assert np.abs(back.astype(float) - x).max() <= step + slack
    if rounding == "floor":
        assert (np.abs(back) <= np.abs(x) + np.float32(slack)).all()


@QUICK
@given(st.integers(2, 2**16), st.sampled_from(["floor", "nearest"]))
def test_coding_what_was_decoded_changes_no_level(m: int, rounding: str) -> None:
    codec = DataQ(m, rounding=rounding)
    x, y, spec = batch(16, 20)
    once = through(codec, x, y, spec)
    twice = through(codec, once, y, spec)
    # the scale itself is rounded to float32 on the way
    np.testing.assert_allclose(twice, once, rtol=2.0**-22, atol=0)


@QUICK
@given(st.integers(0, 60), st.integers(1, 300), st.integers(2, 512))
def test_payloads_are_as_short_as_promised(n: int, d: int, m: int) -> None:
    x, y, _ = batch(n, d)
    spec = DataSpec((d,), 60, 7)
    payload = DataQ(m).encode(x, y, spec, KEY)
    assert len(payload) <= n * d * math.log2(2 * m - 1) / 8 * 1.008 + labels_size(n, spec) + 32
    short = DataQ(m).encode(np.abs(x), y, spec, KEY)
    assert len(short) <= n * d * math.log2(m) / 8 * 1.008 + labels_size(n, spec) + 32


@pytest.mark.parametrize("m", [2, 8, 16, 1000])
def test_data_without_signs_use_half_the_alphabet(m: int) -> None:
    x, y, spec = batch(32, 50)
    unsigned = np.abs(x)
    assert len(DataQ(m).encode(unsigned, y, spec, KEY)) < len(DataQ(m).encode(x, y, spec, KEY))
    signed = unsigned.copy()
    signed[0, 0] = -signed[0, 0]
    expected = np.abs(through(DataQ(m), signed, y, spec))
    assert np.array_equal(through(DataQ(m), unsigned, y, spec), expected)


def test_known_values() -> None:
    x = np.array([[-1.0, -0.4, 0.0, 0.49, 0.5, 0.9]], np.float32)
    y, spec = np.array([3]), DataSpec((6,), 1, 7)
    assert through(DataQ(3), x, y, spec).tolist() == [[-1.0, 0.0, 0.0, 0.0, 0.5, 0.5]]
    assert through(DataQ(3, rounding="nearest"), x, y, spec).tolist() == [[-1.0, -0.5, 0.0, 0.5, 0.5, 1.0]]


def test_stochastic_rounding_is_unbiased() -> None:
    n = 20000
    x = np.full((n, 1), 0.3, np.float32)
    x[0] = 1.0
    back = through(DataQ(3, rounding="stochastic"), x, np.zeros(n, int), DataSpec((1,), n, 1))
    # levels 0 and 1/2: sd at most 1/4; 5 sigma of the mean
    assert abs(back[1:].astype(float).mean() - 0.3) < 5 * 0.25 / math.sqrt(n)


def test_a_decoder_need_not_know_the_rounding() -> None:
    x, y, spec = batch(4, 5)
    payload = DataQ(8, rounding="nearest").encode(x, y, spec, KEY)
    back, _ = DataQ(8).decode(payload, spec, KEY)
    assert np.array_equal(back, through(DataQ(8, rounding="nearest"), x, y, spec))
    with pytest.raises(CodecError, match="checksum differs"):
        DataQ(9).decode(payload, spec, KEY)


def test_zeros_take_no_codes() -> None:
    _, y, spec = batch(32, 50)
    payload = DataQ().encode(np.zeros((32, 50), np.float32), y, spec, KEY)
    assert len(payload) <= 14 + labels_size(32, spec)


@pytest.mark.parametrize("m", [8, 26, 32, 50, 63, 300])
def test_the_largest_float_comes_back(m: int) -> None:
    top = np.full((1, 4), np.finfo(np.float32).max, np.float32)
    spec = DataSpec((4,), 1, 2)
    x, _ = DataQ(m).decode(DataQ(m).encode(top, np.zeros(1, int), spec, KEY), spec, KEY)
    np.testing.assert_allclose(x, top, rtol=1e-6)


def test_labels_that_are_no_classes_are_refused() -> None:
    spec = DataSpec((4,), 1, 2)
    with pytest.raises(CodecError, match="expected integers"):
        DataQ().encode(np.ones((1, 4), np.float32), np.array([0.5]), spec, KEY)
    with pytest.raises(CodecError, match="does not fit float16"):
        DataQ().encode(np.ones((1, 4), np.float32), np.array([1e9]), DataSpec((4,), 1, "float16"), KEY)
