"""Rates of convergence against bits: many methods, many R, many instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from fedquant.differential import rates
from fedquant.differential.methods import METHODS
from fedquant.differential.problems import Problem
from fedquant.differential.quantizers import Ball, Cube, Quantizer
from fedquant.differential.server import FLOOR
from fedquant.differential.simulate import Outcome, simulate

Kind = Literal["", "cube", "ball"]
QUANTIZERS: dict[Kind, Callable[[int, float], Quantizer]] = {"cube": Cube, "ball": Ball}


@final
@dataclass(frozen=True)
class Point:
    """Means over instances. rate, low and high (5 % and 95 % of instances) are clipped at 1.

    promised: the asymptotic rate for the q of the quantizer, not clipped. worst, reach: the largest
    ‖x̂_T − x*‖ over its bound and ‖u_t‖ over r_t; steps: the longest run; converged: the share
    of instances whose range came down to the floor. Unquantized: bits = inf, q = 0.
    """

    problem: str
    method: str
    quantizer: Kind
    bits: float
    q: float
    rho: float
    promised: float
    rate: float
    low: float
    high: float
    worst: float
    reach: float
    steps: int
    converged: float


def sweep(
    label: str,
    problem: Problem,
    methods: Sequence[str],
    bits: Sequence[float],
    quantizer: Kind = "cube",
    floor: float = FLOOR,
) -> Iterator[Point]:
    """A point a method and R; a method without quantizer gives one. Raises as `simulate` does."""
    n, kappa = problem.x0.shape[-1], float(np.max(problem.L / problem.mu))
    for name in methods:
        if METHODS[name][1] == "exact":
            yield _point(label, name, "", np.inf, None, kappa, simulate(name, problem, floor=floor))
            continue
        for r in bits:
            tool = QUANTIZERS[quantizer](n, r)
            yield _point(label, name, quantizer, r, tool, kappa, simulate(name, problem, tool, floor=floor))


def _point(
    label: str, name: str, kind: Kind, bits: float, tool: Quantizer | None, kappa: float, outcome: Outcome
) -> Point:
    q, rho = (tool.q, tool.rho) if tool is not None else (0.0, 0.0)
    rate = np.minimum(outcome.rate, 1)
    low, high = np.quantile(rate, [0.05, 0.95])
    return Point(
        label,
        name,
        kind,
        bits,
        q,
        rho,
        rates.promised(name, kappa, q),
        float(rate.mean()),
        float(low),
        float(high),
        float((outcome.error / outcome.bound).max()),
        float(outcome.reach.max()),
        int(outcome.steps.max()),
        float(outcome.converged.mean()),
    )
