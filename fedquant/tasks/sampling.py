"""Which of a sensor's samples it uses in its turn: a pure function, so that the server can repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from fedquant.kernels import rng
from fedquant.keys import Key, Purpose


@dataclass(frozen=True)
class Sampling:
    """random: a fresh draw each turn; epochs: each sample once an epoch; stream: in time order.

    A turn is a round that the sensor takes part in, or one of its local steps.
    epoch_rounds: rounds of an epoch; by default so many that the largest sensor gets all its turns. With
    fewer, a turn's share of the samples exceeds the batch and the rest of it is left out.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    scheme: Literal["random", "epochs", "stream"] = "random"
    epoch_rounds: Annotated[int, Field(ge=1)] | None = None

    def turns_per_epoch(self, sizes: Sequence[int], batch_size: int) -> int:
        """Turns of an epoch, for sensors with `sizes` samples that take part in every round."""
        return self.epoch_rounds or max(1, -(-max(sizes) // batch_size))

    def epoch(self, round: int, rounds_per_epoch: int) -> int:
        """The epoch, from 0, that a round, from 1, belongs to."""
        return (round - 1) // rounds_per_epoch

    def batch(
        self, key: Key, *, sensor: int, turn: int, n: int, batch_size: int, turns_per_epoch: int
    ) -> npt.NDArray[np.int64]:
        """int64[k], k <= batch_size: which of the sensor's n samples its turn uses.

        key: the run's. A stream that has ended, or a small sensor's share of a long epoch, is
        empty. Raises ValueError for a turn before the first.
        """
        if turn < 1:
            raise ValueError(f"sampling: turn={turn}: turns count from 1")
        match self.scheme:
            case "random":
                key = key.fold(round=turn, sensor=sensor, purpose=Purpose.BATCH)
                return rng.choice(key, n, min(batch_size, n))
            case "epochs":
                epoch, position = divmod(turn - 1, turns_per_epoch)
                key = key.fold(round=epoch, sensor=sensor, purpose=Purpose.BATCH)
                start = position * n // turns_per_epoch
                stop = (position + 1) * n // turns_per_epoch
                return rng.order(key, n)[start:stop][:batch_size]
            case "stream":
                first = (turn - 1) * batch_size
                return np.arange(min(first, n), min(first + batch_size, n), dtype=np.int64)
