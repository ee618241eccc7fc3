"""Selection rules of DaQuSGD (Section V) and baselines.

Where a rule has a loss threshold the server broadcasts it, as the knob `threshold`, and a node sends the
samples whose loss exceeds it: for that it needs a forward pass, and for −∞ not even that.
"""

from __future__ import annotations

import math
import struct
from abc import ABC
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.selection.base import Losses, Memory, Selection
from fedquant.wire import NO_KNOBS, Knobs

THRESHOLD = "threshold"


def pack_threshold(value: float) -> bytes:
    """A loss threshold as it is broadcast: float32, little-endian."""
    return struct.pack("<f", value)


def read_threshold(knobs: Knobs) -> float:
    """The broadcast threshold. Raises CodecError where it is missing or not a number."""
    data = knobs.get(THRESHOLD)
    if not isinstance(data, bytes) or len(data) != 4:
        raise CodecError(f"selection: knob {THRESHOLD} is {data!r}, expected 4 bytes of float32")
    (value,) = struct.unpack("<f", data)
    if math.isnan(value):
        raise CodecError(f"selection: knob {THRESHOLD} is not a number")
    return float(value)


class Memoryless(Selection, ABC):
    """A rule that learns nothing from what was sent."""

    def init(self) -> Memory:
        return {}

    def observe(self, memory: Memory, losses: Losses) -> Memory:
        return memory


@final
@dataclass(frozen=True)
class All(Memoryless):
    """Every sample of the batch is sent; nodes need no model."""

    name: ClassVar[str] = "all"

    def knobs(self, memory: Memory, round: int, epoch: int) -> tuple[Knobs, Memory]:
        return NO_KNOBS, memory

    def needs_losses(self, knobs: Knobs) -> bool:
        return False

    def keep(self, losses: Losses | None, n: int, knobs: Knobs, key: Key) -> npt.NDArray[Any]:
        return np.ones(n, np.bool_)


@final
@dataclass(frozen=True)
class Random(Memoryless):
    """Each sample is sent with probability p, whatever its loss; nodes need no model."""

    name: ClassVar[str] = "random"

    p: Annotated[float, Field(gt=0, le=1)] = 0.5

    def knobs(self, memory: Memory, round: int, epoch: int) -> tuple[Knobs, Memory]:
        return NO_KNOBS, memory

    def needs_losses(self, knobs: Knobs) -> bool:
        return False

    def keep(self, losses: Losses | None, n: int, knobs: Knobs, key: Key) -> npt.NDArray[Any]:
        drawn: npt.NDArray[Any] = rng.uniform(key, n) < self.p
        return drawn


@final
@dataclass(frozen=True)
class TopFraction(Memoryless):
    """Sends the ⌈fraction·n⌉ samples of a node's batch with the highest losses, of equal ones the first."""

    name: ClassVar[str] = "top_fraction"

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5

    def knobs(self, memory: Memory, round: int, epoch: int) -> tuple[Knobs, Memory]:
        return NO_KNOBS, memory

    def needs_losses(self, knobs: Knobs) -> bool:
        return self.fraction < 1

    def keep(self, losses: Losses | None, n: int, knobs: Knobs, key: Key) -> npt.NDArray[Any]:
        kept = np.ones(n, np.bool_)
        if self.needs_losses(knobs):
            order = np.argsort(-_given(losses, self.name), kind="stable")
            kept[order[math.ceil(self.fraction * n) :]] = False
        return kept


@final
@dataclass(frozen=True)
class SqrtSchedule(Memoryless):
    """Sends a sample iff its loss exceeds ℓ_i = factor / i^power in round i = 1, 2, …

    With factor ≤ ¼ and power ≥ 1 every n has Σ_{i ≤ n} √ℓ_i ≤ ½·Σ 1/√i ≤ √n: what Theorem 3 asks for to
    keep the rate 1/√n.
    """

    name: ClassVar[str] = "sqrt_schedule"

    factor: Annotated[float, Field(gt=0, le=0.25)] = 0.25
    power: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0

    def knobs(self, memory: Memory, round: int, epoch: int) -> tuple[Knobs, Memory]:
        return {THRESHOLD: pack_threshold(self.factor * round**-self.power)}, memory

    def needs_losses(self, knobs: Knobs) -> bool:
        return True

    def keep(self, losses: Losses | None, n: int, knobs: Knobs, key: Key) -> npt.NDArray[Any]:
        return _above(losses, n, knobs, self.name)


@final
@dataclass(frozen=True)
class Relative(Selection):
    """Sends a sample iff its loss exceeds factor × the mean loss of those sent in the last epoch.

    The first epoch sends all; after an epoch in which nothing was sent the threshold is 0.
    DaQuSGD, Section VI (factor 0.2).
    """

    name: ClassVar[str] = "relative"

    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2

    def init(self) -> Memory:
        return {"epoch": 0, "threshold": -math.inf, "sum": 0.0, "count": 0}

    def knobs(self, memory: Memory, round: int, epoch: int) -> tuple[Knobs, Memory]:
        if epoch != memory["epoch"]:
            sent = memory["count"]
            threshold = self.factor * memory["sum"] / sent if sent else 0.0
            memory = {"epoch": epoch, "threshold": threshold, "sum": 0.0, "count": 0}
        return {THRESHOLD: pack_threshold(memory["threshold"])}, memory

    def observe(self, memory: Memory, losses: Losses) -> Memory:
        total = memory["sum"] + float(np.sum(losses, dtype=np.float64))
        return {**memory, "sum": total, "count": memory["count"] + len(losses)}

    def needs_losses(self, knobs: Knobs) -> bool:
        return read_threshold(knobs) != -math.inf

    def keep(self, losses: Losses | None, n: int, knobs: Knobs, key: Key) -> npt.NDArray[Any]:
        return _above(losses, n, knobs, self.name)


def _above(losses: Losses | None, n: int, knobs: Knobs, name: str) -> npt.NDArray[Any]:
    threshold = read_threshold(knobs)
    if threshold == -math.inf:
        return np.ones(n, np.bool_)
    kept: npt.NDArray[Any] = _given(losses, name) > np.float32(threshold)
    return kept


def _given(losses: Losses | None, name: str) -> Losses:
    if losses is None:
        raise CodecError(f"{name}: losses are needed to choose samples by")
    return losses
