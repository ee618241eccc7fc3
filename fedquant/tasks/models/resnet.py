"""Residual networks, for small images and for those of ImageNet."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

Depth = Literal[18, 34, 50]

_BLOCKS: dict[Depth, tuple[type[nn.Module], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
}


def resnet(
    depth: Depth,
    channels: int = 3,
    classes: int = 10,
    norm: Literal["group", "batch"] = "group",
    stem: Literal["small", "imagenet"] = "small",
) -> nn.Module:
    """A ResNet of torchvision, with group norm (32 groups, no buffers) or the batch norm of the papers.

    stem: one 3x3 convolution at full size, as is usual for 32x32 images; or that of ImageNet, a 7x7
    convolution and a pooling, of stride 2 each, for 3 channels alone.
    Depth 18, 3 channels, 10 classes: 11,173,962 parameters with either norm; depth 50 with ImageNet's
    stem and 1000 classes: 25,557,032.
    He et al., "Deep residual learning for image recognition" (arXiv 1512.03385); Wu and He, "Group
    normalization" (arXiv 1803.08494).
    """
    layer = partial(nn.GroupNorm, 32) if norm == "group" else nn.BatchNorm2d
    block, layers = _BLOCKS[depth]
    model: nn.Module = ResNet(block, layers, num_classes=classes, norm_layer=layer)
    if stem == "small":
        first = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        model.conv1, model.maxpool = first, nn.Identity()
    return model
