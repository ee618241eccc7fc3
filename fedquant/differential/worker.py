"""The worker of an iteration: it takes its gradient where the unquantized method would (paper, Algorithm 1).

e_t = p_t − u_t is what quantization added at t. The server's x̂_t lacks c = (1+γ)e_{t−1} − γe_{t−2}, so the
worker looks at z = x̂ + ηc (heavy ball: x̂ + ηe_{t−1}) and sends u = ∇f(z) − c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from fedquant.differential.arrays import F64, col
from fedquant.differential.methods import Plan


@final
@dataclass(frozen=True, eq=False)
class Worker:
    """What a worker remembers: last = e_{t−1} and before = e_{t−2}, float64[…, n]."""

    last: F64
    before: F64

    def owed(self, plan: Plan) -> F64:
        """c: float64[…, n]."""
        gamma = col(plan.gamma)
        return (1 + gamma) * self.last - gamma * self.before


def start(x0: F64) -> Worker:
    """Before the first iteration: no errors yet."""
    return Worker(np.zeros_like(x0), np.zeros_like(x0))


def access_point(plan: Plan, worker: Worker, x: F64) -> F64:
    """z_t, where to take the gradient, from the server's x̂_t: float64[…, n]."""
    owed = worker.last if plan.momentum == "heavy_ball" else worker.owed(plan)
    return x + col(plan.eta) * owed


def quantizer_input(plan: Plan, worker: Worker, gradient: F64) -> F64:
    """u_t from ∇f(z_t): float64[…, n]."""
    return gradient - worker.owed(plan)


def learn(plan: Plan, worker: Worker, u: F64, p: F64) -> Worker:
    """The worker after u_t was quantized to p_t; the naive method forgets its errors."""
    return Worker(p - u, worker.last) if plan.feedback == "differential" else worker
