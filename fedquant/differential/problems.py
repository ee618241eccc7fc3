"""Quadratic problems: least squares and ridge regression, of random or given matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, final

import numpy as np
import numpy.typing as npt

from fedquant.differential.arrays import EPS, F64, Floats, norm, take
from fedquant.differential.normal import normal
from fedquant.errors import ConfigError, DataError
from fedquant.keys import Key


class Problem(Protocol):
    """An L-smooth, μ-strongly convex function of n numbers, its start x̂₀ and minimizer, ‖x̂₀ − x*‖ ≤ D.

    x0, x_star: float64[…, n] and L, mu, D: float64[…], one axis of instances or none.
    """

    @property
    def quadratic(self) -> bool: ...
    @property
    def x0(self) -> F64: ...
    @property
    def x_star(self) -> F64: ...
    @property
    def L(self) -> F64: ...
    @property
    def mu(self) -> F64: ...
    @property
    def D(self) -> F64: ...

    def gradient(self, x: F64) -> F64:
        """∇f: float64[…, n] at x: float64[…, n]."""

    def take(self, index: npt.NDArray[np.bool_] | int) -> Self:
        """Some of the instances, or one without its axis."""


@final
@dataclass(frozen=True, eq=False)
class Quadratic:
    """f(x) = ½xᵀHx − bᵀx: hessian H: float64[…, n, n], or [n, n] for all; linear b: float64[…, n]."""

    hessian: F64
    linear: F64
    x0: F64
    x_star: F64
    L: F64
    mu: F64
    D: F64

    quadratic = True

    def gradient(self, x: F64) -> F64:
        """Hx − b: float64[…, n]."""
        if self.hessian.ndim == 2:
            shared: F64 = x @ self.hessian - self.linear  # H is symmetric
            return shared
        own: F64 = np.einsum("...ij,...j->...i", self.hessian, x) - self.linear
        return own

    def take(self, index: npt.NDArray[np.bool_] | int) -> Quadratic:
        """Some of the instances, or one without its axis."""
        shared = self.hessian.ndim == 2
        cut = take(replace(self, hessian=self.linear) if shared else self, index)
        return replace(cut, hessian=self.hessian) if shared else cut


def least_squares(
    matrix: F64,
    y: F64,
    x0: F64 | None = None,
    ridge: float = 0.0,
    L: Floats | None = None,
    mu: Floats | None = None,
    D: Floats | None = None,
) -> Quadratic:
    """½‖y − Ax‖² + ½·ridge·‖x‖² of A: float64[…, m, n] (or [m, n], shared) and y: float64[…, m].

    x0: float64[…, n], zeros by default. L, mu and D are computed unless given. Raises DataError for numbers
    that are not finite, shapes that do not fit and a matrix without full column rank (ridge > 0 mends that),
    ConfigError for a ridge below 0 and for an L, mu or D that does not hold.
    """
    a, y = _finite("matrix", matrix), _finite("y", y)
    if a.ndim < 2 or a.shape[-1] == 0 or y.shape[-1:] != a.shape[-2:-1]:
        raise DataError(
            f"least squares: matrix {a.shape} and y {y.shape} do not fit; they share m, and n ≥ 1"
        )
    if not 0 <= ridge < np.inf:
        raise ConfigError(f"least squares: ridge={ridge} is negative or not finite")
    m, n = a.shape[-2:]
    transposed = np.swapaxes(a, -1, -2)
    hessian = np.matmul(transposed, a) + ridge * np.eye(n)
    linear = np.matmul(transposed, y[..., np.newaxis])[..., 0]
    singular = np.linalg.svd(a, compute_uv=False)
    squares = np.pad(singular, [(0, 0)] * (a.ndim - 2) + [(0, n - singular.shape[-1])]) ** 2
    high, low = squares[..., 0] + ridge, squares[..., -1] + ridge
    if (low <= n * EPS * high).any():
        raise DataError(
            f"least squares: a matrix of {m}×{n} is rank-deficient (σ_min/σ_max of AᵀA = "
            f"{np.min(low / np.where(high > 0, high, 1)):.1e}); drop columns or give ridge > 0"
        )
    x0 = np.zeros(linear.shape) if x0 is None else _finite("x0", x0)
    if x0.shape != linear.shape:
        raise DataError(f"least squares: x0 has shape {x0.shape}, expected {linear.shape}")
    x_star = np.linalg.solve(hessian, linear[..., np.newaxis])[..., 0]
    rest = linear - np.matmul(hessian, x_star[..., np.newaxis])[..., 0]
    x_star = x_star + np.linalg.solve(hessian, rest[..., np.newaxis])[..., 0]  # one step of refinement
    smooth, strong, distance = constants(high, low, x0, x_star, L, mu, D)
    return Quadratic(hessian, linear, x0, x_star, smooth, strong, distance)


def gaussian(
    key: Key, n: int, kappa: float, instances: int | None = None, rows: int | None = None
) -> Quadratic:
    """Least squares of a Gaussian matrix [rows, n] with condition number κ of AᵀA, as in the paper's Fig. 3.

    A, y and x̂₀ have N(0, 1) entries; the singular values of A are then mapped linearly onto [1, √κ].
    rows: 2n by default (the paper does not say). Instances 0 … i−1 are the same however many there are.
    Raises ConfigError for κ < 1, rows < n, or κ ≠ 1 with n = 1.
    """
    rows = 2 * n if rows is None else rows
    if not (1 <= kappa < np.inf and 1 <= n <= rows) or (n == 1 and kappa != 1):
        raise ConfigError(
            f"gaussian: n={n}, κ={kappa}, rows={rows}: needs 1 ≤ n ≤ rows, κ ≥ 1, κ = 1 for n = 1"
        )
    lead = () if instances is None else (instances,)
    drawn = normal(key.fold(stream=0), (*lead, rows, n))
    left, s, right = np.linalg.svd(drawn, full_matrices=False)
    span = s[..., :1] - s[..., -1:]
    unit = np.divide(s - s[..., -1:], span, out=np.zeros_like(s), where=span > 0)
    matrix = np.matmul(left * (1 + (np.sqrt(kappa) - 1) * unit)[..., np.newaxis, :], right)
    return _drawn(key, matrix, lead)


def of_matrix(key: Key, matrix: F64, instances: int | None = None, ridge: float = 0.0) -> Quadratic:
    """Least squares of one matrix [m, n] where y and x̂₀ have N(0, 1) entries (streams 1 and 2 of key).

    Raises DataError and ConfigError as `least_squares` does.
    """
    return _drawn(key, matrix, () if instances is None else (instances,), ridge)


def _drawn(key: Key, matrix: F64, lead: tuple[int, ...], ridge: float = 0.0) -> Quadratic:
    m, n = matrix.shape[-2:]
    y, x0 = normal(key.fold(stream=1), (*lead, m)), normal(key.fold(stream=2), (*lead, n))
    return least_squares(matrix, y, x0, ridge)


def matrix_market(path: Path) -> F64:
    """float64[m, n] of a real Matrix Market file, dense. Raises DataError where it cannot be read."""
    try:
        from scipy.io import mmread  # type: ignore[import-untyped]
        from scipy.sparse import issparse  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError("Matrix Market files need scipy: pip install scipy") from None
    try:
        loaded = mmread(path)
    except (OSError, ValueError, OverflowError, TypeError) as error:
        raise DataError(f"{path}: not a readable Matrix Market file ({error})") from None
    dense = np.asarray(loaded.toarray() if issparse(loaded) else loaded)
    if np.iscomplexobj(dense):
        raise DataError(f"{path}: its numbers are complex, expected real")
    return _finite(str(path), dense.astype(np.float64))


def constants(
    high: F64, low: F64, x0: F64, x_star: F64, L: Floats | None, mu: Floats | None, D: Floats | None
) -> tuple[F64, F64, F64]:
    """(L, μ, D), an entry an instance: what was given where it holds, otherwise what was computed.

    Raises ConfigError for a given L, mu or D that does not hold: L ≥ high, 0 < μ ≤ low, D ≥ ‖x̂₀ − x*‖ > 0.
    """
    far = norm(x0 - x_star)
    slack = 1e-9  # for what the computed ones lack
    for name, given, holds in (
        ("L", L, L is None or (np.asarray(L) >= high * (1 - slack)) & np.isfinite(L)),
        ("mu", mu, mu is None or (np.asarray(mu) > 0) & (np.asarray(mu) <= low * (1 + slack))),
        ("D", D, D is None or (np.asarray(D) >= far * (1 - slack)) & np.isfinite(D)),
    ):
        if not np.all(holds):
            raise ConfigError(
                f"{name}={given} does not hold: the problem has L = {np.max(high):.6g}, "
                f"μ = {np.min(low):.6g} and ‖x̂₀ − x*‖ = {np.max(far):.6g}; leave it out to have it computed"
            )
    distance = far if D is None else np.asarray(D, np.float64)
    if not np.all(distance > 0):
        raise ConfigError("x̂₀ is the minimizer: there is nothing to descend; start elsewhere or give D > 0")
    smooth, strong = high if L is None else np.asarray(L), low if mu is None else np.asarray(mu)
    shape = far.shape
    return tuple(np.broadcast_to(a, shape).astype(np.float64) for a in (smooth, strong, distance))  # type: ignore[return-value]


def _finite(name: str, x: F64) -> F64:
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all():
        at = np.argwhere(~np.isfinite(x))[0]
        raise DataError(f"{name}: {x[tuple(at)]} at {[int(i) for i in at]}; every number must be finite")
    return x
