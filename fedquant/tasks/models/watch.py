"""Models of windows of the watch: small enough to train on one core."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Norm = Literal["group", "batch", "none"]


class WatchCNN(nn.Module):
    """Three convolutions over time, then their mean over time: float32[n, channels, t] to logits.

    About 210,000 parameters. Group norm keeps samples independent of each other; batch norm has
    buffers, which must travel too.
    """

    def __init__(self, channels: int = 6, classes: int = 7, norm: Norm = "group") -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(channels, 64, kernel=7, stride=2, norm=norm),
            nn.MaxPool1d(2),
            *_convolution(64, 128, kernel=5, stride=1, norm=norm),
            nn.MaxPool1d(2),
            *_convolution(128, 256, kernel=5, stride=1, norm=norm),
        )
        self.classifier = nn.Linear(256, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).mean(dim=2))
        return logits


class WatchMLP(nn.Sequential):
    """Hidden layers of 64 and 32: float32[n, 1, samples] to a number each, float32[n]."""

    def __init__(self, samples: int = 50) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(samples, 64), nn.ReLU(),
            nn.Linear(64, 32), nn.ReLU(),
            nn.Linear(32, 1), nn.Flatten(0),
        )  # fmt: skip


def _convolution(inputs: int, outputs: int, *, kernel: int, stride: int, norm: Norm) -> list[nn.Module]:
    layers: dict[Norm, nn.Module] = {
        "group": nn.GroupNorm(8, outputs),
        "batch": nn.BatchNorm1d(outputs),
        "none": nn.Identity(),
    }
    convolution = nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=norm == "none")
    return [convolution, layers[norm], nn.ReLU()]
