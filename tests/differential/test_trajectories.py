from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedquant.codecs.ball import Ball as BallCodec
from fedquant.codecs.base import Spec
from fedquant.codecs.uniform import Uniform
from fedquant.differential import rates, server, worker
from fedquant.differential.arrays import norm
from fedquant.differential.logistic import random_logistic
from fedquant.differential.methods import METHODS, plan
from fedquant.differential.problems import Problem, gaussian, matrix_market, of_matrix
from fedquant.differential.quantizers import Ball, Cube, Quantizer
from fedquant.differential.simulate import simulate
from fedquant.errors import CodecError, ConfigError
from fedquant.keys import Key

KEY = Key(2021)
DIFFERENTIAL = ["dq-gd", "dq-agd", "dq-hb"]
EPS = 2.0**-52


def access_points(name: str, problem: Problem, quantizer: Quantizer | None, steps: int) -> tuple[Any, Any]:
    """z_t and r_t of a run, until it ends."""
    now = plan(name, problem, quantizer.q if quantizer else 0.0)
    at, node, out, ranges = server.start(now, problem.x0), worker.start(problem.x0), [], []
    while not server.finished(now, at).all() and at.t < steps:
        z = worker.access_point(now, node, at.x)
        u = worker.quantizer_input(now, node, problem.gradient(z))
        p = quantizer(u, at.range) if quantizer else u
        out.append(z)
        ranges.append(at.range)
        node, at = worker.learn(now, node, u, p), server.step(now, at, p)
    return np.array(out), np.array(ranges)


@pytest.mark.parametrize("tool", [Cube, Ball])
@pytest.mark.parametrize("name", DIFFERENTIAL)
@pytest.mark.parametrize("kappa", [3.0, 100.0, 1e4])
def test_gradients_are_taken_on_the_unquantized_trajectory(name: str, kappa: float, tool: type) -> None:
    problem = gaussian(KEY, 16, kappa, 20)
    z, r = access_points(name, problem, tool(16, 5.0), 2000)
    x, _ = access_points(name[3:], problem, None, len(z))
    steps = min(len(z), len(x))
    # roundings of numbers as large as max r/L (and x*), a few in each step, which HB amplifies by up to √κ
    scale = np.maximum(r.max(axis=0) / problem.L, norm(problem.x_star)) * (50 + 5 * np.sqrt(kappa))
    assert (norm(z[:steps] - x[:steps]).max(axis=0) < EPS * scale).all()


@pytest.mark.parametrize("tool", [Cube, Ball])
def test_gradients_of_logistic_regression_too(tool: type) -> None:
    problem = random_logistic(KEY, 8, 0.1, 20)
    for name in ("dq-gd", "dq-agd"):
        z, r = access_points(name, problem, tool(8, 5.0), 2000)
        x, _ = access_points(name[3:], problem, None, len(z))
        steps = min(len(z), len(x))
        scale = np.maximum(r.max(axis=0) / problem.L, norm(problem.x_star))
        assert (norm(z[:steps] - x[:steps]).max(axis=0) < 100 * EPS * scale).all()


@pytest.mark.parametrize("kappa", [1.5, 10.0, 100.0, 1e3, 1e4])
def test_nothing_overflows_and_every_error_is_within_its_bound(kappa: float) -> None:
    problem = gaussian(KEY, 8, kappa, 300)
    for name in (*DIFFERENTIAL, "nq-gd"):
        for quantizer in (Cube(8, 3.0), Cube(8, 5.6), Ball(8, 2.0), Ball(8, 4.0)):
            outcome = simulate(name, problem, quantizer, 600)  # an overflow raises
            assert (outcome.reach <= 1).all()
            assert (outcome.error <= outcome.bound).all()


def test_nothing_overflows_without_quadratics() -> None:
    for ridge in (1.0, 0.01):
        problem = random_logistic(KEY, 8, ridge, 100)
        for name in ("dq-gd", "dq-agd", "nq-gd"):
            for quantizer in (Cube(8, 4.0), Ball(8, 3.0)):
                outcome = simulate(name, problem, quantizer, 400)
                assert (outcome.reach <= 1).all()
                assert (outcome.error <= outcome.bound).all()


