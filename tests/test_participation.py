"""Which sensors take part, and how their turns, batches and epochs hang together."""

from __future__ import annotations

import numpy as np
import pytest

from fedquant.keys import Key
from fedquant.participation import Participation
from fedquant.plan import make_plan
from fedquant.scenario import load

KEY = Key(5, run=9)


def test_all_sensors_take_part_in_every_round() -> None:
    for scheme in ("random", "turns"):
        everyone = Participation(scheme, 4, 4)  # type: ignore[arg-type]
        assert [everyone.of(KEY, r) for r in (1, 2, 7)] == [[0, 1, 2, 3]] * 3
        assert everyone.rounds == 1


@pytest.mark.parametrize(("sensors", "per_round"), [(390, 1), (10, 3), (7, 7), (8, 4)])
def test_turns_visit_every_sensor_once_a_pass(sensors: int, per_round: int) -> None:
    turns = Participation("turns", sensors, per_round)
    for lap in range(3):
        rounds = range(lap * turns.rounds + 1, (lap + 1) * turns.rounds + 1)
        visited = [s for r in rounds for s in turns.of(KEY, r)]
        assert sorted(visited) == list(range(sensors))
        assert {turns.turn(r) for r in rounds} == {lap + 1}


def test_every_pass_has_an_order_of_its_own() -> None:
    turns = Participation("turns", 30, 1)
    first, second = ([turns.of(KEY, r)[0] for r in range(lo, lo + 30)] for lo in (1, 31))
    assert first != second
    assert first != [Participation("turns", 30, 1).of(Key(6, run=9), r)[0] for r in range(1, 31)]


def test_random_rounds_have_distinct_sensors_in_order() -> None:
    random = Participation("random", 20, 6)
    drawn = [random.of(KEY, r) for r in range(1, 200)]
    assert all(d == sorted(set(d)) and len(d) == 6 for d in drawn)
    # 199 draws of 6 among 20: each sensor 59.7 times, σ = √(199·.3·.7) = 6.5; 5σ
    assert np.abs(np.bincount(np.concatenate(drawn), minlength=20) - 59.7).max() < 5 * 6.5
    assert random.turn(17) == 17


def test_a_sensor_that_takes_turns_uses_every_sample_once_an_epoch() -> None:
    changes = {
        "training.sampling": "epochs",
        "training.sensors_per_round": 5,
        "training.participation": "turns",
        "training.batch_size": 64,
    }
    plan = make_plan(load("wearables", changes))
    passes = plan.scenario.participation.rounds
    turns = -(-max(plan.federation.sizes) // 64)
    assert plan.epoch_rounds == passes * turns
    used: dict[int, list[int]] = {}
    for round in range(1, plan.epoch_rounds + 1):
        assert plan.epoch(round) == 0
        for sensor in plan.scenario.participation.of(plan.scenario.key, round):
            used.setdefault(sensor, []).extend(plan.batch(sensor, round).tolist())
    assert plan.epoch(plan.epoch_rounds + 1) == 1
    assert {s: sorted(u) for s, u in used.items()} == {
        s: list(range(n)) for s, n in enumerate(plan.federation.sizes)
    }


def test_a_given_epoch_is_shared_out_among_turns() -> None:
    changes = {
        "training.sampling": "epochs",
        "training.sensors_per_round": 1,
        "training.participation": "turns",
        "training.epoch_rounds": 48,
        "training.batch_size": 1000,
    }
    plan = make_plan(load("wearables", changes))
    passes = plan.scenario.participation.rounds
    assert plan.epoch(48) == 0
    assert plan.epoch(49) == 1
    sensor = plan.scenario.participation.of(plan.scenario.key, 1)[0]
    n, turns = plan.federation.sizes[sensor], 48 // passes
    assert len(plan.batch(sensor, 1)) in (n // turns, -(-n // turns))


def test_an_epoch_of_some_sensors_a_round_is_as_long_as_a_pass() -> None:
    plan = make_plan(load("wearables", {"training.sensors_per_round": 1}))
    assert plan.epoch_rounds == plan.scenario.sensors * -(-max(plan.federation.sizes) // 16)
