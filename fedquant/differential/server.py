"""The server of an iteration: it steps by what the worker sent and sets the next range."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

from fedquant.differential.arrays import F64, col, norm
from fedquant.differential.methods import Plan
from fedquant.wire import Knobs

FLOOR: Final = 1e-12
"""Of r_0: below it float64 cannot tell gradients from their rounding, and any run would overflow."""


@final
@dataclass(frozen=True, eq=False)
class Server:
    """Before iteration t: x̂_t and r_t go down. previous: ŷ_t of AGD, x̂_{t−1} of heavy ball; last: r_{t−1}."""

    t: int
    x: F64
    previous: F64
    range: F64
    last: F64


def start(plan: Plan, x0: F64) -> Server:
    """Before the first iteration at x0: float64[…, n]."""
    zero = np.zeros_like(plan.D)
    return Server(0, x0, x0, plan.range(0, zero, zero), zero)


def step(plan: Plan, server: Server, p: F64) -> Server:
    """The server after p_t: float64[…, n], what the payload decodes to."""
    if plan.feedback == "naive":
        p = project(p, server.range)  # without it r_t is no bound: η > 1/L
    x, moved, gamma = server.x, server.x - col(plan.eta) * p, col(plan.gamma)
    if plan.momentum == "heavy_ball":
        after, previous = moved + gamma * (x - server.previous), x
    else:
        after, previous = moved + gamma * (moved - server.previous), moved
    t = server.t + 1
    return Server(t, after, previous, plan.range(t, server.range, server.last), server.range)


def project(p: F64, r: F64) -> F64:
    """The point of the ball ‖x‖ ≤ r nearest to p: float64[…, n]."""
    size = norm(p)
    return p * col(np.where(size > r, r / np.where(size > 0, size, 1), 1.0))


def finished(plan: Plan, server: Server, floor: float = FLOOR) -> npt.NDArray[np.bool_]:
    """bool[…]: whether r_t ≤ floor·r_0, where float64 ends. For methods without quantizer, r_t = L·B_t."""
    zero = np.zeros_like(plan.D)
    return np.asarray(server.range <= floor * plan.range(0, zero, zero))


def error_bound(plan: Plan, server: Server) -> F64:
    """What ‖x̂_t − x*‖ cannot exceed: float64[…].

    B_t + η·q·r_{t−1}; for AGD B_t + η·q·[(1+γ)r_{t−1} + γr_{t−2}]; for the naive method r_t/μ.
    """
    if plan.feedback == "naive":
        return np.asarray(server.range / plan.mu)
    unquantized = plan.bound(server.t)
    if plan.momentum == "nesterov":
        return np.asarray(unquantized + plan.eta * (server.range - plan.L * unquantized))
    return np.asarray(unquantized + plan.eta * plan.q * server.last)


def range_knob(r: float) -> Knobs:
    """r_t as the knob of the codecs `uniform` and `ball`: 8 bytes, float64 little-endian."""
    return {"range": struct.pack("<d", r)}
