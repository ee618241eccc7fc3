"""ECQ with a subtracted dither: without bias."""

from __future__ import annotations

import numpy as np
import pytest

from fedquant.codecs.base import Spec
from fedquant.codecs.ecq import ECQ
from fedquant.keys import Key
from tests.draws import heavy, normal

KEY = Key(31)


def energy(x: np.ndarray) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def through(codec: ECQ, x: np.ndarray, key: Key = KEY) -> tuple[int, np.ndarray]:
    """(bytes of the payload, what is decoded)."""
    payload, _ = codec.encode(x, Spec(x.size), key)
    return len(payload), codec.decode(payload, Spec(x.size), key)


@pytest.mark.parametrize("target", [0.001, 0.1, 3.0])
def test_the_mean_over_keys_is_the_vector(target: float) -> None:
    codec, x, n = ECQ(nmse=target, dither=True), normal(40), 1000
    decoded = np.stack([through(codec, x, KEY.fold(sensor=i))[1] for i in range(n)]).astype(np.float64)
    deviation = np.sqrt(target * energy(x) / x.size)  # of a number, in the mean over numbers
    # 5 sigma of the mean of n payloads, for the number whose sigma is largest: √12/2 times the mean's at most
    assert np.abs(decoded.mean(axis=0) - x).max() < 5 * np.sqrt(3) * deviation / np.sqrt(n)
    errors = np.square(decoded - x).sum(axis=1) / energy(x)
    bound = codec.variance_bound(Spec(x.size))
    assert bound == pytest.approx(target, rel=1e-4)
    # the mean of n errors, each with a standard deviation of `spread`: 5 sigma
    spread = 5 * errors.std() / np.sqrt(n)
    assert 0.97 * target - spread < errors.mean() < target + spread  # steps of two bytes are up to .8 % finer


def test_the_error_is_uniform_and_knows_nothing_of_x() -> None:
    x = normal(50_000)
    _, y = through(ECQ(nmse=0.05, dither=True), x)
    step = float(np.sqrt(12 * 0.05 * energy(x) / x.size))
    error = y.astype(np.float64) - x
    assert np.abs(error).max() <= step / 2 * (1 + 2.0**-20)
    # the variance of n uniform numbers has a standard deviation of step²/12·√(4/5n): 5 sigma
    assert error.var() == pytest.approx(step**2 / 12, rel=5 * np.sqrt(0.8 / x.size))
    assert abs(np.corrcoef(error, x)[0, 1]) < 5 / np.sqrt(x.size)


def test_few_bytes_without_bias_send_few_numbers_and_no_noise() -> None:
    x = heavy(20_000)
    used, y = through(ECQ(bytes=100, dither=True), x)
    assert used <= 100
    assert len(np.unique(np.abs(y))) == 2
    assert np.count_nonzero(y) < 80


def test_variance_bounds() -> None:
    spec = Spec(100)
    assert ECQ().variance_bound(spec) is None
    assert ECQ(bytes=100, dither=True).variance_bound(spec) is None
    assert ECQ(dither=True).variance_bound(spec) == pytest.approx(0.01, rel=1e-5)
    assert ECQ(dither=True).variance_bound(spec, {"nmse_ppb": 10**10}) == pytest.approx(10, rel=1e-5)
    assert ECQ(dither=True).variance_bound(spec, {"bytes": 100}) is None
