"""What theory promises: asymptotic linear rates as functions of κ and the quantizer's q.

Lin, Kostina, Hassibi, arXiv 2002.02508: (17), (20), (25), (30) and, for momentum, (2), (3) and (34).
"""

from __future__ import annotations

import math

import numpy as np

from fedquant.differential.methods import METHODS, Plan


def constants(name: str, kappa: float, quadratic: bool = True) -> tuple[float, float]:
    """(σ, γ) of a method of METHODS at condition number κ: its unquantized rate and its momentum."""
    momentum, feedback = METHODS[name]
    one = np.asarray(1.0)
    plan = Plan(momentum, feedback, quadratic, 0.0, one * kappa, one, one)
    return float(plan.sigma), float(plan.gamma)


def promised(name: str, kappa: float, q: float, quadratic: bool = True) -> float:
    """The rate of a method with quantizer q, not clipped at 1.

    max{σ, ψ}, ψ = ½[q(1+γ) + √(q²(1+γ)² + 4qγ)] (GD: ψ = q); σ + q for the naive method.
    """
    sigma, gamma = constants(name, kappa, quadratic)
    feedback = METHODS[name][1]
    if feedback == "exact":
        return sigma
    if feedback == "naive":
        return sigma + q
    push = q * (1 + gamma)
    return float(max(sigma, (push + math.sqrt(push**2 + 4 * q * gamma)) / 2))


def converse(kappa: float, bits: float) -> float:
    """max{σ_GD, 2^−R}: no GD-like method is faster over all problems, R = bits/coordinate."""
    return float(max((kappa - 1) / (kappa + 1), 2.0**-bits))


def lossless(name: str, kappa: float, quadratic: bool = True) -> float:
    """The q below which a differential method is as fast as the unquantized one: ψ(q) = σ."""
    sigma, gamma = constants(name, kappa, quadratic)
    return sigma**2 / (sigma * (1 + gamma) + gamma) if sigma > 0 else 0.0


def linear(name: str, kappa: float) -> float:
    """The q below which a differential method converges linearly: q(1 + 2γ) = 1."""
    return 1 / (1 + 2 * constants(name, kappa)[1])


def cube_bits(n: int, q: float) -> float:
    """The rate R at which the cube of n dimensions has that q: √n·2^−R = q."""
    return math.log2(math.sqrt(n) / q)
