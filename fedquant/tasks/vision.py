"""Images from torchvision: MNIST and Fashion-MNIST, spread over sensors by a partition."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from filelock import FileLock
from pydantic import ConfigDict, Field
from torch import nn
from torchvision import datasets

from fedquant.errors import DataError
from fedquant.kernels import rng
from fedquant.keys import Key, Purpose
from fedquant.tasks.base import Dataset, Federation, Task
from fedquant.tasks.models import LeNet5
from fedquant.tasks.partition import Partition


@dataclass(frozen=True)
class Vision(Task):
    """Standardized images of 28x28 pixels in 10 classes.

    root: where torchvision keeps its data sets; by default $FEDQUANT_DATA, else ~/.cache/fedquant.
    download: fetch the files where they are missing.
    train_samples, test_samples: use that many, drawn by key.
    """

    source: ClassVar[type[datasets.MNIST]]
    mean: ClassVar[float]  # of the training pixels, in [0, 1]
    deviation: ClassVar[float]

    root: str | None = None
    download: bool = True
    sensors: Annotated[int, Field(ge=1)] = 20
    partition: Partition = field(default_factory=Partition)
    model: Literal["lenet5"] = "lenet5"
    train_samples: Annotated[int, Field(ge=1)] | None = None
    test_samples: Annotated[int, Field(ge=1)] | None = None

    @property
    def n_sensors(self) -> int:
        return self.sensors

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (1, 28, 28)

    @property
    def n_classes(self) -> int:
        return 10

    def load(self, key: Key) -> Federation:
        shuffle = key.fold(purpose=Purpose.SHUFFLE)
        train = self._some(self._read(train=True), self.train_samples, shuffle, "train_samples")
        test = self._some(self._read(train=False), self.test_samples, shuffle.fold(part=1), "test_samples")
        return Federation(train, test, self.partition.split(key, train.y, self.sensors))

    def build_model(self) -> nn.Module:
        return LeNet5(self.n_classes)

    def _read(self, train: bool) -> Dataset:
        root = self._root()
        try:
            images = self._open(root, train)
        # What torchvision raises for missing, unreachable, and broken files.
        except (RuntimeError, OSError, ValueError, TypeError, AssertionError) as error:
            fix = (
                f"check the network and that {root} can be written" if self.download else "set download: true"
            )
            raise DataError(
                f"{self.name}: no readable {self.source.__name__} under root {root} ({error}); "
                f"{fix}, or point root or FEDQUANT_DATA to a folder that holds it"
            ) from error
        x = images.data.numpy()[:, None].astype(np.float32)
        x /= np.float32(255)
        x -= np.float32(self.mean)
        x /= np.float32(self.deviation)
        return Dataset(x, images.targets.numpy().astype(np.int64))

    def _open(self, root: Path, train: bool) -> datasets.MNIST:
        try:
            return self.source(root, train=train)
        except RuntimeError:
            if not self.download:
                raise
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{self.name}.lock"):  # the processes of one run may come at once
            return self.source(root, train=train, download=True)

    def _root(self) -> Path:
        given = self.root or os.environ.get("FEDQUANT_DATA") or "~/.cache/fedquant"
        return Path(given).expanduser()

    def _some(self, data: Dataset, count: int | None, key: Key, what: str) -> Dataset:
        if count is None:
            return data
        if count > len(data):
            raise DataError(f"{self.name}: {what}={count} exceeds the {len(data)} there are")
        return data.take(rng.choice(key, len(data), count))


@dataclass(frozen=True)
class Mnist(Vision):
    """Handwritten digits: 60,000 to train, 10,000 to test."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: ClassVar[str] = "mnist"
    source: ClassVar[type[datasets.MNIST]] = datasets.MNIST
    mean: ClassVar[float] = 0.1307
    deviation: ClassVar[float] = 0.3081


@dataclass(frozen=True)
class FashionMnist(Vision):
    """Articles of clothing: 60,000 to train, 10,000 to test."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: ClassVar[str] = "fashion_mnist"
    source: ClassVar[type[datasets.MNIST]] = datasets.FashionMNIST
    mean: ClassVar[float] = 0.2860
    deviation: ClassVar[float] = 0.3530
