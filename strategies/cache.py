"""Samples that arrived once and are used again: in order of arrival, whoever sent them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedquant.checkpoint import State
from fedquant.codecs.grid import Quantized
from fedquant.errors import CodecError
from fedquant.tasks.base import Dataset

Places = npt.NDArray[np.int64]


class Cache:
    """What a server keeps. A sample's place counts among those of its sensor."""

    def __init__(self) -> None:
        self._x: npt.NDArray[np.float32] = np.zeros((0,), np.float32)
        self._y: npt.NDArray[Any] = np.zeros((0,), np.int64)  # of the first labels' type from then on
        self._size = 0
        self._rows: dict[int, list[int]] = {}
        self._held: dict[int, Quantized] = {}
        self._refined: dict[int, npt.NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return self._size

    def add(self, sensor: int, data: Dataset, held: Quantized | None = None) -> None:
        """Keeps a sensor's samples; held: their levels, where they may be refined."""
        self._reserve(data)
        stop = self._size + len(data)
        self._x[self._size : stop], self._y[self._size : stop] = data.x, data.y
        self._rows.setdefault(sensor, []).extend(range(self._size, stop))
        self._size = stop
        if held is None:
            return
        if before := self._held.get(sensor):
            held = replace(
                held,
                levels=np.concatenate([before.levels, held.levels]),
                scales=np.concatenate([before.scales, held.scales]),
            )
        self._held[sensor] = held
        self._refined[sensor] = np.append(
            self._refined.get(sensor, np.zeros(0, np.bool_)), np.zeros(len(data), np.bool_)
        )

    def of(self, sensor: int) -> int:
        """How many samples of a sensor are kept."""
        return len(self._rows.get(sensor, ()))

    def look(self, sensor: int, places: Places) -> Quantized:
        """The levels of a sensor's samples. Raises CodecError for one that is refined already."""
        if not len(places):
            raise CodecError("refinement of no sample")
        held = self._held[sensor]
        if self._refined[sensor][places].any():
            raise CodecError(
                f"refinement of sample {places[self._refined[sensor][places]][0]}, a second time"
            )
        return replace(held, levels=held.levels[places], scales=held.scales[places])

    def refine(self, sensor: int, places: Places, finer: Quantized) -> Dataset:
        """Replaces a sensor's samples by finer ones; returns them."""
        rows = np.array(self._rows[sensor], np.int64)[places]
        self._x[rows] = finer.samples().reshape(self._x[rows].shape)
        self._refined[sensor][places] = True
        return self.take(rows)

    def take(self, rows: npt.ArrayLike) -> Dataset:
        """A copy of some samples, counted in order of arrival."""
        chosen = np.asarray(rows, np.int64)
        return Dataset(self._x[chosen], self._y[chosen])

    def state(self) -> State:
        """All samples in order of arrival, whose they are, and their levels."""
        return {
            "x": self._x[: self._size],
            "y": self._y[: self._size],
            "rows": self._rows,
            "held": {sensor: vars(held) for sensor, held in self._held.items()},
            "refined": self._refined,
        }

    def restore(self, state: State) -> None:
        """Takes over what `state` gave."""
        self._x, self._y, self._size = state["x"], state["y"], len(state["y"])
        self._rows, self._refined = state["rows"], state["refined"]
        self._held = {sensor: Quantized(**held) for sensor, held in state["held"].items()}

    def _reserve(self, data: Dataset) -> None:
        """Room for more: twice as much whenever it is full, so that a sample is copied once or twice."""
        wanted = self._size + len(data)
        if wanted <= len(self._y) and self._x.shape[1:] == data.x.shape[1:]:
            return
        room = max(wanted, 2 * len(self._y))
        x, y = np.empty((room, *data.x.shape[1:]), data.x.dtype), np.empty(room, data.y.dtype)
        if self._size:
            x[: self._size], y[: self._size] = self._x[: self._size], self._y[: self._size]
        self._x, self._y = x, y
