"""The verdicts on the QCS paper's Figures 2 to 5, on made-up measurements on both sides of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the extra `report`")
pytest.importorskip("torch", reason="needs the extra `torch`")

from fedquant.codecs.base import Spec
from fedquant.codecs.qcs import QCS
from fedquant.differential.normal import normal
from fedquant.errors import CodecError
from fedquant.keys import Key
from fedquant.reproduce import (
    qcs_regression,
    qcs_regression_runs,
    qcs_relative_error,
    qcs_time,
    qcs_variance,
    report,
    sizes,
)
from fedquant.reproduce.qcs_regression_runs import Descent
from fedquant.reproduce.report import Claim
from fedquant.scenario import load

NEVER = math.inf


def failing(claims: Sequence[Claim]) -> set[int]:
    """The places of those that do not hold; none may be untold."""
    assert all(claim.holds is not None for claim in claims)
    return {i for i, claim in enumerate(claims) if not claim.holds}


def verdict(claims: Sequence[Claim], text: str) -> bool | None:
    """That of the one claim which has the text."""
    (found,) = [claim.holds for claim in claims if text in claim.text]
    return found


def test_each_verdict_has_its_words() -> None:
    lines = report.verdicts([Claim("a", "1", True), Claim("b", "2", False), Claim("c", "3", None)])
    assert lines[2:] == [
        "| a | 1 | holds |",
        "| b | 2 | **does not hold** |",
        "| c | 3 | **cannot be told** |",
    ]


# ---- Figure 2

STEPS = (0.04, 0.05, 0.10, 0.12)
ARRIVALS = {
    "no quantization": (50, 40, 20, 10),
    "QSGD": (100, 90, NEVER, NEVER),
    "Sparse-SGD": (100, 90, NEVER, NEVER),
    "QCS": (60, 50, 45, NEVER),
    "QCS, fewer bits": (90, 95, NEVER, NEVER),
    "Sparse-SGD, plainly coded": (400, NEVER, NEVER, NEVER),
    "QSGD, entropy-coded": (30, 30, 30, 30),
}


def descents(changes: Mapping[str, Sequence[float]]) -> list[Descent]:
    """One run a scheme and step size, which takes twice as long to 1e-6 as to 1e-3."""
    found = []
    for scheme, arrivals in {**ARRIVALS, **changes}.items():
        for step, arrival in zip(STEPS, arrivals, strict=True):
            loss = np.ones(1000)
            if math.isfinite(arrival):
                loss[int(arrival) - 1 :] = 1e-3
                loss[2 * int(arrival) - 1 :] = 1e-6
            found.append(Descent(scheme, step, 0, loss, 600.0))
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"QCS": (60, 50, 45, 44)}, {0}),
        ({"QSGD": (100, 90, 90, NEVER)}, {1}),
        ({"Sparse-SGD": (100, 90, 90, NEVER)}, {2}),
        ({"QSGD": (60, 90, NEVER, NEVER), "QCS": (60, 50, 36, NEVER)}, {3}),  # as quick at one step size
        ({"Sparse-SGD": (100, 45, NEVER, NEVER)}, {3, 4, 7}),  # as quick at its best
        ({"QCS": (60, 50, 55, NEVER)}, {5}),  # 55 > 0.6 · 90
        ({"QSGD": (80, 90, NEVER, NEVER), "QCS": (60, 50, 49, NEVER)}, {6}),  # 49 > 0.6 · 80
        ({"Sparse-SGD": (70, 90, NEVER, NEVER)}, {7}),  # 45 > 0.6 · 70
        ({"QSGD, entropy-coded": (1, 1, 1, 1), "QCS, fewer bits": (NEVER,) * 4}, set()),  # no verdicts
    ],
)
def test_regression(changes: Mapping[str, Sequence[float]], expected: set[int]) -> None:
    assert failing(qcs_regression.claims(descents(changes))) == expected


def test_regressions_that_never_converge_tell_nothing() -> None:
    claims = qcs_regression.claims(descents(dict.fromkeys(ARRIVALS, (NEVER,) * 4)))
    assert len(claims) == 8
    assert all(claim.holds is None for claim in claims)


def test_regression_says_what_the_paper_does_not() -> None:
    beyond = qcs_regression._beyond(descents({}))
    assert len(beyond) == 1 + len(qcs_regression.BEYOND)
    assert "30 iterations at μ = 0.04 (QCS 45, QSGD 90)" in beyond[-1]
    assert "up to μ = 0.12 (QCS 0.1)" in beyond[-1]
    codecs = qcs_regression_runs.schemes()
    text = "\n".join(qcs_regression._undisclosed(codecs))
    assert "QCS: 8 × (n = 400, k = 245), Q = 2" in text
    assert "6 × (n = 464, k = 165) and 1 × (n = 416, k = 148), Q = 2" in text
    assert "not among the paper's partition sizes: 464, 416." in text
    assert f"a density of {codecs['Sparse-SGD'].density:.4f}" in text  # type: ignore[attr-defined]
    listed = qcs_regression._undisclosed({**codecs, "QCS": QCS(order=320), "QCS, fewer bits": QCS()})
    assert "not among" not in "\n".join(listed)


# ---- Figure 3


def losses(**changes: tuple[float, float, float]) -> list[qcs_variance.Loss]:
    """QCS at gains 4 and 64 or so, the others between: (gain, error, bound) by scheme."""
    rows = {
        "QCS": (64.0, 5.0, 6.0),
        "MMSE_QCS": (64.0, 0.8, 0.9),
        "Sparse_SGD": (64.0, 6.0, math.inf),
        "QSGD": (19.0, 4.0, 20.0),
        "coded": (31.0, 1.0, 2.0),
        **changes,
    }
    names = {"MMSE_QCS": "MMSE-QCS", "Sparse_SGD": "Sparse-SGD", "coded": "QSGD, entropy-coded"}
    found = [
        qcs_variance.Loss("Gaussian", scheme, 4, 4.0, 1e-4, 0.0, 1e-3)
        for scheme in ("QCS", "MMSE-QCS", "Sparse-SGD")
    ]
    for key, (gain, error, bound) in rows.items():
        found.append(qcs_variance.Loss("Gaussian", names.get(key, key), 64, gain, error, 0.0, bound))
    return found


@pytest.mark.parametrize(
    ("changes", "text", "expected"),
    [
        ({}, "goes beyond 32", True),
        ({"QCS": (32.0, 5.0, 6.0)}, "goes beyond 32", False),
        ({}, "at most 32, at log₂(2s+1) bits", True),
        ({"QSGD": (32.1, 4.0, 20.0)}, "at most 32, at log₂(2s+1) bits", False),
        ({}, "at most 32, entropy-coded", True),
        ({"coded": (35.0, 1.0, 2.0)}, "at most 32, entropy-coded", False),
        ({}, "Theorem 2", True),
        ({"QCS": (64.0, 6.1, 6.0)}, "Theorem 2", False),
        ({}, "Lemma 3", True),
        ({"MMSE_QCS": (64.0, 0.92, 0.9)}, "Lemma 3", False),
        ({}, "QCS loses less than QSGD", True),
        ({"QSGD": (19.0, 0.01, 20.0)}, "QCS loses less than QSGD", False),
    ],
)
def test_variance(changes: dict[str, tuple[float, float, float]], text: str, expected: bool) -> None:
    assert verdict(qcs_variance.claims(losses(**changes)), text) is expected


def test_variance_bounds_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = qcs_variance.claims(losses())
    assert verdict(claims, "below QSG's") is True
    assert verdict(claims, "41 bits a kept number") is True
    assert verdict(claims, "10 bits a kept number") is False
    assert sum("the verdict turns on this count" in claim.measured for claim in claims) == 2
    own = qcs_variance.qcs_bound
    for factor, expected in ((0.1, True), (100.0, False)):
        monkeypatch.setattr(qcs_variance, "qcs_bound", lambda gain, f=factor: f * own(gain))
        claims = qcs_variance.claims(losses())
        for text in ("below QSG's", "41 bits a kept number", "10 bits a kept number"):
            assert verdict(claims, text) is expected
        assert not any("turns on" in claim.measured for claim in claims)


def test_sparse_errors_are_shown_without_a_verdict() -> None:
    assert not any("Sparse-SGD" in claim.text for claim in qcs_variance.claims(losses()))
    lines = qcs_variance._beyond(losses())
    assert (
        "- Gaussian: QCS against Sparse-SGD: 0.0001 against 0.0001 (gain 4), 5 against 6 (gain 64)." in lines
    )


def test_the_largest_gain_is_that_of_real_payloads() -> None:
    spec = Spec(qcs_variance.SIZE)
    x = normal(Key(2), (spec.size,)).astype(np.float32)  # no partition is zero: such a one has no codes
    payload, _ = QCS(order=512, k=1).encode(x, spec, Key(1))
    most = qcs_variance.largest_gain()
    assert most == 4 * spec.size / len(payload)
    QCS(order="auto", gain=most).check(spec)
    with pytest.raises(CodecError, match="lower the gain"):
        QCS(order="auto", gain=1.002 * most).check(spec)  # a byte less


# ---- Figure 4


def errors(
    qcs: tuple[float, float], qsg: tuple[float, float], drift: float = 1.0
) -> list[qcs_relative_error.Error]:
    """Of each scheme (mean, deviation / mean), as two sensors and two rounds at two accuracies have them."""
    found = []
    for accuracy, factor in ((0.2, 1.0), (0.9, drift)):
        for sensor, sign in ((0, -1), (1, 1)):
            for name in qcs_relative_error.schemes():
                mean, deviation = qcs if name.startswith("QCS") else qsg
                error = mean * factor * (1 + sign * deviation)
                found.append(qcs_relative_error.Error(1, 1, accuracy, sensor, name, 10, error))
    return found


@pytest.mark.parametrize(
    ("found", "below", "close", "unlike", "fixed"),
    [
        (errors((1, 0.05), (2, 0.2)), True, True, True, True),
        (errors((3, 0.05), (2, 0.2)), False, True, True, True),
        (errors((1, 0.12), (2, 0.2)), True, False, False, True),
        (errors((1, 0.05), (2, 0.09)), True, True, False, True),  # QSG passes too: nothing unlike
        (errors((1, 0.0), (2, 0.2), drift=1.2), True, True, True, True),
        (errors((1, 0.0), (2, 0.2), drift=1.3), True, False, False, False),
    ],
)
def test_relative_error(
    found: list[qcs_relative_error.Error], below: bool, close: bool, unlike: bool, fixed: bool
) -> None:
    claims = qcs_relative_error.claims(found)
    for text, count, expected in (
        ("relative error below", 6, below),
        ("highly concentrated", 3, close),
        ("so, unlike QSG", 6, unlike),
        ("fixed signal to noise ratio", 5, fixed),
    ):
        assert [claim.holds for claim in claims if text in claim.text] == [expected] * count


# ---- Figure 5

COMPRESS = {
    "baseline": 0.0,
    "QSGD": 1.0,
    "Sparse-SGD, gain 100": 8.0,
    "QCS, k = n, Q = 1": 4.0,
    "QCS, gain 100": 4.0,
}


def times(
    fc: Mapping[str, float] | None = None,
    lenet5: Mapping[str, float] | None = None,
    batches: Sequence[int] = (64, 128, 256),
) -> list[qcs_time.Time]:
    """Gradients take 100 s, LeNet-5's 80 s; what the schemes add, with changes."""
    return [
        qcs_time.Time(model, batch, scheme, 20.0, compute, added)
        for model, compute, changes in (("fc", 100.0, fc), ("lenet5", 80.0, lenet5))
        for batch in batches
        for scheme, added in {**COMPRESS, **(changes or {})}.items()
    ]


