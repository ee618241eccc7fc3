from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedquant import registry
from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.qsgd import QSGD
from fedquant.control.base import Controller, Horizon, Ladder, Memory
from fedquant.control.budget import Budget
from fedquant.control.heuristics import Adaptive, AdaQS
from fedquant.control.rules import DQSGDConvex, DQSGDNonconvex, Fixed
from fedquant.errors import ConfigError
from fedquant.keys import Key

KEY, SPEC = Key(2), Spec(4)
ALL: list[Controller] = [
    Fixed(bits=5),
    Fixed(levels=(9, 3)),
    DQSGDConvex(k=20),
    DQSGDConvex(budget=Budget(bytes=10_000)),
    DQSGDNonconvex(t=3, integer_bits=False, rule_norm="inf"),
    DQSGDNonconvex(budget=Budget(bits=80_000), integer_bits=False),
    Adaptive(),
    AdaQS(),
]
every_controller = pytest.mark.parametrize("rule", ALL, ids=str)


def codec(given: Any = "qsgd") -> Codec:
    made: Codec = registry.create("codec", given)
    return made


def horizon(rounds: int = 100, given: Any = "qsgd") -> Horizon:
    return Horizon(SPEC, codec(given), rounds, (rounds, rounds))


def mean(*values: float) -> np.ndarray:
    return np.resize(np.array(values, np.float32), 4)


def told(rule: Controller, means: list[np.ndarray | None], ahead: Horizon) -> list[Any]:
    """The knobs of the first rounds, each after the one mean gradient of the round before."""
    memory, out = rule.init(ahead), []
    for round, g in enumerate([*means, None], 1):
        knobs, memory = rule.knobs(memory, round, ahead)
        out.append(dict(knobs))
        memory = rule.observe(memory, round, g, {0: 20, 1: 30}, ahead)
    return out


# ---- what all of them do


@every_controller
def test_memory_is_a_value_and_survives_json(rule: Controller) -> None:
    ahead = horizon()
    memory = rule.init(ahead)
    for round, g in enumerate([mean(1, -2), None, mean(0), mean(3, 1, 1)], 1):
        copy: Memory = json.loads(json.dumps(dict(memory)))
        knobs, same = rule.knobs(memory, round, ahead)
        after = rule.observe(same, round, g, {0: 20, 1: 30}, ahead)
        assert memory == copy
        assert rule.knobs(copy, round, ahead)[0] == knobs
        assert rule.observe(copy, round, g, {0: 20, 1: 30}, ahead) == after
        memory = after


@every_controller
@pytest.mark.parametrize("given", ["qsgd", "qcs", {"name": "error_feedback", "inner": "qcs"}], ids=str)
def test_every_codec_takes_what_it_is_told(rule: Controller, given: Any) -> None:
    ahead = horizon(given=given)
    big = mean(1e30, -1e30)
    for knobs in told(rule, [big, mean(1e-30), None, mean(0), big, mean(math.inf)], ahead):
        payload, _ = ahead.codec.encode(mean(1), SPEC, KEY, ahead.codec.init(SPEC), knobs)
        assert ahead.codec.decode(payload, SPEC, KEY, knobs).shape == (4,)
        assert all(type(value) is int for value in knobs.values())
        assert len(knobs) == 1


@every_controller
def test_no_mean_and_no_finite_mean_leave_the_knob(rule: Controller) -> None:
    if isinstance(rule, Fixed):
        rule = Fixed(bits=5)
    got = told(rule, [mean(0.5, 3), None, mean(math.nan), mean(1, math.inf)], horizon())
    assert got[1] == got[2] == got[3] == got[4]


@every_controller
def test_a_codec_without_such_a_knob_is_refused(rule: Controller) -> None:
    with pytest.raises(ConfigError, match=r"topk has no knob for its fineness \(its knobs: none\); use qsgd"):
        rule.init(horizon(given="topk"))


@every_controller
def test_configurations_are_read_back(rule: Controller) -> None:
    given = registry.config(rule)
    assert given.pop("name") == type(rule).name
    assert TypeAdapter(type(rule)).validate_python(given) == rule
    full = json.loads(json.dumps(registry.resolved(rule)))
    full.pop("name")
    assert TypeAdapter(type(rule)).validate_python(full) == rule


