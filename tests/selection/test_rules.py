from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedquant import registry
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.selection.base import Selection
from fedquant.selection.rules import (
    THRESHOLD,
    All,
    Random,
    Relative,
    SqrtSchedule,
    TopFraction,
    pack_threshold,
    read_threshold,
)
from fedquant.wire import NO_KNOBS

KEY = Key(1)
RULES = [All(), Random(), Relative(), SqrtSchedule(), TopFraction()]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def losses(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@every_rule
def test_a_rule_decides_for_each_sample(rule: Selection) -> None:
    memory = rule.init()
    for round, epoch in ((1, 0), (2, 0), (3, 1), (4, 2)):
        knobs, memory = rule.knobs(memory, round, epoch)
        for n in (0, 1, 5):
            given = rng.uniform(KEY, n) if rule.needs_losses(knobs) else None
            kept = rule.keep(given, n, knobs, KEY)
            assert kept.dtype == np.bool_
            assert kept.shape == (n,)
            assert np.array_equal(kept, rule.keep(given, n, knobs, KEY))
        memory = rule.observe(memory, losses(0.1, 0.2))


@every_rule
def test_a_rule_is_a_name_in_yaml(rule: Selection) -> None:
    if rule.name in registry.names("selection"):
        assert registry.create("selection", rule.name) == rule


@pytest.mark.parametrize("rule", [All(), Relative()], ids=lambda rule: rule.name)
def test_the_first_epoch_sends_everything_and_needs_no_losses(rule: Selection) -> None:
    knobs, _ = rule.knobs(rule.init(), 1, 0)
    assert not rule.needs_losses(knobs)
    for n in (0, 5):
        assert rule.keep(None, n, knobs, KEY).tolist() == [True] * n


@every_rule
def test_memory_is_a_value_and_survives_json(rule: Selection) -> None:
    before = rule.init()
    copy = dict(before)
    after = rule.observe(before, losses(1, 2))
    rule.knobs(after, 2, 1)
    assert before == copy
    assert json.loads(json.dumps(dict(after))) == after


def test_all_has_no_knobs() -> None:
    assert All().knobs({}, 5, 3) == (NO_KNOBS, {})
    assert All().observe({}, losses(1)) == {}


def test_relative_compares_with_a_share_of_the_last_epochs_mean() -> None:
    rule = Relative(factor=0.5)
    memory = rule.observe(rule.observe(rule.init(), losses(1, 3)), losses(5))
    knobs, memory = rule.knobs(memory, 4, 1)
    assert read_threshold(knobs) == 1.5
    assert rule.needs_losses(knobs)
    assert rule.keep(losses(1.4, 1.5, 1.6), 3, knobs, KEY).tolist() == [False, False, True]
    memory = rule.observe(memory, losses(100))
    same, memory = rule.knobs(memory, 5, 1)
    assert same == knobs
    later, _ = rule.knobs(memory, 6, 2)
    assert read_threshold(later) == 50


def test_relative_starts_again_at_zero_after_an_epoch_that_sent_nothing() -> None:
    rule = Relative()
    knobs, _ = rule.knobs(rule.observe(rule.init(), losses()), 4, 1)
    assert read_threshold(knobs) == 0
    assert rule.keep(losses(0, 1e-30), 2, knobs, KEY).tolist() == [False, True]


@pytest.mark.parametrize("rule", [Relative(), SqrtSchedule(), TopFraction()], ids=lambda rule: rule.name)
def test_rules_need_their_losses(rule: Selection) -> None:
    with pytest.raises(CodecError, match=f"{rule.name}: losses are needed"):
        rule.keep(None, 3, {THRESHOLD: pack_threshold(1.0)}, KEY)


def test_random_keeps_its_share_by_the_key_alone() -> None:
    rule, n = Random(0.3), 40000
    assert rule.knobs({}, 5, 3) == (NO_KNOBS, {})
    assert not rule.needs_losses(NO_KNOBS)
    kept = rule.keep(None, n, NO_KNOBS, KEY)
    # binomial: 5 sigma of the mean of n
    assert abs(kept.mean() - 0.3) <= 5 * math.sqrt(0.3 * 0.7 / n)
    assert not np.array_equal(kept, rule.keep(None, n, NO_KNOBS, KEY.fold(round=2)))
    assert Random(1.0).keep(None, n, NO_KNOBS, KEY).all()


def test_top_fraction_keeps_the_highest_of_each_batch() -> None:
    rule = TopFraction(0.4)
    assert rule.knobs({}, 5, 3) == (NO_KNOBS, {})
    given = losses(3, 1, 2, 3, 3, 0)
    assert rule.keep(given, 6, NO_KNOBS, KEY).tolist() == [True, False, False, True, True, False]
    # of equal losses, the first
    assert TopFraction(0.2).keep(given, 6, NO_KNOBS, KEY).tolist() == [True, False, False, True, False, False]
    assert TopFraction(1e-9).keep(given, 6, NO_KNOBS, KEY).sum() == 1
    assert not TopFraction(1.0).needs_losses(NO_KNOBS)
    assert TopFraction(1.0).keep(None, 6, NO_KNOBS, KEY).all()


@pytest.mark.parametrize(("factor", "power"), [(0.25, 1.0), (0.1, 1.0), (0.25, 2.5)])
def test_sqrt_schedule_is_within_theorem_3(factor: float, power: float) -> None:
    rule = SqrtSchedule(factor, power)
    sent = [read_threshold(rule.knobs({}, i, 0)[0]) for i in range(1, 5001)]
    assert sent[:3] == [np.float32(factor * i**-power) for i in (1, 2, 3)]
    total = np.cumsum(np.sqrt(sent))
    assert (total <= np.sqrt(np.arange(1, 5001))).all()
    if (factor, power) == (0.25, 1.0):
        assert total[-1] >= 0.97 * math.sqrt(5000)  # the budget is used


def test_sqrt_schedule_compares_with_the_rounds_threshold() -> None:
    rule = SqrtSchedule()
    knobs, _ = rule.knobs({}, 5, 0)
    assert rule.needs_losses(knobs)
    assert rule.keep(losses(0.04, 0.05, 0.06), 3, knobs, KEY).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        (SqrtSchedule, {"factor": 0.26}),
        (SqrtSchedule, {"factor": 0}),
        (SqrtSchedule, {"power": 0.9}),
        (Random, {"p": 0}),
        (Random, {"p": 1.1}),
        (TopFraction, {"fraction": 0}),
        (TopFraction, {"fraction": 2}),
    ],
)
def test_fields_out_of_range_are_refused(rule: type[Selection], fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        TypeAdapter(rule).validate_python(fields)


@pytest.mark.parametrize("value", [0.0, -math.inf, math.inf, 1.5])
def test_threshold_round_trip(value: float) -> None:
    assert pack_threshold(value) == struct.pack("<f", value)
    assert read_threshold({THRESHOLD: pack_threshold(value)}) == value


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({}, "is None, expected 4 bytes"),
        ({THRESHOLD: 3}, "is 3, expected 4 bytes"),
        ({THRESHOLD: b"abc"}, "expected 4 bytes"),
        ({THRESHOLD: pack_threshold(math.nan)}, "is not a number"),
    ],
)
def test_a_broken_threshold_is_refused(knobs: dict[str, int | bytes], message: str) -> None:
    for read in (read_threshold, Relative().needs_losses, lambda k: Relative().keep(losses(1), 1, k, KEY)):
        with pytest.raises(CodecError, match=message):
            read(knobs)


