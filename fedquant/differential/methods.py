"""Gradient methods: step sizes, momenta and the ranges r_t of what is quantized.

Lin, Kostina, Hassibi, arXiv 2002.02508: Theorem III.1, and its extension to Nesterov's accelerated gradient
descent (AGD) and Polyak's heavy ball (HB). B_t bounds ‖x_t − x*‖ of the unquantized method.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, final

import numpy as np

from fedquant.differential.arrays import F64
from fedquant.differential.problems import Problem
from fedquant.errors import ConfigError, suggest

Momentum = Literal["none", "nesterov", "heavy_ball"]
Feedback = Literal["exact", "naive", "differential"]
METHODS: Final[dict[str, tuple[Momentum, Feedback]]] = {
    "gd": ("none", "exact"),
    "nq-gd": ("none", "naive"),
    "dq-gd": ("none", "differential"),
    "agd": ("nesterov", "exact"),
    "dq-agd": ("nesterov", "differential"),
    "hb": ("heavy_ball", "exact"),
    "dq-hb": ("heavy_ball", "differential"),
}


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """A method for a problem, and a quantizer with ‖x̂ − x‖ ≤ q·r. L, mu, D: float64[…]. Made by `plan`."""

    momentum: Momentum
    feedback: Feedback
    quadratic: bool
    q: float
    L: F64
    mu: F64
    D: F64

    @property
    def root(self) -> F64:
        """√κ = √(L/μ)."""
        return np.asarray(np.sqrt(self.L / self.mu))

    @cached_property
    def eta(self) -> F64:
        """The step size: 2/(L+μ); AGD 1/L; HB 4/(√L+√μ)²."""
        if self.momentum == "none":
            return np.asarray(2 / (self.L + self.mu))
        if self.momentum == "nesterov":
            return np.asarray(1 / self.L)
        return np.asarray(4 / (np.sqrt(self.L) + np.sqrt(self.mu)) ** 2)

    @cached_property
    def gamma(self) -> F64:
        """The momentum: 0; AGD (√κ−1)/(√κ+1); HB its square."""
        if self.momentum == "none":
            return np.zeros_like(self.L)
        slow = (self.root - 1) / (self.root + 1)
        return np.asarray(slow if self.momentum == "nesterov" else slow**2)

    @cached_property
    def sigma(self) -> F64:
        """The unquantized rate: (κ−1)/(κ+1); AGD √(1−1/√κ), or 1−1/√κ for quadratics; HB (√κ−1)/(√κ+1)."""
        if self.momentum == "none":
            return np.asarray((self.L - self.mu) / (self.L + self.mu))
        if self.momentum == "nesterov":
            return np.asarray((1 - 1 / self.root) ** (1 if self.quadratic else 0.5))
        return np.asarray((self.root - 1) / (self.root + 1))

    def bound(self, t: int) -> F64:
        """B_t ≥ ‖x_t − x*‖, x_t where the unquantized method takes its t-th gradient: float64[…]."""
        decay = self.D * self.sigma**t
        if self.momentum == "none":
            return decay
        if self.momentum == "heavy_ball":
            return np.asarray(decay * (1 + (1 + self.sigma) * t))
        if self.quadratic:
            return np.asarray(decay * (1 + t / (self.root + 1)))  # θ/(1+θ) = 1/(√κ+1)
        return np.asarray(decay * (self.root**2 + 1) / (self.root + 1))

    def range(self, t: int, last: F64, before: F64) -> F64:
        """r_t from r_{t−1} and r_{t−2}, 0 before the start: what is quantized at t has no larger norm."""
        if self.feedback == "naive":
            return np.asarray(self.L * self.D if t == 0 else (self.sigma + self.q) * last)
        return np.asarray(self.L * self.bound(t) + self.q * ((1 + self.gamma) * last + self.gamma * before))


def plan(name: str, problem: Problem, q: float = 0.0) -> Plan:
    """The plan of a method by its name in METHODS; q of the quantizer, unused where nothing is quantized.

    Raises ConfigError for an unknown name, a negative q, and for heavy ball on anything but a quadratic.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}: {suggest(name, METHODS)}")
    if not 0 <= q < np.inf:
        raise ConfigError(f"{name}: q={q} is negative or not finite")
    momentum, feedback = METHODS[name]
    if momentum == "heavy_ball" and not problem.quadratic:
        raise ConfigError(
            f"{name}: its ranges hold for quadratic problems alone; use {name[:-2]}agd or {name[:-2]}gd"
        )
    q = 0.0 if feedback == "exact" else float(q)
    return Plan(momentum, feedback, problem.quadratic, q, problem.L, problem.mu, problem.D)
