"""The papers' scenarios load, and those of DQSGD at the papers' sizes learn what has the right shape."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedquant.engines.run import run
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.scenario import load
from fedquant.scenario.load import folder

PAPERS = sorted((folder() / "papers").rglob("*.yaml"))
TINY = {
    "task.source": "synthetic",
    "task.train_samples": 32,
    "task.test_samples": 32,
    "training.rounds": 20,
    "training.evaluate_every": 10,
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


def news(root: Path) -> dict[str, object]:
    """AG-News as files of four topics with a word each, and vectors for these words."""
    (root / "news").mkdir()
    words = ["match", "stocks", "chip", "treaty"]
    for part in ("train", "test"):
        lines = [f'"{words[n % 4]} number {n % 7} of today",{n % 4}' for n in range(32)]
        (root / "news" / f"{part}.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    vectors = rng.uniform(Key(3), 4 * 300).reshape(4, 300) * 4 - 2
    rows = [" ".join([w, *(f"{v:.4f}" for v in row)]) for w, row in zip(words, vectors, strict=True)]
    (root / "glove.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {
        "task.source": "csv",
        "task.root": str(root),
        "task.folder": "news",
        "task.embeddings": "glove.txt",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "cifar100", "agnews"])
def test_the_loss_of_dqsgd_falls(name: str, tmp_path: Path) -> None:
    """20 rounds, of ResNets with two workers of 16 samples.

    The first steps overshoot at CIFAR-10's rate of 0.1, and batch norm has gathered little until then.
    """
    own = news(tmp_path) if name == "agnews" else {"task.sensors": 2, "training.batch_size": 16}
    scenario = load(f"papers/dqsgd/{name}", {**TINY, **own})
    result = run(scenario, out=tmp_path / "run")
    assert len(result.rounds) == 20
    losses = [row["test_loss"] for row in result.rounds if "test_loss" in row]
    assert losses[-1] < losses[0]
    assert losses[-1] < math.log(scenario.build_task.n_classes)  # of guessing
    bits = [row["bits"] for row in result.rounds]
    assert bits[0] == 4
    assert all(2 <= b <= 8 for b in bits)