# ---- Theorem 3

A = (rng.uniform(Key(2), 1000) * 2 - 1).reshape(200, 5).astype(float)
Y = A @ np.arange(0.2, 1.2, 0.2) + 0.2 * (rng.uniform(Key(3), 200).astype(float) - 0.5)
OPTIMUM = np.linalg.lstsq(A, Y, rcond=None)[0]
SMOOTH = float((A**2).sum(axis=1).max())  # C_w of ℓ(w, (a, y)) = ½(aᵀw − y)²
RUNS = 10


def excess(w: np.ndarray) -> float:
    """L(w) − L*."""
    return float(((A @ w - Y) ** 2).mean() - ((A @ OPTIMUM - Y) ** 2).mean()) / 2


def sgd(rule: Selection, eta: float, thresholds: list[float]) -> tuple[float, float, float, float]:
    """(mean excess of the average model, B̃², D̃, share not sent): the last three as met on the way."""
    steps, total, deviation, far, withheld = len(thresholds), 0.0, 0.0, 0.0, 0
    for run in range(RUNS):
        w, mean = np.zeros(5), np.zeros(5)
        for pick, threshold in zip(rng.integers(Key(4, round=run), steps, len(Y)), thresholds, strict=True):
            residual = A @ w - Y
            gradients = residual[:, None] * A
            spread = np.square(gradients - gradients.mean(axis=0)).sum(axis=1).mean()
            deviation = max(deviation, float(spread))
            loss = np.array([residual[pick] ** 2 / 2], np.float32)
            if rule.keep(loss, 1, {THRESHOLD: pack_threshold(threshold)}, KEY)[0]:
                w = w - eta * gradients[pick]
            else:
                withheld += 1
            far = max(far, float(np.linalg.norm(w - OPTIMUM)))
            mean += w / steps
        total += excess(mean) / RUNS
    return total, deviation, far, withheld / steps / RUNS


@pytest.mark.parametrize("steps", [50, 400, 3200])
def test_theorem_3_with_the_corrected_bound(steps: int) -> None:
    """SGD without the samples of small loss. (13) does not follow from (44); what does, in expectation:

    L(w̄) − L* ≤ ‖w₀ − w*‖²/2nη + D̃√(2C_w)·(1 + 3ηC_w)·Σ√ℓ_th/n + ηB̃².
    """
    rule = SqrtSchedule()
    thresholds = [read_threshold(rule.knobs({}, i, 0)[0]) for i in range(1, steps + 1)]
    eta = min(1 / SMOOTH, 1 / math.sqrt(steps))  # B̃ is about 1
    found, deviation, far, withheld = sgd(rule, eta, thresholds)
    missing = far * math.sqrt(2 * SMOOTH) * (1 + 3 * eta * SMOOTH) * np.sqrt(thresholds).sum() / steps
    assert withheld > 0.1
    assert 0 < found <= float(OPTIMUM @ OPTIMUM) / (2 * steps * eta) + missing + eta * deviation
    assert found <= 0.5 / math.sqrt(steps)  # the rate; no step at all leaves .35


def test_thresholds_that_do_not_fall_stop_learning() -> None:
    steps = 3200
    eta, fallen = 1 / math.sqrt(steps), SqrtSchedule()
    falling = [read_threshold(fallen.knobs({}, i, 0)[0]) for i in range(1, steps + 1)]
    assert sgd(fallen, eta, [0.25] * steps)[0] > 10 * sgd(fallen, eta, falling)[0]