PER_MODEL = 3
OVERHEAD = 2 * PER_MODEL  # FC, LeNet-5, and with more parameters


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"fc": {"QCS, k = n, Q = 1": 17.0}}, {0, OVERHEAD, OVERHEAD + 2}),  # 117 > 1.15 · 101
        ({"fc": {"QCS, gain 100": 17.0, "Sparse-SGD, gain 100": 40.0}}, {1}),
        ({"fc": {"QCS, gain 100": 4.1}}, {2}),  # more than half of Sparse-SGD's
        ({"lenet5": {"QCS, k = n, Q = 1": 14.0}}, {3, OVERHEAD + 1}),
        ({"lenet5": {"QCS, gain 100": 14.0, "Sparse-SGD, gain 100": 40.0}}, {4}),
        ({"lenet5": {"QCS, gain 100": 4.1}}, {5}),
        ({"fc": {"QCS, k = n, Q = 1": 5.1}}, {OVERHEAD, OVERHEAD + 2}),
        ({"lenet5": {"QCS, k = n, Q = 1": 4.1}}, {OVERHEAD + 1}),
        ({"lenet5": {"QCS, k = n, Q = 1": 3.0}}, {OVERHEAD + 2}),  # both negligible, but it rises
    ],
)
def test_time(changes: Mapping[str, Mapping[str, float]], expected: set[int]) -> None:
    assert failing(qcs_time.claims(times(**changes))) == expected


def test_overhead_is_that_at_the_papers_batch() -> None:
    found = times(batches=(64,), fc={"QCS, k = n, Q = 1": 50.0}) + times(batches=(128,))
    assert all(claim.holds for claim in qcs_time._overhead(found))
    untold = qcs_time._overhead(times(batches=(64, 256)))
    assert [claim.holds for claim in untold] == [None] * 3
    one = qcs_time._overhead([t for t in times() if t.model == "fc"])
    assert [claim.holds for claim in one] == [True, None, None]


def test_parameters_are_those_of_the_models() -> None:
    small = {"task.source": "synthetic", "task.train_samples": 64, "task.test_samples": 16}
    found = {
        model: sizes.model_size(load(qcs_time.SCENARIO, {**small, "task.model": model}))
        for model in qcs_time.MODELS
    }
    assert found == qcs_time.PARAMETERS
