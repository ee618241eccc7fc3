"""The server of one instance, the same for all methods: those of one worker, and naive with memories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self, final

import numpy as np

from fedquant.differential import server, several
from fedquant.differential.arrays import F64
from fedquant.differential.methods import Plan
from fedquant.differential.simulate import DIVERGED


class Course(Protocol):
    """Before iteration t: x: float64[n], the iterate x̂_t."""

    @property
    def t(self) -> int: ...
    @property
    def x(self) -> F64: ...
    @property
    def ranges(self) -> F64 | None:
        """float64[K]: the range of each worker; None before workers with memory have told their norms."""

    @property
    def finished(self) -> bool:
        """Whether ranges are down to 1e-12 of the first, where float64 ends."""

    @property
    def diverged(self) -> bool:
        """Whether ranges are beyond 1e6 of the first."""

    def step(self, p: F64, ranges: F64) -> Self:
        """After p: float64[K, n], what the payloads decode to, quantized with ranges: float64[K]."""


@final
@dataclass(frozen=True, eq=False)
class Plain:
    """A method of METHODS; several workers are averaged, which is exact where nothing is quantized."""

    plan: Plan
    at: server.Server
    workers: int

    @property
    def t(self) -> int:
        return self.at.t

    @property
    def x(self) -> F64:
        return self.at.x

    @property
    def ranges(self) -> F64:
        return np.full(self.workers, self.at.range)

    @property
    def finished(self) -> bool:
        return bool(server.finished(self.plan, self.at))

    @property
    def diverged(self) -> bool:
        return bool(self.at.range > DIVERGED * self.plan.L * self.plan.D)

    def step(self, p: F64, ranges: F64) -> Plain:
        return replace(self, at=server.step(self.plan, self.at, p.mean(axis=0)))


@final
@dataclass(frozen=True, eq=False)
class WithMemory:
    """Naive quantization with memory; `at` is None before the first iteration."""

    plan: several.Shares
    x0: F64
    at: several.Server | None = None

    @property
    def t(self) -> int:
        return 0 if self.at is None else self.at.t

    @property
    def x(self) -> F64:
        return self.x0 if self.at is None else self.at.x

    @property
    def ranges(self) -> F64 | None:
        return None if self.at is None else self.at.ranges

    @property
    def finished(self) -> bool:
        return self.at is not None and bool(several.finished(self.at))

    @property
    def diverged(self) -> bool:
        return self.at is not None and bool((self.at.ranges > DIVERGED * self.at.first).any())

    def step(self, p: F64, ranges: F64) -> WithMemory:
        at = several.start(self.x0, ranges) if self.at is None else self.at
        return replace(self, at=several.step(self.plan, at, p))


def start(method: Plan | several.Shares, x0: F64, workers: int) -> Course:
    """Before the first iteration at x0: float64[n]."""
    if isinstance(method, several.Shares):
        return WithMemory(method, x0)
    return Plain(method, server.start(method, x0), workers)
