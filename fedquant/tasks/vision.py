"""Images from torchvision: MNIST and Fashion-MNIST; and what all data sets kept in files share."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from pydantic import ConfigDict, Field
from torch import nn
from torchvision import datasets

from fedquant.errors import DataError
from fedquant.explain import one_line
from fedquant.kernels import rng
from fedquant.keys import Key, Purpose
from fedquant.tasks.base import Dataset, Federation, Task
from fedquant.tasks.models import FC, LeNet5, SmallCNN, resnet
from fedquant.tasks.partition import Partition

Part = Literal["train", "test"]
U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

_GREYS: Final = 192  # of a synthetic class's pattern; noise adds 0 to 63
_MEAN: Final = 127 / 255  # of their sum, in [0, 1]
_DEVIATION: Final = 58.42 / 255


@dataclass(frozen=True)
class Stored(Task):
    """Samples from files, or drawn by key, spread over sensors by a partition.

    source: where the samples come from; synthetic ones are random but for a pattern of their class:
    they have the right shape, need no files, and a model learns them in a few rounds.
    root: the folder of all data sets; by default $FEDQUANT_DATA, else ~/.cache/fedquant.
    download: fetch the files where they are missing.
    train_samples, test_samples: use that many, drawn by key.
    """

    counts: ClassVar[dict[Part, int]]  # of samples in the whole data set

    source: str
    model: str
    root: str | None = None
    download: bool = True
    sensors: Annotated[int, Field(ge=1)] = 20
    partition: Partition = field(default_factory=Partition)
    train_samples: Annotated[int, Field(ge=1)] | None = None
    test_samples: Annotated[int, Field(ge=1)] | None = None

    @property
    def n_sensors(self) -> int:
        return self.sensors

    def load(self, key: Key) -> Federation:
        shuffle = key.fold(purpose=Purpose.SHUFFLE)
        train = self._part("train", self.train_samples, shuffle)
        test = self._part("test", self.test_samples, shuffle)
        return Federation(train, test, self.partition.split(key, train.y, self.sensors))

    @abstractmethod
    def _read(self, part: Part) -> Dataset:
        """All samples of a part, as they lie in files. Raises DataError."""

    @abstractmethod
    def _draw(self, part: Part, y: Any, key: Key) -> Any:
        """Synthetic samples of the classes y: int64[n], as `_read` would give them.

        key: the draws may use its streams from 2 on, and any sensor; its part differs between train and
        test.
        """

    def _prepare(self, x: Any) -> Any:
        """Samples as the model takes them, from what was read or drawn."""
        return x

    def _part(self, part: Part, count: int | None, key: Key) -> Dataset:
        here = key.fold(part=0 if part == "train" else 1)
        if self.source == "synthetic":
            n = count or self.counts[part]
            y = rng.permutation(here.fold(stream=1), n) % self.n_classes
            data = Dataset(self._draw(part, y, here), y)
        else:
            data = self._read(part)
            if count is not None:
                if count > len(data):
                    raise DataError(f"{self.name}: {part}_samples={count} exceeds the {len(data)} there are")
                data = data.only(rng.choice(here, len(data), count))
        return Dataset(self._prepare(data.x), data.y)

    def _root(self) -> Path:
        given = self.root or os.environ.get("FEDQUANT_DATA")
        root = Path(given or "~/.cache/fedquant").expanduser()
        if given and not root.is_dir():  # mistyped, most likely; the default one is made
            raise DataError(
                f"{self.name}: root {root} is no folder that exists; make it, or point root or FEDQUANT_DATA "
                "to the one that holds the data sets"
            )
        return root


@dataclass(frozen=True)
class Images(Stored):
    """Standardized images.

    norm: of the residual networks; batch norm has buffers, which must travel too.
    """

    mean: ClassVar[tuple[float, ...]]  # of the training pixels in [0, 1], one number a channel
    deviation: ClassVar[tuple[float, ...]]

    norm: Literal["group", "batch"] = "group"

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""

    def _pattern(self, key: Key) -> U8:
        """uint8[classes, channels, 4, 4]: each class's own levels, for both parts."""
        shape = (self.n_classes, self.shape[0], 4, 4)
        drawn = rng.integers(key.fold(part=0, stream=2), math.prod(shape), _GREYS)
        return drawn.astype(np.uint8).reshape(shape)

    def _noisy(self, squares: U8, key: Key) -> U8:
        """uint8[n, *shape]: 4x4 squares of given levels, and noise of a third of their deviation."""
        channels, height, width = self.shape
        size = len(squares) * channels * height * width
        words = rng.uint32(key.fold(stream=3), -(-size // 4)).astype("<u4", copy=False)
        x: U8 = words.view(np.uint8)[:size] >> np.uint8(2)
        blocks = x.reshape(len(squares), channels, 4, height // 4, 4, width // 4)
        blocks += squares[:, :, :, None, :, None]
        return x.reshape(len(squares), *self.shape)

    def _standardize(self, x: U8) -> F32:
        """float32 of uint8[..., channels, height, width]: each channel of mean 0 and deviation 1."""
        drawn = self.source == "synthetic"
        mean, deviation = ((_MEAN,), (_DEVIATION,)) if drawn else (self.mean, self.deviation)
        out = x.astype(np.float32, order="C")
        out /= np.float32(255)
        out -= np.array(mean, np.float32)[:, None, None]
        out /= np.array(deviation, np.float32)[:, None, None]
        return out


@dataclass(frozen=True)
class Vision(Images):
    """Images of a data set that torchvision reads, all of them in memory."""

    reader: ClassVar[type[Any]]  # the class of torchvision.datasets

    def _read(self, part: Part) -> Dataset:
        root = self._root()
        try:
            images = self._open(root, part == "train")
        # What torchvision raises for missing, unreachable, and broken files.
        except (RuntimeError, OSError, ValueError, TypeError, AssertionError) as error:
            fix = (
                f"check the network and that {root} can be written" if self.download else "set download: true"
            )
            raise DataError(
                f"{self.name}: no readable {self.reader.__name__} under root {root} ({one_line(error)}); "
                f"{fix}, or point root or FEDQUANT_DATA to a folder that holds it"
            ) from error
        x = np.asarray(images.data)
        x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)  # channels first
        return Dataset(x, np.asarray(images.targets, dtype=np.int64))

    def _open(self, root: Path, train: bool) -> Any:
        try:
            return self.reader(root, train=train)
        except RuntimeError:
            if not self.download:
                raise
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{self.name}.lock"):  # the processes of one run may come at once
            return self.reader(root, train=train, download=True)

    def _draw(self, part: Part, y: Any, key: Key) -> Any:
        return self._noisy(self._pattern(key)[y], key)

    def _prepare(self, x: Any) -> Any:
        return self._standardize(x)


@dataclass(frozen=True)
class Digits(Vision):
    """Images of 28x28 grey pixels in 10 classes: 60,000 to train, 10,000 to test."""

    counts: ClassVar[dict[Part, int]] = {"train": 60_000, "test": 10_000}

    source: Literal["torchvision", "synthetic"] = "torchvision"
    model: Literal["lenet5", "fc", "cnn", "resnet18"] = "lenet5"

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, 28, 28)

    @property
    def n_classes(self) -> int:
        return 10

    def build_model(self) -> nn.Module:
        match self.model:
            case "lenet5":
                return LeNet5()
            case "fc":
                return FC()
            case "cnn":
                return SmallCNN()
            case "resnet18":
                return resnet(18, channels=1, norm=self.norm)


@dataclass(frozen=True)
class Mnist(Digits):
    """Handwritten digits."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: ClassVar[str] = "mnist"
    reader: ClassVar[type[Any]] = datasets.MNIST
    mean: ClassVar[tuple[float, ...]] = (0.1307,)
    deviation: ClassVar[tuple[float, ...]] = (0.3081,)


@dataclass(frozen=True)
class FashionMnist(Digits):
    """Articles of clothing."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: ClassVar[str] = "fashion_mnist"
    reader: ClassVar[type[Any]] = datasets.FashionMNIST
    mean: ClassVar[tuple[float, ...]] = (0.2860,)
    deviation: ClassVar[tuple[float, ...]] = (0.3530,)
