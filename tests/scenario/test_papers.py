"""The papers' scenarios load, and those of DQSGD at the papers' sizes learn what has the right shape."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedquant.engines.run import run
from fedquant.scenario import load
from fedquant.scenario.load import folder

PAPERS = sorted((folder() / "papers").rglob("*.yaml"))
TINY = {
    "task.source": "synthetic",
    "task.train_samples": 32,
    "task.test_samples": 32,
    "training.rounds": 3,
    "training.evaluate_every": 1,
    "training.device": "cpu",
}


@pytest.mark.parametrize("path", PAPERS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_scenario_of_a_paper_loads(path: Path) -> None:
    assert load(path).name == f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize(
    ("name", "rounds", "batch", "lr", "k", "alpha"),
    [
        ("cifar10", 6000, 32, 0.1, 20, 0.999),
        ("cifar100", 6000, 64, 0.01, 10, 0.999),
        ("agnews", 1000, 32, 0.005, 5, 0.994),
    ],
)
def test_dqsgd_has_the_numbers_of_its_table_3(
    name: str, rounds: int, batch: int, lr: float, k: float, alpha: float
) -> None:
    scenario = load(f"papers/dqsgd/{name}")
    values = scenario.to_dict()
    assert scenario.sensors == 8
    assert values["uplink"]["codec"]["norm"] == "max"
    control = values["uplink"]["control"]
    assert (control["name"], control["k"], control["alpha"]) == ("dqsgd_convex", k, alpha)
    training = scenario.training
    assert (training.rounds, training.batch_size, training.optimizer.arguments) == (rounds, batch, {"lr": lr})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        # The first steps overshoot at a rate of 0.1, and batch norm has gathered little until then.
        ("cifar10", {"training.batch_size": 4, "training.rounds": 20, "training.evaluate_every": 10}),
        ("cifar100", {"training.batch_size": 4, "training.rounds": 6, "training.evaluate_every": 3}),
        ("agnews", {"task.embeddings": None, "task.tune_embeddings": True}),  # synthetic words have none
    ],
)
def test_the_loss_of_dqsgd_falls(name: str, changes: dict[str, object], tmp_path: Path) -> None:
    scenario = load(f"papers/dqsgd/{name}", {**TINY, **changes})
    result = run(scenario, out=tmp_path)
    losses = [row["test_loss"] for row in result.rounds if "test_loss" in row]
    assert losses[-1] < losses[0]
    assert losses[-1] < math.log(scenario.build_task.n_classes)  # of guessing
    bits = [row["bits"] for row in result.rounds]
    assert bits[0] == 4
    assert all(2 <= b <= 8 for b in bits)
