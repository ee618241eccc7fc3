"""What DQSGD's paper proves, measured on quadratic losses, where the error has a closed form.

F(x) = ½(x−x*)ᵀH(x−x*); x ← x − η·Q_s(g), g = H(x−x*) + noise of variance σ²/d a coordinate (σ²/K there).
Given g, coordinate i of Q_s(g) has variance (‖g‖/s)²·f_i(1−f_i), f_i being the fractional part of
s|g_i|/‖g‖. Steps may follow earlier rounds, as controllers do: the formulas hold nevertheless.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from fedquant.codecs.base import Spec
from fedquant.codecs.qsgd import QSGD
from fedquant.control.base import Controller, Horizon, levels_of
from fedquant.control.budget import Budget, payload_size
from fedquant.control.rules import DQSGDConvex, DQSGDNonconvex, Fixed
from fedquant.kernels import rng
from fedquant.keys import Key

F64 = npt.NDArray[np.float64]
ETA, SIGMA, ROUNDS = 0.1, 0.1, 40


@dataclass(frozen=True)
class Measured:
    """excess: F − F* of each run at the end, [runs]; noise: the variances given g, [rounds, runs, d]."""

    excess: F64
    noise: F64
    ratios: F64  # (‖g‖/s)², [rounds, runs]


def unit(key: Key, *shape: int) -> F64:
    """Independent draws of mean 0 and variance 1."""
    size = int(np.prod(shape))
    return (rng.uniform(key, size).astype(np.float64).reshape(shape) - 0.5) * np.sqrt(12)


def measure(
    h: F64, start: F64, rule: Controller, runs: int, norm: float, key: Key, sigma: float = SIGMA
) -> Measured:
    """`runs` runs of one worker from x − x* = `start`, each with a controller of its own."""
    d = len(start)
    ahead = Horizon(Spec(d), QSGD(), ROUNDS, (ROUNDS,))
    memories = [rule.init(ahead)] * runs
    x, noise, ratios = np.tile(start, (runs, 1)), [], []
    for round in range(1, ROUNDS + 1):
        at = key.fold(round=round)
        bits = [rule.knobs(memory, round, ahead)[0]["bits"] for memory in memories]
        s = np.array([levels_of(int(b)) for b in bits])[:, None]
        g = x @ h + sigma / np.sqrt(d) * unit(at, runs, d)
        scale = np.linalg.norm(g, norm, axis=1, keepdims=True) / s
        level, f = np.divmod(np.abs(g) / scale, 1)
        draw = rng.uniform(at.fold(stream=1), g.size).reshape(g.shape)
        quantized = np.sign(g) * scale * (level + (draw < f))
        noise.append(scale**2 * f * (1 - f))
        ratios.append(scale[:, 0] ** 2)
        x -= ETA * quantized
        memories = [
            rule.observe(memory, round, q, {}, ahead)
            for memory, q in zip(memories, quantized.astype(np.float32), strict=True)
        ]
    return Measured(np.sum(x * (x @ h), axis=1) / 2, np.array(noise), np.array(ratios))


def rules(d: int) -> list[Controller]:
    return [
        Fixed(bits=2),
        DQSGDConvex(k=15, alpha=0.85, initial_bits=3),
        DQSGDNonconvex(t=5, initial_bits=3),
    ]


def agree(difference: F64, part: F64) -> None:
    """The mean difference is 0 within 5 standard errors, and these are small beside quantization's part."""
    tolerance = 5 * difference.std() / np.sqrt(len(difference))
    assert abs(difference.mean()) < tolerance
    print(tolerance / part.mean())
    assert tolerance < 0.5 * part.mean()


@pytest.mark.parametrize("norm", [2, np.inf])
@pytest.mark.parametrize("rule", rules(20), ids=lambda r: r.name)
def test_isotropic_error_is_the_closed_form(rule: Controller, norm: float) -> None:
    """E[F_N − F*] = αᴺΔ₀ + (λη²/2)Σα^(N−1−n)(σ² + E ν_n), α = (1−λη)².

    Each run minus its formula, whose ν_n are its own, has mean 0: 5 standard errors of that mean.
    """
    d, lam, runs = 20, 1.5, 2000
    start = np.full(d, 1 / np.sqrt(d))
    got = measure(lam * np.eye(d), start, rule, runs, norm, Key(1))
    alpha = (1 - lam * ETA) ** 2
    weights = lam * ETA**2 / 2 * alpha ** np.arange(ROUNDS - 1, -1, -1)
    first = alpha**ROUNDS * lam / 2 * start @ start
    quantization = weights @ got.noise.sum(axis=2)
    agree(got.excess - first - weights.sum() * SIGMA**2 - quantization, quantization)


