"""The models: none of them draws anything but its initial parameters."""

from fedquant.tasks.models.images import FC, CifarNet, LeNet5, SmallCNN
from fedquant.tasks.models.resnet import resnet
from fedquant.tasks.models.text import BiLSTM
from fedquant.tasks.models.watch import Norm, WatchCNN, WatchMLP

__all__ = ["FC", "BiLSTM", "CifarNet", "LeNet5", "Norm", "SmallCNN", "WatchCNN", "WatchMLP", "resnet"]
