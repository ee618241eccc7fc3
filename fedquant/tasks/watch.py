"""Shoulder exercises seen by a wrist watch: real sensors, real subjects, shipped with the library.

140 recordings of 7 exercises, 6 axes (acceleration, angular rate) at 50 Hz, by 10 subjects with
both arms. Burns et al., "Shoulder physiotherapy exercise recognition" (arXiv 1802.01489); the
notice of its licence is in `data/LICENSE.watch`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from torch import nn

from fedquant.errors import ConfigError, DataError
from fedquant.keys import Key
from fedquant.tasks.base import Dataset, Federation, Task
from fedquant.tasks.models import Norm, WatchCNN
from fedquant.tasks.partition import by_id

Counts = npt.NDArray[np.integer]
I64 = npt.NDArray[np.int64]

RATE: Final = 50  # Hz


@dataclass(frozen=True, eq=False)
class Recordings:
    """`samples: int16[n, axes]`, one recording after another; the rest int64, one a recording."""

    samples: npt.NDArray[np.int16]
    ends: I64
    label: I64
    subject: I64
    side: I64
    classes: tuple[str, ...]


@cache
def recordings() -> Recordings:
    """The embedded recordings. Raises DataError where their file is missing."""
    file = resources.files("fedquant.tasks") / "data" / "watch.npz"
    if not file.is_file():
        raise DataError(f"watch: {file} is missing from the installation; install fedquant again")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return Recordings(
            samples=arrays["samples"],
            ends=np.cumsum(arrays["lengths"], dtype=np.int64),
            label=arrays["label"].astype(np.int64),
            subject=arrays["subject"].astype(np.int64),
            side=arrays["side"].astype(np.int64),
            classes=tuple(arrays["labels"].tolist()),
        )


@dataclass(frozen=True)
class Windows(Task):
    """Windows of the recordings: one sensor per (subject, side), and held-out subjects as the test.

    window: s; overlap: the share of a window that the next one repeats.
    fold: which of the `folds` groups of subjects is held out. Raises ConfigError for one too high.
    """

    window: Annotated[float, Field(ge=0.5, le=10)] = 2.0
    overlap: Annotated[float, Field(ge=0, le=0.95)] = 0.5
    folds: Annotated[int, Field(ge=2, le=10)] = 5
    fold: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fold < self.folds:
            raise ConfigError(
                f"{self.name}: fold={self.fold} does not exist: with folds={self.folds} it is one of "
                f"0 to {self.folds - 1}"
            )

    @property
    def n_sensors(self) -> int:
        r = recordings()
        training = ~np.isin(r.subject, self.held_out)
        return len(set(zip(r.subject[training], r.side[training], strict=True)))

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and samples of a window."""
        return self._signal().shape[1], self._length

    @property
    def held_out(self) -> tuple[int, ...]:
        """The subjects of the test set."""
        subjects = np.unique(recordings().subject)
        return tuple(np.array_split(subjects, self.folds)[self.fold].tolist())

    def load(self, key: Key) -> Federation:
        """Windows in the order of sensor, recording and time; nothing here is random."""
        r = recordings()
        starts, recording = self._windows()
        order = np.lexsort((starts, r.side[recording], r.subject[recording]))
        starts, recording = starts[order], recording[order]
        test = np.isin(r.subject[recording], self.held_out)
        signal = self._standardized()
        x = signal[starts[:, None] + np.arange(self._length)]
        y = self._labels(signal, starts + self._length, recording)
        windows = Dataset(np.ascontiguousarray(x.transpose(0, 2, 1)), y)
        sensor = 2 * r.subject[recording] + r.side[recording]
        return Federation(
            windows.take(np.flatnonzero(~test)),
            windows.take(np.flatnonzero(test)),
            by_id(sensor[~test]),
        )

    @abstractmethod
    def _signal(self) -> Counts:
        """integer[n, channels]: what windows are cut from, of all recordings."""

    @abstractmethod
    def _labels(self, signal: npt.NDArray[np.float32], ends: I64, recording: I64) -> npt.NDArray[Any]:
        """Those of windows of the standardized signal that end before `ends` in their recordings."""

    @property
    def _beyond(self) -> int:
        """Samples that a recording must have beyond a window's end."""
        return 0

    @property
    def _length(self) -> int:
        return round(self.window * RATE)

    def _windows(self) -> tuple[I64, I64]:
        """First sample and recording of each window; none crosses the end of a recording."""
        ends = recordings().ends
        begins = np.concatenate(([0], ends[:-1]))
        step = max(1, round(self._length * (1 - self.overlap)))
        lasts = ends - self._length - self._beyond
        starts = [np.arange(begin, last + 1, step) for begin, last in zip(begins, lasts, strict=True)]
        return np.concatenate(starts), np.repeat(np.arange(len(ends)), [len(s) for s in starts])

    def _standardized(self) -> npt.NDArray[np.float32]:
        """float32[n, channels]: the signal with the training subjects' mean 0 and deviation 1.

        Counts of the converter will do: their unit cancels, and their integer sums are exact.
        """
        r, signal = recordings(), self._signal()
        lengths = np.diff(r.ends, prepend=0)
        known = signal[np.repeat(~np.isin(r.subject, self.held_out), lengths)].astype(np.int64)
        mean = known.mean(axis=0)
        deviation = np.sqrt((known * known).sum(axis=0) / len(known) - mean * mean)
        return np.asarray((signal - mean) / deviation, dtype=np.float32)


@dataclass(frozen=True)
class Watch(Windows):
    """Which exercise a window of all six axes shows."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: ClassVar[str] = "watch"

    model: Literal["cnn"] = "cnn"
    norm: Norm = "group"

    @property
    def n_classes(self) -> int:
        return len(recordings().classes)

    def build_model(self) -> nn.Module:
        return WatchCNN(channels=self.shape[0], classes=self.n_classes, norm=self.norm)

    def _signal(self) -> Counts:
        return recordings().samples

    def _labels(self, signal: npt.NDArray[np.float32], ends: I64, recording: I64) -> I64:
        return recordings().label[recording]