def test_a_wrong_constant_is_noticed() -> None:
    problem = gaussian(KEY, 8, 10.0, 50)
    with pytest.raises(CodecError, match=r"is outside r = .*; L, μ or D do not hold"):
        simulate("dq-gd", replace(problem, D=problem.D / 20), Ball(8, 4.0))


# Means of an independent simulation (its ensemble may differ in m and spectrum); an instance's rate has a
# standard deviation below .01, so 200 of them tell .004 apart.
@pytest.mark.parametrize(
    ("bits", "differential", "naive"), [(3, 0.828, 1.50), (5, 0.811, 0.992), (8, 0.811, 0.823)]
)
def test_the_rates_of_the_figure(bits: int, differential: float, naive: float) -> None:
    problem = gaussian(KEY, 32, 10.0, 200)
    quantizer = Cube(32, bits)
    slow, fast = simulate("nq-gd", problem, quantizer).rate, simulate("dq-gd", problem, quantizer).rate
    assert fast.mean() == pytest.approx(differential, abs=0.004)
    assert slow.mean() == pytest.approx(naive, abs=0.01)
    assert (fast < slow).all()


def test_the_phase_transition() -> None:
    n, kappa = 32, 10.0
    problem = gaussian(KEY, n, kappa, 50)
    threshold = rates.cube_bits(n, rates.lossless("dq-gd", kappa))
    assert threshold == pytest.approx(np.log2(np.sqrt(n) / (9 / 11)))
    exact = simulate("gd", problem).rate.mean()
    loss = {
        d: simulate("dq-gd", problem, Cube(n, threshold + d)).rate.mean() - exact for d in (-0.2, 0.2, 1, 2)
    }
    # ψ = q sets the rate below the threshold; above it, the rest is what T ≈ 140 iterations leave
    assert loss[-0.2] == pytest.approx(Cube(n, threshold - 0.2).q - exact, abs=0.02)
    assert loss[-0.2] > 5 * loss[0.2] > 5 * loss[1] > 5 * loss[2] > 0


def test_the_ball_needs_two_bits_where_the_cube_needs_four() -> None:
    problem = gaussian(KEY, 104, 10.0, 20)
    exact = simulate("gd", problem).rate.mean()
    assert simulate("dq-gd", problem, Ball(104, 2.0)).rate.mean() < exact + 0.04
    assert simulate("dq-gd", problem, Cube(104, 3.0)).rate.mean() > 1
    assert simulate("dq-gd", problem, Cube(104, 4.0)).rate.mean() < exact + 0.04


@pytest.mark.parametrize("name", ["nq-gd", *DIFFERENTIAL])
@pytest.mark.parametrize(("tool", "codec"), [(Cube, Uniform(bits=4.6)), (Ball, BallCodec(bits=4.6))])
def test_payloads_give_the_rates_of_the_simulation(name: str, tool: type, codec: Any) -> None:
    problem, spec = gaussian(KEY, 8, 10.0, 3), Spec(8, "float64")
    expected = simulate(name, problem, tool(8, 4.6))
    for i in range(3):
        one = problem.take(i)
        now = plan(name, one, codec.covering_ratio(spec))
        at, node = server.start(now, one.x0), worker.start(one.x0)
        while not server.finished(now, at):
            key, knobs = KEY.fold(round=at.t), server.range_knob(float(at.range))
            z = worker.access_point(now, node, at.x)
            u = worker.quantizer_input(now, node, one.gradient(z))
            payload, _ = codec.encode(u, spec, key, knobs=knobs)
            node = worker.learn(now, node, u, codec.decode(payload, spec, key, knobs))
            at = server.step(now, at, codec.decode(payload, spec, key, knobs))
        rate = (norm(at.x - one.x_star) / norm(one.x0 - one.x_star)) ** (1 / at.t)
        assert at.t == expected.steps[i]
        assert rate == pytest.approx(expected.rate[i], abs=1e-6)


