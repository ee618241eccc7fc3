"""Small models of images, float32[n, channels, height, width] to logits."""

from __future__ import annotations

import torch
from torch import nn


class FC(nn.Sequential):
    """Hidden layers of 1000, 300 and 100: 1,116,410 parameters for 28x28 images in 10 classes.

    Abdi and Fekri, "Quantized compressive sampling of stochastic gradients" (AAAI 2020).
    """

    def __init__(self, pixels: int = 784, classes: int = 10) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(pixels, 1000), nn.ReLU(),
            nn.Linear(1000, 300), nn.ReLU(),
            nn.Linear(300, 100), nn.ReLU(),
            nn.Linear(100, classes),
        )  # fmt: skip


class SmallCNN(nn.Sequential):
    """Two convolutions and a small head for 28x28 images: 55,338 parameters for 10 classes."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 32), nn.ReLU(),
            nn.Linear(32, classes),
        )  # fmt: skip


class LeNet5(nn.Module):
    """LeNet-5 for 28x28 images, float32[n, 1, 28, 28] to logits: 61,706 parameters for 10 classes.

    LeCun et al., "Gradient-based learning applied to document recognition" (1998), with the ReLU
    and max pooling of later use.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class CifarNet(nn.Sequential):
    """CifarNet for 32x32 colour images: 1,756,426 parameters for 10 classes.

    The layers of TensorFlow-Slim's `cifarnet` (64, 64, 384, 192) without its dropout, whose draws no key
    would decide, and its local response normalization, within 1e-3 of the identity for activations of 1.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(3, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 8 * 8, 384), nn.ReLU(),
            nn.Linear(384, 192), nn.ReLU(),
            nn.Linear(192, classes),
        )  # fmt: skip
