from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant import wire
from fedquant.codecs.base import Spec
from fedquant.codecs.dataq_gradient import DataQGradient
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key, Purpose
from fedquant.wire import NO_KNOBS

KEY = Key(3, purpose=Purpose.GRADIENT)
QUICK = settings(max_examples=60, deadline=None, derandomize=True)


def gradient(h: int, power: int = 1, seed: int = 0) -> np.ndarray:
    return (rng.uniform(Key(5, sensor=seed), h) * np.float32(2) - np.float32(1)) ** power


def gaussian(h: int) -> np.ndarray:
    """Sums of twelve uniform numbers."""
    return (rng.uniform(Key(6), 12 * h).reshape(12, h).sum(axis=0) - 6).astype(np.float32)


def body(codec: DataQGradient, x: np.ndarray, key: Key = KEY) -> bytes:
    spec = Spec(x.size)
    return wire.unframe(codec.encode(x, spec, key)[0], codec.context(spec, key, NO_KNOBS))


def through(codec: DataQGradient, x: np.ndarray, key: Key = KEY) -> np.ndarray:
    spec = Spec(x.size)
    return codec.decode(codec.encode(x, spec, key)[0], spec, key)


@pytest.mark.parametrize(
    ("h", "m"), [(0, 2), (1, 2), (2, 3), (16, 5), (17, 6), (10000, 101), (2**32 - 1, 65537)]
)
def test_the_default_is_the_root_of_the_size_plus_one(h: int, m: int) -> None:
    codec = DataQGradient()
    assert codec.levels(Spec(h)) == m
    assert DataQGradient(m=9).levels(Spec(h)) == 9
    bound = codec.variance_bound(Spec(h))
    assert bound is not None
    assert bound <= 0.25


@QUICK
@given(st.integers(1, 3000), st.sampled_from([1, 3, 9]), st.sampled_from([None, 2, 8, 1000, 65536]))
def test_errors_stay_within_a_step_and_b(h: int, power: int, m: int | None) -> None:
    codec, x = DataQGradient(m), gradient(h, power)
    error = through(codec, x).astype(float) - x
    b = float(np.linalg.norm(x.astype(float)))
    s = codec.levels(Spec(h)) - 1
    assert np.abs(error).max() <= b / s * (1 + 2.0**-20)
    if m is None:
        assert np.linalg.norm(error) <= b * (1 + 2.0**-20)  # Remark 3 has 2B


@QUICK
@given(st.integers(1, 3000), st.sampled_from([1, 3, 9]))
def test_bits_are_bounded_for_every_gradient(h: int, power: int) -> None:
    x = gradient(h, power)
    size = len(body(DataQGradient(), x))
    if h >= 64:
        assert 8 * size <= math.log2(2 * h) + 2 * h * math.log2(3 * math.e)  # Remark 3
    assert 8 * size <= 3.3 * h + 400


@pytest.mark.parametrize("h", [200, 5000, 200_000])
def test_gaussian_gradients_take_about_two_bits_a_number(h: int) -> None:
    # levels are N(0, 1) rounded at random: 2.16 bit
    assert 8 * len(body(DataQGradient(), gaussian(h))) <= 2.17 * h + 400


def test_it_is_unbiased_with_the_variance_promised() -> None:
    h, n = 12, 4000
    codec, x = DataQGradient(), gradient(h)
    b2 = float((x.astype(float) ** 2).sum())
    decoded = np.stack([through(codec, x, KEY.fold(round=i)) for i in range(n)]).astype(float)
    step = math.sqrt(b2) / (codec.levels(Spec(h)) - 1)
    # a level is up to ½ step from its mean, in sd: 5 sigma of the mean of n
    assert np.abs(decoded.mean(axis=0) - x).max() <= 5 * step / 2 / math.sqrt(n)
    bound = codec.variance_bound(Spec(h))
    assert bound is not None
    # ‖error‖² is at most h·step²: 5 sigma of its mean
    assert ((decoded - x) ** 2).sum(axis=1).mean() <= bound * b2 + 5 * h * step**2 / math.sqrt(n)


def test_each_code_is_used() -> None:
    assert body(DataQGradient(), gaussian(40))[4] == 0
    assert body(DataQGradient(), gaussian(500))[4] == 1
    for x in (np.eye(1, 500, dtype=np.float32)[0], gaussian(500)):
        for m in (None, 2, 300):
            assert (np.sign(through(DataQGradient(m), x)) * np.sign(x) >= 0).all()


def test_zeros_take_their_scale_alone() -> None:
    assert body(DataQGradient(), np.zeros(500, np.float32)) == bytes(4)
    assert body(DataQGradient(), np.zeros(0, np.float32)) == bytes(4)


def test_a_norm_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CodecError, match=r"dataq_gradient: the l2 norm .* does not fit float32"):
        body(DataQGradient(), np.full(4, 3e38, np.float32))


@pytest.mark.parametrize(
    "bad", [b"", b"\0\0\x80", b"\0\0\x80\x3f", b"\0\0\x80\x3f\2", bytes(5), b"\0\0\x80\xbf\0"]
)
def test_bad_bodies_are_refused(bad: bytes) -> None:
    codec, spec = DataQGradient(), Spec(40)
    with pytest.raises(CodecError):
        codec.decode(wire.frame(bad, codec.context(spec, KEY, NO_KNOBS)), spec, KEY)


@pytest.mark.parametrize("h", [1, 9, 300])
def test_hostile_bodies_are_refused_or_finite(h: int) -> None:
    codec, spec = DataQGradient(), Spec(h)
    true = body(codec, gradient(h))
    refused = 0
    for trial in range(300):
        key = KEY.fold(round=trial)
        noise = (rng.uint32(key, len(true) + trial % 3) & 0xFF).astype(np.uint8).tobytes()
        bad = true[: 4 + trial % 2] + noise[4 + trial % 2 :]
        try:
            x = codec.decode(wire.frame(bad, codec.context(spec, key, NO_KNOBS)), spec, key)
        except CodecError:
            refused += 1
        else:
            assert np.isfinite(x).all()
    assert refused
