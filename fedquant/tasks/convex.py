"""Convex problems for differential quantization: gradients of all rows at once, in float64. No torch."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Final, final

import numpy as np
from pydantic import Field

from fedquant.differential import logistic, problems, several
from fedquant.differential.arrays import norm
from fedquant.errors import ConfigError, DataError
from fedquant.keys import Key

Problem = problems.Quadratic | logistic.Logistic
_WIDEST: Final = 12  # decades between L_k: float64 has 16 digits
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, eq=False)
class Convex:
    """f, the f_k of each worker whose mean it is, and how many rows of data each holds."""

    problem: Problem
    workers: tuple[Problem, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ConvexTask(ABC):
    """A convex problem. A frozen dataclass whose fields are its YAML keys.

    L, mu, D: smoothness, strong convexity and ‖x̂₀ − x*‖ ≤ D of f where they are known; otherwise computed.
    """

    name: ClassVar[str]
    quadratic: ClassVar[bool]
    dtype: ClassVar[type[np.generic]] = np.float64

    L: Positive | None = None
    mu: Positive | None = None
    D: Positive | None = None

    @property
    def n_sensors(self) -> int:
        """How many workers there are: one."""
        return 1

    @abstractmethod
    def _draw(self, key: Key) -> Convex: ...

    @final
    def load(self, key: Key) -> Convex:
        """The problem; a pure function of the fields and `key.seed`.

        Raises DataError for data that cannot be used, ConfigError for an L, mu or D that does not hold.
        """
        drawn = self._draw(Key(key.seed))
        f = drawn.problem
        given = problems.constants(f.L, f.mu, f.x0, f.x_star, self.L, self.mu, self.D)
        f = replace(f, L=given[0], mu=given[1], D=given[2])
        return replace(drawn, problem=f, workers=(f,) if len(drawn.workers) == 1 else drawn.workers)


@final
@dataclass(frozen=True, kw_only=True)
class LeastSquares(ConvexTask):
    """f_k = ½·spread^k·‖y_k − A_k x‖²: A_k of N(0, 1) entries, its condition number then set to √kappa.

    rows: of A_k, 2n by default. Workers have their own A_k and y_k and share x̂₀; L_k = kappa·spread^k.
    """

    name: ClassVar[str] = "least_squares"
    quadratic: ClassVar[bool] = True

    n: Annotated[int, Field(ge=1, le=4096)] = 32
    kappa: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0
    rows: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=1, lt=1 << 22)] = 1
    spread: Positive = 1.0

    def __post_init__(self) -> None:
        if abs(math.log10(self.spread)) * (self.workers - 1) > _WIDEST:
            raise ConfigError(
                f"least_squares: spread={self.spread:g} over {self.workers} workers is more than "
                f"10^{_WIDEST} between the first and the last; have fewer, or take it closer to 1"
            )

    @property
    def n_sensors(self) -> int:
        """How many workers there are."""
        return self.workers

    def _draw(self, key: Key) -> Convex:
        drawn = [
            problems.gaussian(key.fold(sensor=k), self.n, self.kappa, rows=self.rows)
            for k in range(self.workers)
        ]
        x0 = drawn[0].x0
        own = tuple(_scaled(f, self.spread**k, x0) for k, f in enumerate(drawn))
        f = own[0] if len(own) == 1 else several.mean(own, x0)
        return Convex(f, own, (self.rows or 2 * self.n,) * self.workers)


@final
@dataclass(frozen=True, kw_only=True)
class Matrix(ConvexTask):
    """f = ½‖y − Ax‖² + ½·ridge·‖x‖² of a Matrix Market file; y and x̂₀ have N(0, 1) entries.

    path: the file, or its name (with or without .mtx) in $FEDQUANT_DATA/matrices.
    """

    name: ClassVar[str] = "matrix"
    quadratic: ClassVar[bool] = True

    path: str
    ridge: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def _draw(self, key: Key) -> Convex:
        a = problems.matrix_market(self._file())
        f = problems.of_matrix(key, a, ridge=self.ridge)
        return Convex(f, (f,), (len(a),))

    def _file(self) -> Path:
        tried = [Path(self.path).expanduser()]
        if root := os.environ.get("FEDQUANT_DATA"):
            there = Path(root).expanduser() / "matrices" / self.path
            tried += [there, there.with_name(f"{there.name}.mtx")]
        for path in tried:
            if path.is_file():
                return path
        raise DataError(
            f"matrix: no file {', '.join(map(str, tried))}; give a path, or set FEDQUANT_DATA to a folder "
            "that has it in matrices/"
        )


@final
@dataclass(frozen=True, kw_only=True)
class Logistic(ConvexTask):
    """f_k = mean of ln(1 + exp(−label·aᵀx)) over `rows` rows a + ½·ridge·‖x‖².

    Rows have N(0, 1) entries, a tenth of the labels is flipped. Workers hold their own rows of one data set.
    """

    name: ClassVar[str] = "logistic"
    quadratic: ClassVar[bool] = False

    n: Annotated[int, Field(ge=1, le=4096)] = 16
    ridge: Positive = 0.1
    rows: Annotated[int, Field(ge=1)] = 100
    workers: Annotated[int, Field(ge=1, lt=1 << 22)] = 1

    @property
    def n_sensors(self) -> int:
        """How many workers there are."""
        return self.workers

    def _draw(self, key: Key) -> Convex:
        f = logistic.random_logistic(key, self.n, self.ridge, m=self.rows * self.workers)
        parts = np.split(f.signed, self.workers)
        # a row already carries its label
        own = tuple(logistic.logistic(part, np.ones(len(part)), self.ridge, f.x0) for part in parts)
        return Convex(f, own, (self.rows,) * self.workers)


def _scaled(f: problems.Quadratic, factor: float, x0: np.ndarray) -> problems.Quadratic:
    """factor·f, from another start."""
    return replace(
        f,
        hessian=factor * f.hessian,
        linear=factor * f.linear,
        x0=x0,
        L=factor * f.L,
        mu=factor * f.mu,
        D=norm(x0 - f.x_star),
    )
