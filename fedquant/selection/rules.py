"""Selection rules of DaQuSGD and their baseline."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedquant.errors import CodecError
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


@final
@dataclass(frozen=True)
class All(Selection):
    """Every sample of the batch is sent; nodes need no model."""

    name: ClassVar[str] = "all"

    def init(self) -> Memory:
        return {}

    def knobs(self, memory: Memory, round: int, epoch: int) -> tuple[Knobs, Memory]:
        return NO_KNOBS, memory

    def observe(self, memory: Memory, losses: Losses) -> Memory:
        return memory

    def needs_losses(self, knobs: Knobs) -> bool:
        return False

    def keep(self, losses: Losses | None, n: int, knobs: Knobs, key: Key) -> npt.NDArray[Any]:
        return np.ones(n, np.bool_)


@final
@dataclass(frozen=True)
class Relative(Selection):
    """Sends a sample iff its loss exceeds factor × the mean loss of those sent in the last epoch.

    The first epoch sends all; after an epoch in which nothing was sent the threshold is 0.
    DaQuSGD, Section V (factor 0.2).
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
        threshold = read_threshold(knobs)
        if threshold == -math.inf:
            return np.ones(n, np.bool_)
        if losses is None:
            raise CodecError("relative: losses are needed to compare with the threshold")
        kept: npt.NDArray[Any] = losses > np.float32(threshold)
        return kept
