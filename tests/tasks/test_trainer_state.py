"""A trainer goes on from its state as if it had never stopped."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedquant import checkpoint
from fedquant.scenario import load
from fedquant.tasks import learn
from fedquant.tasks.trainer import Trainer
from tests.alike import same

TASK = load("wearables").build_task
OPTIMIZERS = [
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"name": "adam", "amsgrad": True},
    *({"name": name} for name in ("adafactor", "adadelta", "adagrad", "adamax", "adamw", "asgd")),
    *({"name": name} for name in ("nadam", "radam", "rmsprop", "rprop")),
]
SCHEDULES = [
    {"name": "StepLR", "step_size": 2},
    {"name": "MultiStepLR", "milestones": [2, 5]},
    {"name": "CyclicLR", "base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "cycle_momentum": False},
    {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": 8, "cycle_momentum": False},
    {"name": "CosineAnnealingWarmRestarts", "T_0": 2},
    *({"name": name} for name in ("LinearLR", "ConstantLR", "PolynomialLR")),
]


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    list(zip(OPTIMIZERS, cycle([None, *SCHEDULES]), strict=False)),
    ids=lambda given: given and given["name"],
)
def test_training_goes_on_where_it_was(
    optimizer: dict[str, Any], schedule: dict[str, Any] | None, tmp_path: Path
) -> None:
    chosen = [optimizer] if schedule is None else [optimizer, schedule]

    def trainer() -> Trainer:
        model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        learn.set_parameters(model, np.linspace(-1, 1, 12, dtype=np.float32))
        named = [(given["name"], {k: v for k, v in given.items() if k != "name"}) for given in chosen]
        return Trainer(TASK, model, *named, device="cpu")

    def train(one: Trainer, rounds: range) -> None:
        for round in rounds:
            if round != 1:  # nothing to learn from
                one.step(np.sin(round + np.arange(12, dtype=np.float32)))
            one.model(torch.ones(4, 3) * round)
            one.end_round()

    whole, half, other = trainer(), trainer(), trainer()
    train(whole, range(7))
    train(half, range(3))
    checkpoint.write(tmp_path, 7, half.state())
    other.restore(checkpoint.read(tmp_path, 7))
    train(other, range(3, 7))
    assert same(other.state(), whole.state())
