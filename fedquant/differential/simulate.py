"""A method over many instances at once, with the mathematics of payloads but without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

from fedquant.differential import server as server_side
from fedquant.differential import worker as worker_side
from fedquant.differential.arrays import F64, norm, take
from fedquant.differential.methods import METHODS, plan
from fedquant.differential.problems import Problem
from fedquant.differential.quantizers import Quantizer
from fedquant.differential.server import FLOOR
from fedquant.errors import ConfigError

DIVERGED: Final = 1e6
"""Times r_0: a range beyond it ends a run."""


@final
@dataclass(frozen=True, eq=False)
class Outcome:
    """How each instance ended, at its iteration T = steps: float64[instances].

    start and error: ‖x̂_0 − x*‖ and ‖x̂_T − x*‖; bound: what the latter cannot exceed; reach: the largest
    ‖u_t‖₂/r_t of what was quantized; converged: whether r_T came down to the floor.
    """

    steps: npt.NDArray[np.int64]
    start: F64
    error: F64
    bound: F64
    reach: F64
    converged: npt.NDArray[np.bool_]

    @property
    def rate(self) -> F64:
        """(‖x̂_T − x*‖/‖x̂_0 − x*‖)^{1/T}: above 1 where it diverged."""
        return np.asarray((self.error / self.start) ** (1 / self.steps))


def simulate(
    name: str,
    problem: Problem,
    quantizer: Quantizer | None = None,
    max_steps: int = 20_000,
    floor: float = FLOOR,
) -> Outcome:
    """Runs a method of METHODS on a problem with an axis of instances.

    An instance ends at r_T ≤ floor·r_0, r_T > 1e6·r_0 or after max_steps. A floor below 1e-12 needs x* = 0.
    Raises ConfigError where a quantizer is missing or the method does not suit, CodecError for an overflow.
    """
    if problem.x0.ndim != 2 or 0 in problem.x0.shape or max_steps < 1:
        shape = list(problem.x0.shape)
        raise ConfigError(f"simulate: x0{shape}, max_steps={max_steps}; expected x0[instances, n], a step")
    quantized = METHODS.get(name, ("", "exact"))[1] != "exact"
    if quantized and quantizer is None:
        raise ConfigError(f"{name}: give a quantizer, or take the unquantized method {name[3:]}")
    now = plan(name, problem, quantizer.q if quantizer is not None else 0.0)
    server, worker = server_side.start(now, problem.x0), worker_side.start(problem.x0)
    count = len(problem.x0)
    running = np.arange(count)
    first = norm(problem.x0 - problem.x_star)
    error, bound, reach = np.zeros((3, count))
    outcome = Outcome(np.zeros(count, np.int64), first, error, bound, reach, np.zeros(count, bool))
    while True:
        down = server_side.finished(now, server, floor)
        ended = down | (server.range > DIVERGED * now.L * now.D) | (server.t >= max_steps)
        if ended.any():
            which = running[ended]
            outcome.steps[which] = server.t
            outcome.error[which] = norm(server.x - problem.x_star)[ended]
            outcome.bound[which] = server_side.error_bound(now, server)[ended]
            outcome.converged[which] = down[ended]
            if ended.all():
                return outcome
            running, problem = running[~ended], problem.take(~ended)
            now, server, worker = (take(now, ~ended), take(server, ~ended), take(worker, ~ended))
        z = worker_side.access_point(now, worker, server.x)
        u = worker_side.quantizer_input(now, worker, problem.gradient(z))
        outcome.reach[running] = np.maximum(outcome.reach[running], norm(u) / server.range)
        p = quantizer(u, server.range) if quantizer is not None and quantized else u
        worker = worker_side.learn(now, worker, u, p)
        server = server_side.step(now, server, p)