@pytest.mark.parametrize(
    ("cls", "given", "message"),
    [
        (Fixed, {}, "fixed: give bits or levels, one of them; got None and None"),
        (Fixed, {"bits": 4, "levels": 3}, "fixed: give bits or levels"),
        (Fixed, {"bits": 1}, "greater than or equal to 2"),
        (Fixed, {"bits": []}, "at least 1 item"),
        (DQSGDConvex, {}, "dqsgd_convex: give k or budget, one of them"),
        (DQSGDConvex, {"k": 0}, "greater than 0"),
        (DQSGDConvex, {"k": 1, "alpha": 1.1}, "less than or equal to 1"),
        (DQSGDNonconvex, {"t": 3, "budget": {"bytes": 5}}, "dqsgd_nonconvex: give t or budget, one of them"),
        (DQSGDNonconvex, {"budget": {"bytes": 5, "bits": 5}}, "budget: give bits or bytes, one of them"),
        (DQSGDNonconvex, {"budget": {"kilobytes": 5}}, "kilobytes"),
        (DQSGDNonconvex, {"t": 3, "initial_bits": 9}, "initial_bits=9 exceeds max_bits=8"),
        (DQSGDNonconvex, {"t": 3, "rule_norm": 1}, "rule_norm"),
        (AdaQS, {"fall": 1}, "less than 1"),
    ],
)
def test_mistakes_are_named(cls: type[Controller], given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        TypeAdapter(cls).validate_python(given)


def test_a_step_out_of_a_codecs_reach_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"qcs cannot be told levels=255: .* not an integer in \[1, 127\]"):
        DQSGDNonconvex(t=1, max_bits=9).init(horizon(given="qcs"))
    with pytest.raises(ConfigError, match="contradicts gain"):
        Fixed(bits=3).init(Horizon(Spec(300), codec({"name": "qcs", "gain": 8}), 9, (9,)))
    with pytest.raises(ConfigError, match="levels=128"):
        Fixed(levels=(5, 128)).init(horizon(given="qcs"))
    # the feedback's weight must be stable at the coarsest step too, where γ is largest
    feedback = {"name": "error_feedback", "inner": {"name": "qsgd", "bits": 8}, "beta": 1.0}
    ahead = Horizon(Spec(300), codec(feedback), 9, (9,))
    Fixed(bits=8).init(ahead)
    with pytest.raises(ConfigError, match=r"error_feedback cannot be told bits=2: .* grow without bound"):
        Adaptive().init(ahead)


# ---- fixed


def test_fixed_follows_its_list_and_stays_at_its_end() -> None:
    assert told(Fixed(bits=(2, 6, 3)), [None] * 3, horizon()) == [{"bits": b} for b in (2, 6, 3, 3)]
    assert told(Fixed(levels=11), [mean(9)], horizon()) == [{"levels": 11}] * 2
    assert told(Fixed(bits=(2, 5)), [None], horizon(given="qcs")) == [{"levels": 1}, {"levels": 15}]


# ---- DQSGD, by hand


@pytest.mark.parametrize(
    ("norm", "bits"),
    [
        (0.0, 2),  # log2(1) + 1 = 1, kept at 2
        (0.6, 3),  # 2.8 + 1 = 3.8: 1.926 + 1 = 2.926
        (0.26, 2),  # 2.3: 1.202 + 1
        (0.36, 2),  # 2.8: 1.485 + 1 = 2.485
        (0.37, 3),  # 2.85: 1.511 + 1 = 2.511
        (5.0, 6),  # 26: 4.700 + 1
        (40.0, 8),  # 201: 7.651 + 1 = 8.651, kept at 8
        (1e30, 8),
    ],
)
@pytest.mark.parametrize("rule_norm", [2, "inf"])
def test_nonconvex_by_hand(norm: float, bits: int, rule_norm: Any) -> None:
    """t = 5: B = log2(5‖g‖ + 1) + 1; 0.6, 0.8 has ‖·‖₂ = 1 and ‖·‖∞ = 0.8."""
    g = mean(0.6, 0, -0.8, 0) * np.float32(norm / (1 if rule_norm == 2 else 0.8))
    got = told(DQSGDNonconvex(t=5, rule_norm=rule_norm), [g], horizon())
    assert got == [{"bits": 4}, {"bits": bits}]


