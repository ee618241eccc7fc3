"""A fineness for each layer: the rule of each, and a budget that all of them share."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant import registry
from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.groups import groups
from fedquant.codecs.qsgd import each_segment
from fedquant.control.base import Horizon, Ladder, readable
from fedquant.control.budget import Budget, affordable, affordable_next, costs, part_costs, payload_size
from fedquant.control.rules import DQSGD, DQSGDConvex, DQSGDNonconvex
from fedquant.errors import ConfigError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE

ROUNDS, SPEC = 60, Spec(300, segments=(70, 75, 300))
QUICK = settings(max_examples=40, deadline=None, derandomize=True)
CUTS = groups(SPEC, "segment")
X = rng.uniform(Key(3), SPEC.size) - np.float32(0.5)
CODECS: list[dict[str, Any]] = [
    {},
    {"norm": "l2"},
    {"entropy": True},
    {"name": "error_feedback", "inner": {"name": "qsgd", "scope": "segment"}},
]


def codec(**given: Any) -> Codec:
    scope = {} if "inner" in given else {"scope": "segment"}
    made: Codec = registry.create("codec", {"name": "qsgd", **scope, **given})
    return made


def vector(norms: Sequence[float]) -> np.ndarray:
    """float32[300] whose layers have these norms."""
    x = X.copy()
    for (start, stop), norm in zip(CUTS, norms, strict=True):
        x[start:stop] *= np.float32(norm) / np.linalg.norm(x[start:stop])
    return x


def spend(rule: DQSGD, horizon: Horizon, rounds: Sequence[Sequence[float]]) -> int:
    """Bytes that a sensor really sends, its gradients having these norms by layer."""
    memory, state, spent = rule.init(horizon), horizon.codec.init(SPEC), 0
    for round, norms in enumerate(rounds, 1):
        knobs, memory = rule.knobs(memory, round, horizon)
        x = vector(norms)
        payload, state = horizon.codec.encode(x, SPEC, Key(1, 0, round), state, knobs)
        size = len(payload) + horizon.extra
        spent += size
        memory = rule.observe(memory, round, x, {0: size}, horizon)
    return spent


def rules(budget: int, whole_bits: bool = True) -> list[DQSGD]:
    given: dict[str, Any] = {"budget": Budget(bytes=budget), "integer_bits": whole_bits, "per_layer": True}
    return [DQSGDNonconvex(**given), DQSGDConvex(alpha=0.9, **given)]


# ---- the rule


@pytest.mark.parametrize("rule_norm", [2, "inf"])
def test_bits_by_hand(rule_norm: Any) -> None:
    """t = 5: B = log2(5‖g‖ + 1) + 1, of norms 0.6, 40 and 0: 3, 8 (kept) and 2 (kept)."""
    g = np.zeros(SPEC.size, np.float32)
    g[[3, 71]] = -0.6, 40
    rule = DQSGDNonconvex(t=5, per_layer=True, rule_norm=rule_norm)
    ahead = Horizon(SPEC, codec(), 9, (9,))
    memory = rule.init(ahead)
    assert rule.knobs(memory, 1, ahead)[0] == {"bits": bytes([4, 4, 4])}
    memory = rule.observe(memory, 1, g, {0: 1}, ahead)
    assert rule.knobs(memory, 2, ahead)[0] == {"bits": bytes([3, 8, 2])}


def test_levels_by_hand() -> None:
    """k = 10, α = 0.81, N = 4: s = 10·0.9³·‖g‖ in round 2, 7.29, 15.31 and 371.79; at most 2¹² − 1 = 4095."""
    rule = DQSGDConvex(k=10, alpha=0.81, integer_bits=False, max_bits=13, per_layer=True)
    ahead = Horizon(SPEC, codec(), 4, (4,))
    memory = rule.observe(rule.init(ahead), 1, vector([1, 2.1, 51]), {0: 1}, ahead)
    knobs, _ = rule.knobs(memory, 2, ahead)
    assert knobs == each_segment("levels", [7, 15, 372]) == {"levels": b"\x07\x00\x0f\x00\x74\x01"}
    assert rule.observe(memory, 2, vector([1e9, 0, 1]), {0: 1}, ahead)["steps"] == [4095, 1, 8]


@pytest.mark.parametrize("whole_bits", [True, False])
def test_one_layer_is_the_rule_of_the_whole(whole_bits: bool) -> None:
    spec, told = Spec(300), []
    ahead = Horizon(spec, codec(), 20, (20,), 3)
    for layered in rules(9000, whole_bits):
        for rule in (layered, replace(layered, per_layer=False)):
            memory, steps = rule.init(ahead), []
            for round in range(1, 21):
                steps.append(memory["steps"])
                memory = rule.observe(memory, round, X * np.float32(1 + round % 3), {0: 300}, ahead)
            told.append(steps)
    assert told[0] == told[1]
    assert told[2] == told[3]
    assert all(len({tuple(step) for step in steps}) > 1 for steps in told)


@pytest.mark.parametrize("whole_bits", [True, False])
def test_memory_is_a_value_and_survives_json(whole_bits: bool) -> None:
    ahead = Horizon(SPEC, codec(), 9, (9,))
    means = [vector([1, 0, 3]), None, vector([0, 0, 0]), vector([1, 1, math.nan]), vector([1e9, 1, 1e-9])]
    for rule in [*rules(2000, whole_bits), DQSGDNonconvex(t=3, integer_bits=whole_bits, per_layer=True)]:
        memory = rule.init(ahead)
        for round, g in enumerate(means, 1):
            copy = json.loads(json.dumps(dict(memory)))
            after = rule.observe(memory, round, g, {0: 200}, ahead)
            assert memory == copy
            assert rule.knobs(copy, round, ahead) == rule.knobs(memory, round, ahead)
            assert rule.observe(copy, round, g, {0: 200}, ahead) == after
            memory = after
        full = json.loads(json.dumps(registry.resolved(rule)))
        assert full["per_layer"] is True
        assert registry.create("controller", full) == rule


@pytest.mark.parametrize(
    ("given_codec", "named"),
    [
        ("qsgd", "qsgd with scope: whole"),
        ({"name": "qsgd", "scope": 50}, "qsgd with scope: 50"),
        ("qcs", "qcs"),
        ({"name": "topk", "k": 3}, "topk"),
        ({"name": "qtopk", "k": 3}, "qtopk"),
        ({"name": "error_feedback", "inner": "qsgd"}, "qsgd with scope: whole"),
    ],
)
def test_another_codec_is_refused_with_the_fix(given_codec: Any, named: str) -> None:
    made = registry.create("codec", given_codec)
    message = (
        f"control: per_layer needs a codec that is told a fineness for each layer, and {named} is not; set "
        "codec: {name: qsgd, scope: segment}, or leave per_layer out"
    )
    for rule in [DQSGDConvex(k=1, per_layer=True), *rules(10**6)]:
        with pytest.raises(ConfigError, match=re.escape(message)):
            rule.init(Horizon(SPEC, made, 9, (9,)))


def test_a_rounds_line_has_mean_bits_and_a_list() -> None:
    assert readable(each_segment("bits", [2, 8, 4]), SPEC) == {
        "bits": round((70 * 2 + 5 * 8 + 225 * 4) / 300, 4),
        "layer_bits": [2, 8, 4],
    }
    bits = (70 * math.log2(3) + 5 * math.log2(255) + 225 * math.log2(601)) / 300
    told = readable(each_segment("levels", [1, 127, 300]), SPEC)
    assert told == {"bits": pytest.approx(bits, abs=1e-4), "layer_levels": [1, 127, 300]}
    assert json.loads(json.dumps(told)) == told
    assert readable({"bits": 4}, SPEC) == {"bits": 4}


# ---- a budget


@pytest.mark.parametrize("whole_bits", [True, False])
@pytest.mark.parametrize("given_codec", CODECS, ids=str)
def test_forecasts_are_the_sizes_of_real_payloads(given_codec: dict[str, Any], whole_bits: bool) -> None:
    made = codec(**given_codec)
    ladder = Ladder(made, whole_bits, 8, per_layer=True)
    table = part_costs(ladder, SPEC)
    for i in range(30):
        steps = (rng.integers(Key(i), 3, ladder.high - ladder.low + 1) + ladder.low).tolist()
        knobs = ladder.knobs(steps)
        real = len(made.encode(X, SPEC, Key(6), made.init(SPEC), knobs)[0])
        forecast, planned = (
            payload_size(made, SPEC, knobs),
            sum(table[range(3), np.array(steps) - ladder.low]),
        )
        if given_codec.get("entropy"):
            assert real <= forecast <= planned <= forecast + 3 * 4
        elif whole_bits:
            assert real == forecast == planned
        else:  # 2s + 1 = 255 packs no worse than some coarser steps
            assert real == forecast <= planned <= forecast + 3


sequences = st.lists(
    st.tuples(st.sampled_from([0.0, 1e-20, 0.05, 1.0, 30.0, 1e15]), st.floats(0.8, 1.1)),
    min_size=3,
    max_size=3,
).map(lambda layers: [[norm * drift**r for norm, drift in layers] for r in range(ROUNDS)])
jumps = st.lists(
    st.lists(st.sampled_from([0.0, 0.01, 1.0, 1.1, 1e4]), min_size=3, max_size=3),
    min_size=ROUNDS,
    max_size=ROUNDS,
)


@QUICK
@given(
    st.one_of(sequences, jumps), st.floats(0, 1), st.sampled_from(CODECS), st.booleans(), st.integers(0, 1)
)
def test_a_budget_is_never_exceeded(
    rounds: list[list[float]], share: float, given_codec: dict[str, Any], whole_bits: bool, which: int
) -> None:
    horizon = Horizon(SPEC, codec(**given_codec), ROUNDS, (ROUNDS,), extra=11)
    cost = costs(Ladder(horizon.codec, whole_bits, 8, per_layer=True), SPEC) + horizon.extra
    budget = math.ceil(ROUNDS * (cost[0] + (cost[-1] - cost[0]) * share))
    assert spend(rules(budget, whole_bits)[which], horizon, rounds) <= budget


@pytest.mark.parametrize("whole_bits", [True, False])
@pytest.mark.parametrize("bits", [2.0, 3.3, 5.5, 7.9])
@pytest.mark.parametrize("fall", [1.0, 0.97])
@pytest.mark.parametrize("which", [0, 1])
def test_a_budget_is_used_where_norms_are_smooth(
    which: int, fall: float, bits: float, whole_bits: bool
) -> None:
    """Measured: 99.8 to 100 %. What is lost is under the price of one layer's step."""
    horizon = Horizon(SPEC, codec(), ROUNDS, (ROUNDS,))
    low, high = (payload_size(horizon.codec, SPEC, {"bits": b}) for b in (2, 8))
    budget = ROUNDS * round(low + (high - low) * (bits - 2) / 6)
    norms = [[3 * fall**i, 0.5 * fall ** (2 * i), 20] for i in range(ROUNDS)]
    spent = spend(rules(budget, whole_bits)[which], horizon, norms)
    assert 0.97 * budget <= spent <= budget


