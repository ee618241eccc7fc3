"""How a wrist will move: a regression on the recordings of `watch`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from torch import nn

from fedquant.tasks.base import Regression, Targets
from fedquant.tasks.models import WatchMLP
from fedquant.tasks.watch import I64, RATE, Counts, Windows, recordings


@dataclass(frozen=True)
class Forecast(Windows, Regression):
    """From a window of the acceleration's magnitude, standardized, the magnitude `ahead` s after its end.

    The loss is in units of the training subjects' variance: 1 is that of always saying their mean.
    targets: the type of labels, in memory and on the wire.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: ClassVar[str] = "forecast"

    ahead: Annotated[float, Field(ge=0.02, le=10)] = 0.2
    targets: Targets = "float32"
    model: Literal["mlp"] = "mlp"

    def build_model(self) -> nn.Module:
        return WatchMLP(samples=self._length)

    def _signal(self) -> Counts:
        return _magnitude()

    @property
    def _beyond(self) -> int:
        return round(self.ahead * RATE)

    def _labels(self, signal: npt.NDArray[np.float32], ends: I64, recording: I64) -> npt.NDArray[Any]:
        targets: npt.NDArray[Any] = signal[ends + self._beyond - 1, 0].astype(self.targets)
        return targets


@cache
def _magnitude() -> Counts:
    """int64[n, 1]: of the three axes of acceleration, in whole counts, whose sums are exact."""
    axes = recordings().samples[:, :3].astype(np.int64)
    magnitude: Counts = np.rint(np.sqrt((axes * axes).sum(axis=1, keepdims=True))).astype(np.int64)
    return magnitude
