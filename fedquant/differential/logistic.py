"""Logistic regression with an ℓ2 penalty: smooth, strongly convex and not quadratic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

from fedquant.differential.arrays import F64, Floats, norm, take
from fedquant.differential.normal import normal
from fedquant.differential.problems import constants
from fedquant.errors import ConfigError, DataError
from fedquant.keys import Key

_NEWTON_STEPS: Final = 100


@final
@dataclass(frozen=True, eq=False)
class Logistic:
    """f(x) = (1/m)·Σ ln(1 + exp(−aᵢᵀx)) + ½·ridge·‖x‖²: signed float64[…, m, n], row i = label·sample."""

    signed: F64
    ridge: float
    x0: F64
    x_star: F64
    L: F64
    mu: F64
    D: F64

    quadratic = False

    def gradient(self, x: F64) -> F64:
        """∇f: float64[…, n]."""
        return _gradient(self.signed, self.ridge, x)

    def take(self, index: npt.NDArray[np.bool_] | int) -> Logistic:
        """Some of the instances, or one without its axis."""
        return take(self, index)


def logistic(
    samples: F64,
    labels: F64,
    ridge: float,
    x0: F64 | None = None,
    L: Floats | None = None,
    mu: Floats | None = None,
    D: Floats | None = None,
) -> Logistic:
    """Logistic regression on samples: float64[…, m, n] with labels −1 or 1: float64[…, m].

    L = σ_max(A)²/(4m) + ridge and μ = ridge unless given. Raises DataError for numbers that are not finite,
    shapes that do not fit and other labels, ConfigError for ridge ≤ 0 (then f is not strongly convex) and for
    an L, mu or D that does not hold.
    """
    samples, labels = np.asarray(samples, np.float64), np.asarray(labels, np.float64)
    if samples.ndim < 2 or 0 in samples.shape or labels.shape != samples.shape[:-1]:
        raise DataError(
            f"logistic: samples {samples.shape} and labels {labels.shape} do not fit; they share m"
        )
    if not np.isfinite(samples).all():
        raise DataError("logistic: a sample holds a number that is not finite")
    if not (np.abs(labels) == 1).all():
        raise DataError(f"logistic: labels are −1 or 1, got {np.unique(labels)[:5].tolist()}")
    if not 0 < ridge < np.inf:
        raise ConfigError(f"logistic: ridge={ridge}; without ridge > 0 it is not strongly convex")
    signed = samples * labels[..., np.newaxis]
    x0 = np.zeros(samples.shape[:-2] + samples.shape[-1:]) if x0 is None else np.asarray(x0, np.float64)
    if x0.shape != samples.shape[:-2] + samples.shape[-1:]:
        raise DataError(
            f"logistic: x0 has shape {x0.shape}, expected {samples.shape[:-2] + samples.shape[-1:]}"
        )
    top = np.linalg.svd(signed, compute_uv=False)[..., 0]
    high = top**2 / (4 * samples.shape[-2]) + ridge
    x_star = _minimizer(signed, ridge, high)
    smooth, strong, distance = constants(high, np.full_like(high, ridge), x0, x_star, L, mu, D)
    return Logistic(signed, ridge, x0, x_star, smooth, strong, distance)


def random_logistic(key: Key, n: int, ridge: float, instances: int | None = None, m: int = 100) -> Logistic:
    """Labels of a random direction with 10 % flipped, samples and x̂₀ of N(0, 1) entries.

    Raises ConfigError for ridge ≤ 0.
    """
    lead = () if instances is None else (instances,)
    samples, direction = normal(key.fold(stream=0), (*lead, m, n)), normal(key.fold(stream=1), (*lead, n))
    flipped = normal(key.fold(stream=3), (*lead, m)) > 1.2815515655446004  # the 90 % quantile
    right = np.matmul(samples, direction[..., np.newaxis])[..., 0] >= 0
    x0 = normal(key.fold(stream=2), (*lead, n))
    return logistic(samples, np.where(right ^ flipped, 1.0, -1.0), ridge, x0)


def _gradient(signed: F64, ridge: float, x: F64) -> F64:
    doubt = _doubt(signed, x)
    pull = np.matmul(np.swapaxes(signed, -1, -2), doubt[..., np.newaxis])[..., 0]
    gradient: F64 = ridge * x - pull / signed.shape[-2]
    return gradient


def _doubt(signed: F64, x: F64) -> F64:
    """1/(1 + exp(aᵢᵀx)): how improbable each label is."""
    margin = np.matmul(signed, x[..., np.newaxis])[..., 0]
    doubt: F64 = 0.5 * (1 - np.tanh(margin / 2))
    return doubt


def _minimizer(signed: F64, ridge: float, smooth: F64) -> F64:
    """Newton's method from 0, each step cut to where the gradient's norm must fall. Raises DataError."""
    m, n = signed.shape[-2:]
    x = np.zeros((*signed.shape[:-2], n))
    for _ in range(_NEWTON_STEPS):
        gradient = _gradient(signed, ridge, x)
        size = norm(gradient)
        doubt = _doubt(signed, x)
        weighted = signed * (doubt * (1 - doubt))[..., np.newaxis]
        hessian = np.matmul(np.swapaxes(signed, -1, -2), weighted) / m + ridge * np.eye(n)
        step = np.linalg.solve(hessian, gradient[..., np.newaxis])[..., 0]
        scale = np.ones(size.shape)
        for _ in range(30):
            worse = norm(_gradient(signed, ridge, x - scale[..., np.newaxis] * step)) > size
            if not worse.any():
                break
            scale = np.where(worse, scale / 2, scale)
        x = x - scale[..., np.newaxis] * step
        if (norm(step) <= 1e-14 * norm(x)).all():
            return x
        if (size <= 1e-15 * smooth * np.maximum(norm(x), 1)).all():
            return x
    raise DataError(
        f"logistic: no minimizer after {_NEWTON_STEPS} Newton steps; scale the samples or raise ridge"
    )
