"""The error of QCS: unbiased, and within the bounds of the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedquant.codecs.base import Spec
from fedquant.codecs.qcs import QCS
from fedquant.codecs.qcs_design import gamma
from tests.codecs.qcs_cases import KEY, gaussian, through


def errors(codec: QCS, x: np.ndarray, trials: int) -> np.ndarray:
    """float64[trials, size]: what comes back minus x, over as many rounds."""
    return np.stack([through(codec, x, KEY.fold(round=t)).astype(float) - x for t in range(trials)])


def nmse(e: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """(‖e‖²/‖x‖² on average, five standard deviations of that average)."""
    each = (e**2).sum(axis=1) / (x.astype(float) ** 2).sum()
    return float(each.mean()), float(5 * each.std() / np.sqrt(len(each)))


UNBIASED = [
    QCS(),
    QCS(q=0.5),
    QCS(q=7.5),
    QCS(k_over_n=0.5),
    QCS(order=100, k=37, q=2.0),
    QCS(order=128, scale="bfloat16"),
    QCS(order=16, k=1),
    QCS(order=48, k=2, q=0.5),
    QCS(gain=32, order="auto"),
]


@pytest.mark.parametrize("codec", UNBIASED, ids=str)
@pytest.mark.parametrize("n", [256, 300])
def test_errors_average_out_and_stay_within_gamma(codec: QCS, n: int) -> None:
    trials, x = 400, gaussian(n)
    e = errors(codec, x, trials)
    measured, margin = nmse(e, x)
    bound = codec.variance_bound(Spec(n))
    assert bound is not None
    assert measured <= bound + margin
    # The mean error has trials times less energy. Its sum of n squares is within 5·sqrt(2/n) of that if
    # they are independent; a partition's share k/n (at least 1/16 here) leaves that many fewer of them.
    share = min(run.k / run.order for run in codec.plan(Spec(n)).runs)
    mean = (e.mean(axis=0) ** 2).sum() / (x.astype(float) ** 2).sum()
    assert mean <= measured / trials * (1 + 5 * np.sqrt(2 / (n * share)))


def test_errors_of_a_spike_stay_within_gamma() -> None:
    x = np.zeros(256, np.float32)
    x[7] = 3
    for codec in (QCS(), QCS(q=0.5), QCS(k=64)):
        measured, margin = nmse(errors(codec, x, 200), x)
        bound = codec.variance_bound(Spec(256))
        assert bound is not None
        assert measured <= bound + margin


def test_the_error_of_256_ternary_coefficients() -> None:
    x = gaussian(256)
    measured, margin = nmse(errors(QCS(), x, 300), x)
    # ς²/12 a coefficient with ς = ‖v‖∞: about 256/12 times E max² of 256 normal numbers, which is 9.5/256
    assert abs(measured - 0.79) < 0.02 + margin
    assert QCS().variance_bound(Spec(256)) == pytest.approx(256 / 4 * math.log(256) / 255)


@pytest.mark.parametrize(("q", "k_over_n"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.25)])
def test_mmse_is_closer_and_biased(q: float, k_over_n: float) -> None:
    x = gaussian(300)
    free, _ = nmse(errors(QCS(q=q, k_over_n=k_over_n), x, 200), x)
    codec = QCS(q=q, k_over_n=k_over_n, estimator="mmse")
    close, margin = nmse(errors(codec, x, 200), x)
    g = codec.gamma(Spec(300))
    assert close < free
    assert close <= g / (g + 1) + margin
    assert codec.variance_bound(Spec(300)) is None


def test_errors_of_two_workers_are_uncorrelated() -> None:
    n, trials, x = 256, 300, gaussian(256)
    pairs = []
    for t in range(trials):
        a, b = (through(QCS(), x, KEY.fold(round=t, sensor=s)).astype(float) - x for s in (1, 2))
        pairs.append((a @ b) / np.sqrt((a @ a) * (b @ b)))
    # the cosine of two independent directions in n dimensions has sd 1/sqrt(n); 5 sigma of the mean
    assert abs(np.mean(pairs)) < 5 / np.sqrt(n * trials)


def test_gamma() -> None:
    assert gamma(256, 256, 3) == pytest.approx(1.3917, abs=1e-4)
    assert gamma(64, 1, 2) == 63
    assert gamma(64, 16, 2) == pytest.approx(3 + 64 * math.log(16) / 15)
    assert gamma(64, 16, 16) == pytest.approx(3 + 64 / (4 * 7.5**2) * math.log(16) / 15)
    assert gamma(64, 64, 3, short=True) == pytest.approx(gamma(64, 64, 3) * (1 + 2**-7) ** 2)
