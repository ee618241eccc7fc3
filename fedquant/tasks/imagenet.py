"""ImageNet: images that are decoded, or drawn, whenever they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import ConfigDict, Field
from torch import nn
from torchvision import datasets, transforms
from torchvision.datasets.folder import default_loader, find_classes

from fedquant.errors import DataError
from fedquant.keys import Key
from fedquant.tasks.base import Dataset, Lazy
from fedquant.tasks.models import resnet
from fedquant.tasks.models.resnet import Depth
from fedquant.tasks.vision import U8, Images, Part

_SIDE: Final = 224
_FOLDERS: Final[dict[Part, str]] = {"train": "train", "test": "val"}
_VIEW: Final = transforms.Compose(
    [transforms.Resize(256), transforms.CenterCrop(_SIDE), transforms.PILToTensor()]
)
_DEPTHS: Final[dict[str, Depth]] = {"resnet18": 18, "resnet34": 34, "resnet50": 50}

Number = Annotated[int, Field(ge=1, le=1 << 22)]  # no more can a key name


@dataclass(frozen=True)
class ImageNet(Images):
    """Photographs of 1000 kinds of things, 224x224 colour pixels: 1,281,167 to train, 50,000 to test.

    Russakovsky et al., "ImageNet large scale visual recognition challenge" (arXiv 1409.0575).
    source: folder reads `imagenet/train/<class>/*.JPEG` and `imagenet/val/<class>/*.JPEG` under root, with
    the same classes, at most 1000; there is no download. The usual view of an image: its shorter side
    scaled to 256, then its centre. Only file names and labels are kept in memory.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: ClassVar[str] = "imagenet"
    counts: ClassVar[dict[Part, int]] = {"train": 1_281_167, "test": 50_000}
    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)
    deviation: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    source: Literal["folder", "synthetic"] = "folder"
    model: Literal["resnet18", "resnet34", "resnet50"] = "resnet50"
    download: Literal[False] = False  # its terms ask for an account
    train_samples: Number | None = None
    test_samples: Number | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, _SIDE, _SIDE)

    @property
    def n_classes(self) -> int:
        return 1000

    def build_model(self) -> nn.Module:
        return resnet(_DEPTHS[self.model], classes=self.n_classes, norm=self.norm, stem="imagenet")

    def _read(self, part: Part) -> Dataset:
        top = self._root() / "imagenet"
        try:
            classes, others = (find_classes(top / folder)[0] for folder in _FOLDERS.values())
            images = datasets.ImageFolder(top / _FOLDERS[part])
        except OSError as error:
            raise DataError(
                f"imagenet: no readable images under {top} ({error}); there is no download: put the "
                "files to train/<class>/*.JPEG and val/<class>/*.JPEG there, with one folder a class, point "
                "root or FEDQUANT_DATA to the folder that holds imagenet, or set source: synthetic"
            ) from error
        if classes != others or len(classes) > self.n_classes:
            raise DataError(
                f"imagenet: {top} has {len(classes)} folders of classes in train and {len(others)} in val; "
                f"expected the same ones in both, at most {self.n_classes}"
            )
        paths = np.array([os.fsencode(path) for path, _ in images.samples])  # much smaller than str objects
        data = self._lazy(len(paths), lambda i: _decode(os.fsdecode(paths[i])))
        return Dataset(data, np.array(images.targets, np.int64))

    def _draw(self, part: Part, y: Any, key: Key) -> Any:
        squares = self._pattern(key)
        return self._lazy(len(y), lambda i: self._noisy(squares[y[i : i + 1]], key.fold(sensor=i))[0])

    def _lazy(self, n: int, pixels: Callable[[int], U8]) -> Any:
        return Lazy(lambda i: self._standardize(pixels(i)), np.arange(n), self.shape)


def _decode(path: str) -> U8:
    """uint8[3, 224, 224]. Raises DataError for what is no image."""
    try:
        pixels: U8 = _VIEW(default_loader(path)).numpy()
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"imagenet: {path} is broken ({error}); copy it again") from error
    return pixels
