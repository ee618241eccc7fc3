"""Naive quantization with memory: several workers, f = (1/K)·Σ f_k.

At the minimizer of f the gradients of the f_k are not zero, so worker k quantizes what is new in its
gradient, u_k = ∇f_k(x̂_t) − h_k, and both sides add p_k to the memory h_k. Both sides know
r_{k,t+1} = L_k‖x̂_{t+1} − x̂_t‖ + q_k·r_{k,t}. Rates as in Lin, Kostina, Hassibi, arXiv 2002.02508, V-B:
R_k grows as log₂ L_k. Differential quantization for several workers is that paper's open problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from fedquant.differential.arrays import F64, col, norm
from fedquant.differential.problems import Problem, Quadratic, constants
from fedquant.differential.server import FLOOR
from fedquant.errors import ConfigError


@final
@dataclass(frozen=True, eq=False)
class Shares:
    """What the server knows: step size float64[…]; of each worker L_k: float64[…, K], q_k: float64[K]."""

    eta: F64
    L: F64
    q: F64


@final
@dataclass(frozen=True, eq=False)
class Server:
    """Before iteration t: x̂_t: float64[…, n], h_k: float64[…, K, n], r_{k,t} and r_{k,0}: float64[…, K]."""

    t: int
    x: F64
    memories: F64
    ranges: F64
    first: F64


def allocate(smoothness: Sequence[float], total: float) -> F64:
    """R_k = max(0, log₂ L_k − ν) with ΣR_k = total, by bisection of ν: float64[K] (water-filling).

    Raises ConfigError for an L_k ≤ 0 or a total ≤ 0.
    """
    levels = np.asarray(smoothness, np.float64)
    if levels.size == 0 or not ((levels > 0) & np.isfinite(levels)).all() or not 0 < total < np.inf:
        raise ConfigError(f"rate allocation: L_k = {list(smoothness)}, total {total}; both must be positive")
    levels = np.log2(levels)
    low, high = float(levels.min()) - total, float(levels.max())
    for _ in range(200):
        nu = (low + high) / 2
        if np.maximum(levels - nu, 0).sum() > total:
            low = nu
        else:
            high = nu
    return np.maximum(levels - high, 0)


def shares(problem: Problem, workers: Sequence[Problem], q: Sequence[float]) -> Shares:
    """What the mean of the workers' problems and their quantizers come to.

    Raises ConfigError where a q_k ≥ 1: its range would never shrink.
    """
    if len(workers) != len(q) or not workers:
        raise ConfigError(f"several workers: {len(workers)} problems and {len(q)} quantizers")
    for k, ratio in enumerate(q):
        if not 0 <= ratio < 1:
            raise ConfigError(f"several workers: worker {k} has q = {ratio:.3g}, needs q < 1; give more bits")
    return Shares(
        2 / (problem.L + problem.mu), np.stack([w.L for w in workers], axis=-1), np.asarray(q, np.float64)
    )


def mean(workers: Sequence[Quadratic], x0: F64) -> Quadratic:
    """(1/K)·Σ f_k of quadratic problems, from the common start x0: float64[…, n]. Raises ConfigError."""
    hessian = np.mean([w.hessian for w in workers], axis=0)
    linear = np.mean([w.linear for w in workers], axis=0)
    x_star = np.linalg.solve(hessian, linear[..., np.newaxis])[..., 0]
    values = np.linalg.eigvalsh(hessian)
    smooth, strong, distance = constants(values[..., -1], values[..., 0], x0, x_star, None, None, None)
    return Quadratic(hessian, linear, x0, x_star, smooth, strong, distance)


def start(x0: F64, norms: F64) -> Server:
    """Before the first iteration; norms: float64[…, K], ‖∇f_k(x̂₀)‖ of each worker, sent up once."""
    memories = np.zeros((*norms.shape, x0.shape[-1]))
    return Server(0, x0, memories, norms, norms)


def quantizer_input(gradient: F64, memory: F64) -> F64:
    """u_k: float64[…, n], of ∇f_k(x̂_t) and worker k's copy of h_k."""
    return gradient - memory


def learn(memory: F64, p: F64) -> F64:
    """Worker k's copy of h_k after its u_k was quantized to p: float64[…, n]."""
    return memory + p


def step(plan: Shares, server: Server, p: F64) -> Server:
    """The server after p: float64[…, K, n], what the payloads decode to."""
    memories = server.memories + p
    x = server.x - col(plan.eta) * memories.mean(axis=-2)
    ranges = plan.L * col(norm(x - server.x)) + plan.q * server.ranges
    return Server(server.t + 1, x, memories, ranges, server.first)


def finished(server: Server) -> npt.NDArray[np.bool_]:
    """bool[…]: whether a worker's range is at most 1e-12 of its first, where float64 ends."""
    return np.asarray((server.ranges <= FLOOR * server.first).any(axis=-1))