@QUICK
@given(
    st.booleans(),
    st.booleans(),
    st.integers(1, 15),
    st.floats(0.5, 1),
    st.lists(st.sampled_from([-np.inf, -20.0, -1.0, 0.0, 0.3, 9.0]), min_size=3, max_size=3),
    st.floats(0.9, 9),
    st.floats(0, 5),
)
def test_the_factor_is_the_largest_that_is_affordable(
    entropy: bool, whole_bits: bool, rounds: int, alpha: float, norms: list[float], share: float, more: float
) -> None:
    ladder = Ladder(codec(entropy=entropy), whole_bits, 8, per_layer=True)
    horizon = Horizon(SPEC, ladder.codec, rounds, (rounds,), extra=3)
    table, layers = part_costs(ladder, SPEC), np.array(norms)
    coarsest = int(table[:, 0].sum()) + 3
    left = int(share * rounds * coarsest)
    account = {"left": [left], "due": [rounds]}

    def price(log_k: float, weights: np.ndarray) -> int:
        steps = [[ladder.nearest(2.0 ** min(log_k + w + n, 99)) for n in norms] for w in weights]
        return sum(3 + sum(int(table[i, s - ladder.low]) for i, s in enumerate(round)) for round in steps)

    weights = np.arange(rounds, 0, -1) / 2 * np.log2(alpha)
    found = affordable(account, ladder, horizon, weights, layers)
    now = affordable_next(account, ladder, horizon, layers)
    spare = left - (rounds - 1) * coarsest
    for log_k, ahead, limit in ((found, weights, left), (now, np.zeros(1), spare)):
        if price(log_k, ahead) > limit:
            assert price(log_k, ahead) == len(ahead) * coarsest  # not even the coarsest is
        elif price(log_k + 1e-8, ahead) <= limit:
            finest = [3 + sum(table[i, -1 if n > -np.inf else 0] for i, n in enumerate(norms))]
            assert price(log_k, ahead) == len(ahead) * finest[0]  # everything is
        assert price(log_k + more, ahead) >= price(log_k, ahead)