@pytest.mark.parametrize("rule", rules(6), ids=lambda r: r.name)
def test_theorem_2(rule: Controller) -> None:
    """E[F_N − F*] = ½δ₀ᵀρᴺHρᴺδ₀ + (η²/2)ΣTr[ρ^(N−1−n)·Σ_n·H·ρ^(N−1−n)], ρ = I − ηH, H dense."""
    d, runs = 6, 3000
    turn, _ = np.linalg.qr(unit(Key(5), d, d))
    h = turn @ np.diag(np.linspace(1, 3, d)) @ turn.T
    start = np.linspace(-1, 0.5, d)
    got = measure(h, start, rule, runs, 2, Key(2))
    rho = np.eye(d) - ETA * h
    powers = [np.linalg.matrix_power(rho, ROUNDS - 1 - n) for n in range(ROUNDS)]
    last = rho @ powers[0]
    first = start @ last @ h @ last @ start / 2
    # Σ_n is diagonal: coordinates are drawn and rounded independently
    weights = ETA**2 / 2 * np.array([np.diag(p @ h @ p) for p in powers])
    sampling = weights.sum() * SIGMA**2 / d
    quantization = np.einsum("ni,nri->r", weights, got.noise)
    agree(got.excess - first - sampling - quantization, quantization)


@pytest.mark.parametrize("rule", rules(20), ids=lambda r: r.name)
def test_theorem_1_corrected(rule: Controller) -> None:
    """The upper bound with d/8 in place of d/12, the lower one with the exact noise; η ≤ (1−√(1−μ/L))/μ.

    5 standard errors of the mean over runs on either side.
    """
    d, runs, mu, top = 20, 1000, 1.0, 1.5
    assert (1 - np.sqrt(1 - mu / top)) / mu >= ETA
    h, start = np.diag(np.linspace(mu, top, d)), np.full(d, 2 / np.sqrt(d))
    got = measure(h, start, rule, runs, 2, Key(3))
    excess, error = got.excess.mean(), 5 * got.excess.std() / np.sqrt(runs)
    first = start @ h @ start / 2

    def bound(rate: float, curvature: float, noise: F64) -> float:
        weights = rate ** np.arange(ROUNDS - 1, -1, -1)
        return rate**ROUNDS * first + curvature * ETA**2 / 2 * float(weights @ (SIGMA**2 + noise))

    upper = bound(1 - 2 * mu * ETA + top * mu * ETA**2, top, d / 4 * got.ratios.mean(axis=1))
    lower = bound(1 - 2 * top * ETA + top * mu * ETA**2, mu, got.noise.sum(axis=2).mean(axis=1))
    assert lower - error <= excess <= upper + error
    print(lower, excess, error, upper)
    assert upper < 10 * lower


@pytest.mark.parametrize("bits", [2, 3])
def test_the_papers_noise_bound_is_too_small(bits: int) -> None:
    """E‖Q_s(g) − g‖² can be d/(4s²)·‖g‖∞², not only d/(6s²): here every fraction is ½, by the real codec."""
    d, s, spec = 50, levels_of(bits), Spec(50)
    g = np.full(d, 0.5 / s, np.float32)
    g[0] = 1
    payload, _ = QSGD(bits=bits).encode(g, spec, Key(4))
    error = float(np.sum((QSGD(bits=bits).decode(payload, spec, Key(4)) - g).astype(np.float64) ** 2))
    assert error == pytest.approx((d - 1) / (4 * s**2), rel=1e-5)
    assert error > d / (6 * s**2)


