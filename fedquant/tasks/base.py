"""What a learning problem is: data spread over sensors, a model and a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from fedquant.errors import DataError
from fedquant.keys import Key

Indices = npt.NDArray[np.int64]
Targets = Literal["float16", "float32"]


@dataclass(frozen=True, eq=False)
class Lazy:
    """Samples made whenever they are asked for, where all of them would not fit into memory.

    Has of a read-only array what data sets need: len, shape, dtype, and indexing along the first axis,
    whose result is a new array: `self[int64[k]]` is float32[k, *sample].
    make: the sample of a number, the same at every call; so order and batches change nothing.
    numbers: int64[n], of the samples in order. sample: the shape of one.
    """

    make: Callable[[int], npt.NDArray[np.float32]]
    numbers: Indices
    sample: tuple[int, ...]

    dtype: ClassVar[np.dtype[np.float32]] = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.numbers), *self.sample)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, chosen: Any) -> npt.NDArray[np.float32]:
        numbers = np.asarray(self.numbers[chosen])
        out = np.empty((*numbers.shape, *self.sample), self.dtype)
        for place in np.ndindex(numbers.shape):
            out[place] = self.make(int(numbers[place]))
        return out

    def only(self, chosen: Indices) -> Lazy:
        """The samples at `chosen`, still to be made."""
        return Lazy(self.make, self.numbers[chosen], self.sample)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples `x: float32[n, *shape]` (int64 where they are tokens) and their labels `y`.

    y: int64[n] where they are classes, float16[n] or float32[n] where they are targets of a regression.
    The x of a whole federation may be `Lazy`; what `take` gives is an array always.
    Raises DataError where their numbers differ.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(f"data set: {len(self.x)} samples but {len(self.y)} labels")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: npt.ArrayLike) -> Dataset:
        """A copy of the samples at `indices: int64[k]`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Dataset(self.x[chosen], self.y[chosen])

    def only(self, indices: npt.ArrayLike) -> Dataset:
        """As `take`, but what is `Lazy` stays so."""
        chosen = np.asarray(indices, dtype=np.int64)
        x: Any = self.x
        x = x.only(chosen) if isinstance(x, Lazy) else x[chosen]
        return Dataset(x, self.y[chosen])


@dataclass(frozen=True, eq=False)
class Federation:
    """A training set spread over sensors, and a test set.

    parts: one int64 array of indices into `train` per sensor, in time order.
    """

    train: Dataset
    test: Dataset
    parts: tuple[Indices, ...]

    @property
    def n_sensors(self) -> int:
        return len(self.parts)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each sensor."""
        return tuple(len(part) for part in self.parts)

    def sensor(self, i: int) -> Dataset:
        """A copy of sensor i's training samples. Raises DataError for an id out of range."""
        if not 0 <= i < self.n_sensors:
            raise DataError(f"sensor {i} does not exist: ids run from 0 to {self.n_sensors - 1}")
        return self.train.take(self.parts[i])


class Task(ABC):
    """A learning problem. Every task is a frozen dataclass whose fields are its YAML keys."""

    name: ClassVar[str]
    dtype: ClassVar[type[np.generic]] = np.float32  # of the samples; only float32 can be a data uplink

    @property
    @abstractmethod
    def n_sensors(self) -> int:
        """How many sensors hold training samples."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    @property
    @abstractmethod
    def n_classes(self) -> int:
        """How many labels there are; 0 where they are no classes."""

    @property
    def labels(self) -> int | Targets:
        """What a label is: one of as many classes, or a target of that type."""
        return self.n_classes

    @abstractmethod
    def load(self, key: Key) -> Federation:
        """The data; a pure function of the fields and `key.seed`. Raises DataError."""

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A new model; its initial parameters come from torch's CPU generator (see `learn`)."""

    def augment(self, data: Dataset, key: Key) -> Dataset:
        """What a node trains on in place of its samples, drawn by key; the samples themselves by default."""
        return data

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """float32[n]: the cross entropy of each sample, in nat."""
        return functional.cross_entropy(outputs, targets, reduction="none")

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> float | None:
        """The share of samples classified correctly, in [0, 1]; None for a task without accuracy."""
        return float((outputs.argmax(dim=1) == targets).double().mean())


class Regression(Task):
    """A task whose labels are numbers, kept and sent in 16 or 32 bits; it has a loss and no accuracy.

    Its model gives float32[n].
    """

    targets: Targets

    @property
    def n_classes(self) -> int:
        return 0

    @property
    def labels(self) -> Targets:
        return self.targets

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """float32[n]: the squared error of each sample."""
        return functional.mse_loss(outputs, targets.float(), reduction="none")

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        return None


def load(task: Task, key: Key) -> Federation:
    """`task.load(key)`, read only and remembered by the process for (task, key.seed).

    Raises DataError, also for labels that are not of the task's type.
    """
    return _load(task, key.seed)


@lru_cache(maxsize=4)
def _load(task: Task, seed: int) -> Federation:
    federation = task.load(Key(seed))
    for data in (federation.train, federation.test):
        if data.y.dtype != (wanted := np.dtype(task.labels if isinstance(task.labels, str) else np.int64)):
            raise DataError(
                f"{task.name}: the labels are {data.y.dtype}, expected {wanted}; load them as such"
            )
        if not isinstance(data.x, Lazy):
            data.x.setflags(write=False)
        data.y.setflags(write=False)
    for part in federation.parts:
        part.setflags(write=False)
    return federation