def test_the_real_matrix(ash219: Path) -> None:
    problem = of_matrix(KEY, matrix_market(ash219), 20)
    exact, fast = simulate("gd", problem), simulate("dq-gd", problem, Cube(85, 5.0))
    assert fast.rate.mean() < exact.rate.mean() + 0.015
    assert simulate("nq-gd", problem, Cube(85, 5.0)).rate.mean() > 1  # σ + q = 1.09
    assert (fast.reach <= 1).all()
    assert (fast.error <= fast.bound).all()


def test_instances_that_end_apart() -> None:
    easy, hard = gaussian(KEY, 6, 2.0, 2), gaussian(KEY, 6, 50.0, 2)
    both = type(easy)(
        *(np.concatenate([getattr(p, f) for p in (easy, hard)]) for f in easy.__dataclass_fields__)
    )
    outcome = simulate("dq-hb", both, Cube(6, 6.0))
    for part, problem in ((slice(0, 2), easy), (slice(2, 4), hard)):
        alone = simulate("dq-hb", problem, Cube(6, 6.0))
        assert np.array_equal(outcome.steps[part], alone.steps)
        assert outcome.rate[part] == pytest.approx(alone.rate, rel=1e-9)
    assert outcome.steps[0] < outcome.steps[2]


def test_a_condition_number_of_one_takes_one_step() -> None:
    outcome = simulate("gd", gaussian(KEY, 4, 1.0, 3))
    assert (outcome.steps <= 2).all()
    assert (outcome.error < 1e-13).all()


def test_projection() -> None:
    p, r = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), np.array([1.0, 1.0, 1.0])
    assert server.project(p, r) == pytest.approx(np.array([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_what_is_refused() -> None:
    problem = gaussian(KEY, 4, 2.0, 2)
    with pytest.raises(ConfigError, match="unknown method 'dq-agdd': did you mean 'dq-agd'"):
        plan("dq-agdd", problem)
    with pytest.raises(ConfigError, match=r"dq-gd: q=-1\.0 is negative"):
        plan("dq-gd", problem, -1.0)
    for name in ("hb", "dq-hb"):
        with pytest.raises(
            ConfigError, match=f"^{name}: its ranges hold for quadratic problems alone; use .*agd"
        ):
            plan(name, random_logistic(KEY, 4, 0.1))
    with pytest.raises(ConfigError, match="nq-gd: give a quantizer, or take the unquantized method gd"):
        simulate("nq-gd", problem)
    with pytest.raises(ConfigError, match=r"x0\[4\], .* expected x0\[instances, n\]"):
        simulate("gd", problem.take(0))


def test_promises() -> None:
    sigma, gamma = rates.constants("dq-agd", 16.0)
    assert (sigma, gamma) == pytest.approx((0.75, 0.6))
    assert rates.constants("agd", 16.0, quadratic=False)[0] == pytest.approx(0.75**0.5)
    assert rates.constants("hb", 16.0) == pytest.approx((0.6, 0.36))
    assert rates.promised("nq-gd", 3.0, 0.2) == pytest.approx(0.7)
    assert rates.promised("dq-gd", 3.0, 0.7) == pytest.approx(0.7)
    assert rates.promised("gd", 3.0, 0.7) == pytest.approx(0.5)
    for name in DIFFERENTIAL:
        q = rates.lossless(name, 16.0)
        assert rates.promised(name, 16.0, q) == pytest.approx(rates.constants(name, 16.0)[0])
        assert rates.promised(name, 16.0, rates.linear(name, 16.0)) == pytest.approx(1)
    assert rates.converse(3.0, 0.5) == pytest.approx(0.5**0.5)
    assert rates.converse(3.0, 2.0) == pytest.approx(0.5)
    assert set(METHODS) == {"gd", "nq-gd", "dq-gd", "agd", "dq-agd", "hb", "dq-hb"}