@pytest.mark.parametrize("norm", ["max", "l2"])
def test_the_codec_has_this_noise(norm: str) -> None:
    """Mean over 800 keys of ‖Q_s(g) − g‖² against (‖g‖/s)²Σf(1−f): 5 standard errors."""
    d, s, keys = 40, 3, 800
    codec, spec, g = QSGD(bits=3, norm=norm), Spec(d), unit(Key(6), d).astype(np.float32)
    scale = np.linalg.norm(g.astype(np.float64), np.inf if norm == "max" else 2) / s
    f = np.abs(g) / scale % 1
    errors = []
    for i in range(keys):
        key = Key(7, sensor=i)
        y = codec.decode(codec.encode(g, spec, key)[0], spec, key)
        errors.append(float(np.sum((y - g).astype(np.float64) ** 2)))
    expected, tolerance = float(scale**2 * np.sum(f * (1 - f))), 5 * np.std(errors) / np.sqrt(keys)
    assert abs(np.mean(errors) - expected) < tolerance < 0.1 * expected


# ---- Appendix E: against fixed bits, in real bytes

LAM, WORKERS, LONG, SIZE = 1.0, 4, 120, 300


def train(rule: Controller, codec: QSGD, seed: int) -> tuple[float, float, int]:
    """(F_N − F*, mean ‖∇F‖² over rounds, bytes a worker) from ‖x₀ − x*‖ = 10, noise σ = ½ a worker."""
    spec = Spec(SIZE)
    ahead = Horizon(spec, codec, LONG, (LONG,) * WORKERS)
    memory, spent, gradients = rule.init(ahead), 0, 0.0
    x = np.full(SIZE, 10 / np.sqrt(SIZE))
    for round in range(1, LONG + 1):
        knobs, memory = rule.knobs(memory, round, ahead)
        total, sizes = np.zeros(SIZE, np.float32), {}
        keys = [Key(seed, round=round, sensor=w) for w in range(WORKERS)]
        for w, key in enumerate(keys):
            noise = unit(key.fold(stream=1), SIZE)
            g = (LAM * x + 0.5 / np.sqrt(SIZE) * noise).astype(np.float32)
            payload, _ = codec.encode(g, spec, key, knobs=knobs)
            total += codec.decode(payload, spec, key, knobs)
            sizes[w] = len(payload)
        spent += max(sizes.values())
        gradients += LAM**2 * float(x @ x) / LONG
        mean = codec.finish(total, WORKERS)
        memory = rule.observe(memory, round, mean, sizes, ahead)
        x -= ETA * mean
    return LAM / 2 * float(x @ x), gradients, spent


def both(rule: Controller, fixed: Controller, codec: QSGD, runs: int) -> tuple[F64, F64]:
    """What `train` returns for the rule, and for fixed bits: float64[3, runs] each, with the same noise."""
    mine, theirs = (np.array([train(r, codec, seed) for seed in range(runs)]).T for r in (rule, fixed))
    return mine, theirs


def test_convex_ends_below_fixed_bits_within_their_budget() -> None:
    """Final error 2.26 times smaller than with 4 bits (l2 scales), by 0.1 % fewer bytes.

    At least 1.7 times is asked for, and 5 standard errors of the paired difference over 6 runs.
    """
    codec = QSGD(norm="l2")
    budget = LONG * payload_size(codec, Spec(SIZE), {"bits": 4})
    rule = DQSGDConvex(budget=Budget(bytes=budget), alpha=(1 - LAM * ETA) ** 2)
    mine, theirs = both(rule, Fixed(bits=4), codec, 6)
    assert (theirs[2] == budget).all()
    assert (mine[2] <= budget).all()
    gain = theirs[0] - mine[0]
    assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain))
    assert theirs[0].mean() > 1.7 * mine[0].mean()


def test_nonconvex_has_smaller_gradients_than_fixed_bits() -> None:
    """Mean ‖∇F‖² (eq. 5) above that of 14 bits is 4.8 times smaller than with 4 bits, by 0.6 % fewer bytes.

    The final error, which this rule is not made for, is larger. 3 standard errors of the paired difference
    over 12 runs are asked for.
    """
    codec = QSGD(norm="l2")
    mine, theirs = both(DQSGDNonconvex(t=10, integer_bits=False), Fixed(bits=4), codec, 12)
    assert mine[2].mean() <= theirs[2].mean()
    gain = theirs[1] - mine[1]
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))
