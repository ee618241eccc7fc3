"""Optimizers and schedules: those that train here, and those that are refused before a run."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fedquant.errors import ConfigError
from fedquant.keys import Key
from fedquant.tasks import learn
from fedquant.tasks.trainer import Trainer, try_out
from fedquant.tasks.watch import Watch

SGD: tuple[str, dict[str, Any]] = ("sgd", {"lr": 0.1, "momentum": 0.9})
OPTIMIZERS = [
    "sgd",
    "adadelta",
    "adagrad",
    "adam",
    "Adamax",
    "AdamW",
    "asgd",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
]
SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 3}),
    ("multisteplr", {"milestones": [2, 4]}),
    ("ConstantLR", {}),
    ("LinearLR", {}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("PolynomialLR", {}),
    ("CosineAnnealingLR", {"T_max": 9}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9}),
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_that_train(name: str) -> None:
    try_out((name, {}))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s[0])
def test_schedules_that_train(schedule: tuple[str, dict[str, Any]]) -> None:
    try_out(SGD, schedule)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "message"),
    [
        (
            ("lbfgs", {}),
            None,
            "optimizer.name: lbfgs cannot be used here, its step computes the loss several",
        ),
        (
            ("SparseAdam", {}),
            None,
            "optimizer.name: SparseAdam cannot be used here, it takes sparse gradients",
        ),
        (("Optimizer", {}), None, "optimizer.name: 'Optimizer' is not in torch.optim, known: "),
        (("sgd", {"lr": "fast"}), None, "optimizer.lr: expected a value such as 0.001, got 'fast'"),
        (("sgd", {"momentum": None}), None, "optimizer.momentum: expected a value such as 0, got None"),
        (("sgd", {"lr": -1}), None, "optimizer: SGD, given lr=-1, fails: Invalid learning rate: -1; see"),
        (("adam", {"betas": 3}), None, "optimizer: Adam, given betas=3, fails: "),
        (
            SGD,
            ("ReduceLROnPlateau", {}),
            "schedule.name: ReduceLROnPlateau cannot be used here, it wants a loss",
        ),
        (
            SGD,
            ("LambdaLR", {"lr_lambda": 3}),
            "schedule.name: LambdaLR cannot be used here, a scenario cannot",
        ),
        (SGD, ("SequentialLR", {}), "schedule.name: SequentialLR cannot be used here"),
        (
            SGD,
            ("_LRScheduler", {}),
            "schedule.name: '_LRScheduler' is not in torch.optim.lr_scheduler, known: ",
        ),
        (SGD, ("LRScheduler", {}), "schedule.name: 'LRScheduler' is not in torch.optim.lr_scheduler"),
        (SGD, ("StepLR", {}), "schedule: StepLR, given nothing but its defaults, fails: "),
        (SGD, ("StepLR", {"step_size": "ten"}), "schedule: StepLR, given step_size='ten', fails: "),
        (
            SGD,
            ("StepLR", {"step_size": 1, "last_epoch": 3}),
            "schedule: StepLR, given step_size=1, last_epoch=3",
        ),
        (SGD, ("CosineAnnealingLR", {"T_max": 0}), "schedule: CosineAnnealingLR, given T_max=0, fails: "),
    ],
)
def test_what_cannot_train_is_refused(optimizer: Any, schedule: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"training.{message}")) as refusal:
        try_out(optimizer, schedule)
    offered = re.split(r"known: |use one of ", str(refusal.value))[1:]
    assert not re.search(r"_|lbfgs|sparse|lambda|plateau|sequential|multiplicative|chained", "".join(offered))


def test_a_trainer_tries_first() -> None:
    task = Watch()
    with pytest.raises(ConfigError, match="T_max=0"):
        Trainer(task, learn.initialise(task, Key(1)), SGD, ("CosineAnnealingLR", {"T_max": 0}), "cpu")


def test_a_schedule_that_ends_before_the_run_is_named() -> None:
    task = Watch()
    schedule = ("OneCycleLR", {"max_lr": 0.1, "total_steps": 2})
    trainer = Trainer(task, learn.initialise(task, Key(1)), SGD, schedule, "cpu")
    for _ in range(2):
        trainer.end_round()
    with pytest.raises(
        ConfigError, match=r"training\.schedule: OneCycleLR, given .*total_steps=2, fails: Tried"
    ):
        trainer.end_round()
