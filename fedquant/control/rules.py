"""The rules of DQSGD (sections 4.3 to 4.5), and the fixed one.

DQSGD counts iterations n = 0 … N−1, a run rounds 1 … N: round r is iteration r − 1. The bits of a round
follow the norm of the mean gradient of the round before (Algorithm 2), with the exponent (N−n)/2 of the
round in which they are used.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, TypeGuard, final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedquant.control.base import Controller, Horizon, Ladder, Mean, Memory, check_knobs, tell
from fedquant.control.budget import Budget, affordable, affordable_next, book, finest, open_account
from fedquant.errors import ConfigError
from fedquant.kernels import scan
from fedquant.wire import Knobs

Bits = Annotated[int, Field(ge=2, le=16)]
Levels = Annotated[int, Field(ge=1, le=1 << 16)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_DECAY: Final = 0.9
"""Of means over rounds."""


@final
@dataclass(frozen=True)
class Fixed(Controller):
    """The same bits, or levels, in every round; of a list one entry a round, and its last ever after.

    Raises ConfigError unless one of the two is given.
    """

    name: ClassVar[str] = "fixed"

    bits: Bits | Annotated[tuple[Bits, ...], Field(min_length=1)] | None = None
    levels: Levels | Annotated[tuple[Levels, ...], Field(min_length=1)] | None = None

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.levels is None):
            raise ConfigError(f"fixed: give bits or levels, one of them; got {self.bits} and {self.levels}")

    def init(self, horizon: Horizon) -> Memory:
        given = self.bits if self.bits is not None else self.levels
        entries = len(given) if isinstance(given, tuple) else 1
        for round in range(1, entries + 1):
            check_knobs(horizon.codec, horizon.spec, self.knobs({}, round, horizon)[0])
        return {}

    def knobs(self, memory: Memory, round: int, horizon: Horizon) -> tuple[Knobs, Memory]:
        return tell(horizon.codec, _entry(self.bits, round), _entry(self.levels, round)), memory

    def observe(
        self,
        memory: Memory,
        round: int,
        mean: Mean | None,
        payload_bytes: Mapping[int, int],
        horizon: Horizon,
    ) -> Memory:
        return memory


@dataclass(frozen=True)
class Stepwise(Controller, ABC):
    """Remembers the step of a ladder for the next round, from `initial_bits` on and up to `max_bits`.

    Raises ConfigError where initial_bits exceeds max_bits.
    """

    initial_bits: Bits = 4
    max_bits: Bits = 8

    def __post_init__(self) -> None:
        if self.initial_bits > self.max_bits:
            raise ConfigError(
                f"{self.name}: initial_bits={self.initial_bits} exceeds max_bits={self.max_bits}"
            )

    def ladder(self, horizon: Horizon) -> Ladder:
        """The finenesses it chooses from."""
        return Ladder(horizon.codec, True, self.max_bits)

    def init(self, horizon: Horizon) -> Memory:
        ladder = self.ladder(horizon)
        ladder.check(horizon.spec)
        return {"step": ladder.of_bits(self.initial_bits)}

    def knobs(self, memory: Memory, round: int, horizon: Horizon) -> tuple[Knobs, Memory]:
        return self.ladder(horizon).knobs([memory["step"]]), memory


@dataclass(frozen=True)
class DQSGD(Stepwise, ABC):
    """s = k·w·‖g‖ levels, g being the mean gradient of the last round, and w what a rule says of a round.

    integer_bits: B = log2(s + 1) + 1 bits, rounded half up and kept in [2, max_bits]; else s itself, rounded
        and kept in [1, 2**(max_bits−1) − 1].
    rule_norm: of g, 2 or inf. budget: takes the place of the factor k, which then is each round the largest
        that the rest of the budget affords, while ‖g‖ stays at its mean over the last rounds.
    per_layer: the rule gives each layer (segment) its own levels, k and w being the same for all and g the
        layer's part of the mean gradient. A budget's k is the largest that affords all layers together.
    A mean gradient that is missing or not finite changes nothing but the budget.
    """

    integer_bits: bool = True
    rule_norm: Literal[2, "inf"] = 2
    budget: Budget | None = None
    per_layer: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        name, value = self.factor
        if (value is None) == (self.budget is None):
            raise ConfigError(f"{self.name}: give {name} or budget, one of them")

    @property
    @abstractmethod
    def factor(self) -> tuple[str, float | None]:
        """Its key, and its value."""

    @abstractmethod
    def weights(self, rounds: npt.NDArray[np.int64], horizon: Horizon) -> npt.NDArray[np.float64]:
        """log2 of w in these rounds."""

    def ladder(self, horizon: Horizon) -> Ladder:
        """The finenesses it chooses from."""
        return Ladder(horizon.codec, self.integer_bits, self.max_bits, self.per_layer)

    def init(self, horizon: Horizon) -> Memory:
        step, ladder = super().init(horizon)["step"], self.ladder(horizon)
        account: Memory = {}
        if self.budget is not None:
            account = open_account(self.budget, ladder, horizon)
            step = min(step, finest(account, ladder, horizon))
        return {**account, "steps": [step] * len(ladder.parts(horizon.spec))}

    def knobs(self, memory: Memory, round: int, horizon: Horizon) -> tuple[Knobs, Memory]:
        return self.ladder(horizon).knobs(memory["steps"]), memory

    def observe(
        self,
        memory: Memory,
        round: int,
        mean: Mean | None,
        payload_bytes: Mapping[int, int],
        horizon: Horizon,
    ) -> Memory:
        after, ladder = dict(memory), self.ladder(horizon)
        if usable(mean):
            norms = [self._norm(mean[start:stop]) for start, stop in ladder.parts(horizon.spec)]
            before = memory.get("usual")
            usual = norms if before is None else [*map(decayed, before, norms)]
            after |= {"norms": norms, "usual": usual}
        if self.budget is not None:
            after |= book(memory, payload_bytes, horizon.rounds - round)
        if round >= horizon.rounds:
            return after
        if "norms" in after:
            after["steps"] = [ladder.nearest(s) for s in self._levels(after, round + 1, horizon)]
        elif self.budget is not None:
            cap = finest(after, ladder, horizon)
            after["steps"] = [min(step, cap) for step in after["steps"]]
        return after

    def _norm(self, part: Mean) -> float:
        return math.sqrt(scan.sum_squares(part)) if self.rule_norm == 2 else scan.max_abs(part)

    def _levels(self, memory: Memory, round: int, horizon: Horizon) -> list[float]:
        """Of each part in a round: what the rule asks for, and a budget affords."""
        (_, k), weight = self.factor, float(self.weights(np.array([round]), horizon)[0])
        if k is not None:
            return [k * math.exp2(weight) * norm for norm in memory["norms"]]
        with np.errstate(divide="ignore"):
            norms, usual = np.log2(memory["norms"]), np.log2(memory["usual"])
        ladder, ahead = self.ladder(horizon), self.weights(np.arange(round, horizon.rounds + 1), horizon)
        wanted = weight + norms + affordable(memory, ladder, horizon, ahead, usual)
        levels = wanted + min(0.0, affordable_next(memory, ladder, horizon, wanted))
        return [float(s) for s in np.exp2(np.minimum(levels, self.max_bits))]


@final
@dataclass(frozen=True)
class DQSGDConvex(DQSGD):
    """For strongly convex losses: w = α**((N−n)/2) (eq. 18), fewer bits early, whose noise is forgotten.

    alpha: the share of the loss's excess over its minimum that a round leaves.
    """

    name: ClassVar[str] = "dqsgd_convex"

    k: Positive | None = None
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.999

    @property
    def factor(self) -> tuple[str, float | None]:
        """k."""
        return "k", self.k

    def weights(self, rounds: npt.NDArray[np.int64], horizon: Horizon) -> npt.NDArray[np.float64]:
        """(N−n)/2·log2 α, n = round − 1."""
        return (horizon.rounds + 1 - rounds) / 2 * math.log2(self.alpha)


@final
@dataclass(frozen=True)
class DQSGDNonconvex(DQSGD):
    """For other losses: w = 1 (eq. 20)."""

    name: ClassVar[str] = "dqsgd_nonconvex"

    t: Positive | None = None

    @property
    def factor(self) -> tuple[str, float | None]:
        """t."""
        return "t", self.t

    def weights(self, rounds: npt.NDArray[np.int64], horizon: Horizon) -> npt.NDArray[np.float64]:
        """0."""
        return np.zeros(len(rounds))


def usable(mean: Mean | None) -> TypeGuard[Mean]:
    """Whether there is a mean to learn from."""
    return mean is not None and mean.size > 0 and math.isfinite(scan.max_abs(mean))


def running(memory: Memory, name: str, value: float) -> float:
    """The mean over rounds, of late ones above all."""
    return decayed(memory[name], value) if name in memory else value


def decayed(before: float, value: float) -> float:
    """A mean over rounds, with one more."""
    return _DECAY * before + (1 - _DECAY) * value


def _entry(given: int | tuple[int, ...] | None, round: int) -> int | None:
    return given[min(round, len(given)) - 1] if isinstance(given, tuple) else given
