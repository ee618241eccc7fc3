"""Small colour images: CIFAR-10 and CIFAR-100, from torchvision or from a compact JPEG copy."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image, UnidentifiedImageError
from pydantic import ConfigDict
from torch import nn
from torchvision import datasets

from fedquant.errors import DataError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.tasks.base import Dataset
from fedquant.tasks.models import CifarNet, resnet
from fedquant.tasks.vision import Part, Vision

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

_FOLDER: Final = "cifar10-jpeg"
_SIDE: Final = 32


@dataclass(frozen=True)
class Cifar(Vision):
    """Images of 32x32 colour pixels: 50,000 to train, 10,000 to test.

    Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
    augmentation: gradients and local steps see them moved and mirrored at random; quantized data do not.
    """

    augmentation: bool = False

    counts: ClassVar[dict[Part, int]] = {"train": 50_000, "test": 10_000}

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, _SIDE, _SIDE)

    def augment(self, data: Dataset, key: Key) -> Dataset:
        if not self.augmentation:
            return data
        return Dataset(crop_and_flip(data.x, key), data.y)

    def build_model(self) -> nn.Module:
        match self.model:
            case "resnet18":
                return resnet(18, classes=self.n_classes, norm=self.norm)
            case "resnet34":
                return resnet(34, classes=self.n_classes, norm=self.norm)
            case _:
                return CifarNet(self.n_classes)


@dataclass(frozen=True)
class Cifar10(Cifar):
    """Photographs of 10 kinds of things.

    source: jpeg is a slightly lossy copy, `cifar10-jpeg/train.npz` and `test.npz` under root, with
    `jpeg: uint8` all files in one, `offsets: int64[n + 1]` and `labels`. It is decoded once and kept
    in $XDG_CACHE_HOME/fedquant (~/.cache/fedquant).
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: ClassVar[str] = "cifar10"
    reader: ClassVar[type[Any]] = datasets.CIFAR10
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    deviation: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)

    source: Literal["torchvision", "jpeg", "synthetic"] = "torchvision"
    model: Literal["cifarnet", "resnet18", "resnet34"] = "cifarnet"

    @property
    def n_classes(self) -> int:
        return 10

    def _read(self, part: Part) -> Dataset:
        if self.source == "jpeg":
            return _read_jpeg(self._root() / _FOLDER / f"{part}.npz", self.n_classes)
        return super()._read(part)


@dataclass(frozen=True)
class Cifar100(Cifar):
    """Photographs of 100 kinds of things."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: ClassVar[str] = "cifar100"
    reader: ClassVar[type[Any]] = datasets.CIFAR100
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4865, 0.4409)
    deviation: ClassVar[tuple[float, ...]] = (0.2673, 0.2564, 0.2762)

    source: Literal["torchvision", "synthetic"] = "torchvision"
    model: Literal["cifarnet", "resnet18", "resnet34"] = "resnet34"

    @property
    def n_classes(self) -> int:
        return 100


def crop_and_flip(x: F32, key: Key, padding: int = 4) -> F32:
    """float32[n, c, h, w]: each image moved by up to `padding` pixels each way, and mirrored or not.

    What moves in is 0, the mean colour of standardized images. Image i depends on x[i], the key and i.
    He et al., "Deep residual learning for image recognition" (arXiv 1512.03385), section 4.2.
    """
    n, channels, height, width = x.shape
    top = rng.integers(key.fold(stream=1), n, 2 * padding + 1)
    left = rng.integers(key.fold(stream=2), n, 2 * padding + 1)
    mirrored = rng.integers(key.fold(stream=3), n, 2) == 1
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    columns[mirrored] = columns[mirrored, ::-1]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    image, channel = np.arange(n)[:, None, None, None], np.arange(channels)[None, :, None, None]
    cut: F32 = padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return cut


def _read_jpeg(path: Path, classes: int) -> Dataset:
    """The images, uint8[n, 3, 32, 32], and labels of one part of the JPEG copy."""
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            jpeg, offsets, labels = arrays["jpeg"], arrays["offsets"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"cifar10: no readable {path} ({error}); point root or FEDQUANT_DATA to the folder that "
            f"holds {_FOLDER}, or set source: torchvision"
        ) from error
    ordered = offsets.shape == (labels.size + 1,) and offsets[0] == 0 and (np.diff(offsets) > 0).all()
    if not ordered or offsets[-1] != len(jpeg) or (labels < 0).any() or (labels >= classes).any():
        raise DataError(
            f"cifar10: {path} is broken: expected increasing offsets from 0 to the {len(jpeg)} bytes of "
            f"jpeg, one more than labels, and labels below {classes}; copy it again"
        )
    name = f"cifar10-{hashlib.sha256(content).hexdigest()[:16]}.npy"
    pixels = _decoded(_cache() / name, jpeg, offsets, path)
    return Dataset(pixels.transpose(0, 3, 1, 2), labels.astype(np.int64))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedquant"


def _decoded(cached: Path, jpeg: U8, offsets: npt.NDArray[np.int64], source: Path) -> U8:
    """uint8[n, 32, 32, 3], mapped from a file named by the JPEG bytes' digest."""
    shape = (len(offsets) - 1, _SIDE, _SIDE, 3)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cached}.lock"):  # the processes of one run may come at once
            if not cached.exists():
                partial = cached.with_suffix(".part")
                with partial.open("wb") as stream:
                    np.save(stream, _decode(jpeg, offsets, source), allow_pickle=False)
                partial.replace(cached)
        pixels: U8 = np.load(cached, mmap_mode="r", allow_pickle=False)
        if pixels.shape != shape or pixels.dtype != np.uint8:
            raise ValueError(f"holds {pixels.dtype}{list(pixels.shape)}, expected uint8{list(shape)}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"cifar10: no decoded images in {cached} ({error}); remove that file, or point "
            "XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return pixels


def _decode(jpeg: U8, offsets: npt.NDArray[np.int64], source: Path) -> U8:
    """uint8[n, 32, 32, 3]. Raises DataError for what is no JPEG of that size."""
    out = np.empty((len(offsets) - 1, _SIDE, _SIDE, 3), np.uint8)
    data = jpeg.tobytes()
    for i, (start, stop) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        try:
            with Image.open(io.BytesIO(data[start:stop]), formats=("JPEG",)) as image:
                if image.size != (_SIDE, _SIDE):
                    raise ValueError(f"{image.size[0]}x{image.size[1]} pixels, expected {_SIDE}x{_SIDE}")
                out[i] = np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise DataError(f"cifar10: image {i} of {source} is broken ({error}); copy it again") from error
    return out