@pytest.mark.parametrize("whole_bits", [True, False])
def test_the_least_budget_is_that_of_every_layer_at_its_coarsest(whole_bits: bool) -> None:
    horizon = Horizon(SPEC, codec(), ROUNDS, (ROUNDS,), extra=21)
    codes = 18 + 2 + 57 if whole_bits else 14 + 1 + 45  # 2 bits a number; 5 ternary numbers a byte
    least = ROUNDS * (HEADER_SIZE + 3 * 4 + codes + 21)
    loud = [[1e9, 1.0, 1e9]] * ROUNDS
    for rule in rules(least, whole_bits):
        assert spend(rule, horizon, loud) == least
    for rule in rules(least - 1, whole_bits):
        with pytest.raises(ConfigError, match=f"{least - 1} bytes a sensor are too few.*= {least} bytes"):
            rule.init(horizon)


def test_a_cap_at_the_end_takes_from_all_layers_alike() -> None:
    """Bytes of one more round: k falls until they suffice, and the quietest layers lose their bits first."""
    ladder, horizon = Ladder(codec(), True, 8, per_layer=True), Horizon(SPEC, codec(), 9, (9,))
    table, norms = part_costs(ladder, SPEC), np.log2([100.0, 3.0, 20.0])
    seen = []
    for left in range(int(table[:, 0].sum()), int(table[:, -1].sum()) + 1):
        log_k = affordable_next({"left": [left], "due": [1]}, ladder, horizon, norms)
        steps = [ladder.nearest(2.0 ** min(log_k + n, 9)) for n in norms]
        assert sum(int(table[i, s - 2]) for i, s in enumerate(steps)) <= left
        assert steps == sorted(steps, reverse=True) or steps[1] <= steps[2] <= steps[0]
        seen.append(steps)
    assert seen[0] == [2, 2, 2]
    assert seen[-1] == [8, 8, 8]
    assert all(a <= b for one, two in pairwise(seen) for a, b in zip(one, two, strict=True))