@pytest.mark.parametrize(
    ("rounds", "bits"),
    [
        # k = 10, α = 0.81, N = 4, ‖g‖ = 2: s = 20·0.9^(N−n), n = 1, 2, 3 in rounds 2, 3, 4
        (4, [4, 5, 5, 5]),  # 14.58, 16.2, 18: log2(15.58) + 1 = 4.96, 5.10, 5.25
        # N = 30: 20·0.9^29 = 0.942, 1.047, 1.163: 1.957 → 2, 2.034, 2.113
        (30, [4, 2, 2, 2]),
        # N = 14: 20·0.9^13 = 5.084, 5.649, 6.276: 3.605 → 4, 3.733, 3.863
        (14, [4, 4, 4, 4]),
        # N = 15: 20·0.9^14 = 4.575: 3.479 → 3; then 3.605 → 4
        (15, [4, 3, 4, 4]),
    ],
)
def test_convex_by_hand(rounds: int, bits: list[int]) -> None:
    g = mean(1, -1)
    assert told(DQSGDConvex(k=10, alpha=0.81), [g, g, g], horizon(rounds)) == [{"bits": b} for b in bits]


def test_levels_without_whole_bits() -> None:
    """s = max(1, round(t·‖g‖)), half up."""
    rule = DQSGDNonconvex(t=2, integer_bits=False, max_bits=5, initial_bits=3)
    norms = [0.0, 0.74, 0.75, 1.2, 1.25, 7.24, 7.25, 9.0]
    got = told(rule, [mean(v, 0, 0, 0) for v in norms], horizon())
    assert [k["levels"] for k in got] == [3, 1, 1, 2, 2, 3, 14, 15, 15]


def test_without_a_bits_knob_levels_stand_for_bits() -> None:
    assert told(DQSGDNonconvex(t=5), [mean(2.5, 2.5)], horizon(given="qcs")) == [
        {"levels": 7},
        {"levels": 31},
    ]


@pytest.mark.parametrize("whole_bits", [True, False])
def test_thresholds_are_where_the_nearest_step_changes(whole_bits: bool) -> None:
    ladder = Ladder(QSGD(), whole_bits, 8)
    starts = 2 ** ladder.thresholds()
    assert len(starts) == ladder.high - ladder.low
    for step, levels in enumerate(starts, ladder.low + 1):
        assert ladder.nearest(levels * (1 + 1e-12)) == step
        assert ladder.nearest(levels * (1 - 1e-12)) == step - 1
    assert ladder.nearest(math.inf) == ladder.high


def test_the_budget_follows_the_norm_around_what_it_usually_is() -> None:
    rule = DQSGDNonconvex(budget=Budget(bytes=100 * 4 * 100), max_bits=16)
    ahead = Horizon(Spec(400), QSGD(), 100, (100,))
    memory = rule.init(ahead)
    flat = np.full(400, 0.5, np.float32)
    memory = rule.observe(memory, 1, flat, {0: 209}, ahead)
    usual = memory["steps"]
    assert usual == [7]  # 400 bytes a round: 8 bits take 409
    louder = rule.observe(memory, 2, flat * np.float32(16), {0: 360}, ahead)
    quieter = rule.observe(memory, 2, flat / np.float32(16), {0: 360}, ahead)
    assert quieter["steps"] < usual < louder["steps"]


# ---- the rules it is compared with


def test_adaptive_loses_a_bit_each_time_the_rms_halves() -> None:
    rule, ahead = Adaptive(max_bits=8), horizon(1000)
    memory = rule.init(ahead)
    assert rule.knobs(memory, 1, ahead)[0] == {"bits": 8}
    steps = []
    for round, size in enumerate([1, 8, 4, 2, 1, 0.01, 0, 8]):
        for _ in range(200):  # 0.9^200 = 7e-10: the running mean has arrived
            memory = rule.observe(memory, round + 1, mean(size, -size), {}, ahead)
        steps.append(memory["step"])
    assert steps == [8, 8, 7, 6, 5, 2, 2, 8]


def test_adaqs_gains_bits_as_gradients_grow_peaked_and_keeps_them() -> None:
    rule, ahead = AdaQS(fall=0.8), Horizon(Spec(100), QSGD(), 1000, (1000,))
    memory = rule.init(ahead)
    assert rule.knobs(memory, 1, ahead)[0] == {"bits": 4}
    steps = []
    for count in (50, 39, 30, 10, 3, 50):  # ones among zeros: m/√(v − m²) = √(f/(1−f)) for a share f
        g = np.repeat(np.float32([1, 0]), [count, 100 - count])
        for _ in range(200):
            memory = rule.observe(memory, 1, g, {}, ahead)
        steps.append(memory["step"])
    # ratios 1, .800, .655, .333, .176: 1, 1.9, 4.9, 7.8 times 0.8
    assert steps == [4, 5, 6, 8, 8, 8]
    flat = rule.observe(rule.init(ahead), 1, np.ones(100, np.float32), {}, ahead)
    assert flat["step"] == 4
