"""Residual networks for small images."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

Depth = Literal[18, 34]

_BLOCKS: dict[Depth, list[int]] = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}


def resnet(
    depth: Depth, channels: int = 3, classes: int = 10, norm: Literal["group", "batch"] = "group"
) -> nn.Module:
    """A ResNet that starts with one 3x3 convolution at full size, as is usual for 32x32 images.

    Depth 18, 3 channels, 10 classes: 11,173,962 parameters with either norm. Group norm (32 groups)
    has no buffers; batch norm is that of the papers.
    He et al., "Deep residual learning for image recognition" (arXiv 1512.03385); Wu and He, "Group
    normalization" (arXiv 1803.08494).
    """
    layer = partial(nn.GroupNorm, 32) if norm == "group" else nn.BatchNorm2d
    model: nn.Module = ResNet(BasicBlock, _BLOCKS[depth], num_classes=classes, norm_layer=layer)
    stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = stem, nn.Identity()
    return model
