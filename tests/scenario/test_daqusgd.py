"""DaQuSGD's own experiments: their numbers, that their plans are small, and that ResNets learn by them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fedquant.engines.run import run
from fedquant.plan import make_plan
from fedquant.scenario import load

CIFAR10, IMAGENET = "papers/daqusgd/cifar10", "papers/daqusgd/imagenet"
SYNTHETIC = {"task.source": "synthetic", "training.device": "cpu"}


def test_cifar10_has_the_numbers_of_section_6() -> None:
    scenario = load(CIFAR10)
    values, training = scenario.to_dict(), scenario.training
    assert (scenario.sensors, values["task"]["train_samples"]) == (390, 128 * 390)
    assert (training.sensors_per_round, training.participation, training.batch_size) == (1, "turns", 128)
    assert (training.rounds, training.evaluate_every) == (100 * 390, 390)
    assert (training.optimizer.name, training.optimizer.arguments) == ("sgd", {"lr": 0.001, "momentum": 0.9})
    assert training.schedule is not None
    assert training.schedule.arguments == {"milestones": [80 * 390], "gamma": 0.1}
    assert (values["uplink"]["codec"]["m"], values["uplink"]["selection"]["factor"]) == (8, 0.2)
    plan = make_plan(load(CIFAR10, {**SYNTHETIC, "task.train_samples": 390, "task.test_samples": 1}))
    assert plan.model_spec.size == 11_173_962
    assert plan.epoch_rounds == 390


@pytest.mark.slow
def test_resnet_18_learns_at_full_size(tmp_path: Path) -> None:
    """20 rounds with 8 images of 4 sensors, one a round, at the paper's rate."""
    changes = {
        "task.sensors": 4,
        "task.train_samples": 32,
        "task.test_samples": 32,
        "training.batch_size": 8,
        "training.rounds": 20,
        "training.evaluate_every": 20,
    }
    rows = run(load(CIFAR10, {**SYNTHETIC, **changes}), out=tmp_path).rounds
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert np.mean(losses[-4:]) < np.log(10)  # guessing among 10 classes
    assert [row["samples"] for row in rows[:4]] == [8] * 4  # the first epoch sends all


def test_imagenet_has_the_numbers_of_section_6() -> None:
    scenario = load(IMAGENET)
    values, training = scenario.to_dict(), scenario.training
    assert (scenario.sensors, values["task"]["train_samples"]) == (10_000, 128 * 10_000)
    assert (training.sensors_per_round, training.participation, training.batch_size) == (1, "turns", 128)
    assert training.rounds == 90 * 10_000
    assert training.evaluate_every == 10_000
    assert (training.optimizer.name, training.optimizer.arguments) == ("sgd", {"lr": 0.1, "momentum": 0.9})
    assert training.schedule is not None
    assert training.schedule.arguments == {"step_size": 30 * 10_000, "gamma": 0.25}
    codec, selection = values["uplink"]["codec"], values["uplink"]["selection"]
    assert (codec["name"], codec["m"], codec["scale"]) == ("dataq", 8, "max")
    assert (selection["name"], selection["factor"]) == ("relative", 0.2)


def test_the_plan_of_imagenet_is_small() -> None:
    """h and d of the paper; numbers, labels and parts of 1,280,000 images take 24 bytes each (31 MB), and
    drawing the order some more for a while; torch's memory, 102 MB for the model, is not counted.
    """
    tracemalloc.start()
    try:
        plan = make_plan(load(IMAGENET, SYNTHETIC))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 << 20
    assert plan.model_spec.size == 25_557_032
    assert np.prod(plan.data_spec.shape) == 150_528
    assert plan.epoch_rounds == 10_000
    assert plan.federation.sizes == (128,) * 10_000
    data = plan.samples(9_999, plan.batch(9_999, 10_000)[:3])
    assert data.x.shape == (3, 3, 224, 224)


@pytest.mark.slow
def test_resnet_50_learns_at_full_size(tmp_path: Path) -> None:
    """20 rounds of one sensor with 4 images, which it learns to tell apart.

    At the paper's rate of 0.1, for 128 images, steps on 4 overshoot. The batch's own statistics judge: batch
    norm's running ones have seen little after 20 rounds.
    """
    changes = {
        "task.sensors": 1,
        "task.train_samples": 4,
        "task.test_samples": 1,
        "training.batch_size": 4,
        "training.rounds": 20,
        "training.optimizer.lr": 0.001,
    }
    rows = run(load(IMAGENET, {**SYNTHETIC, **changes}), out=tmp_path).rounds
    losses = [row["train_loss"] for row in rows]
    assert len(losses) == 20
    assert losses[0] > 6  # guessing among 1000 classes costs 6.9
    assert np.mean(losses[-3:]) < np.log(4)  # guessing among those 4
    assert rows[0]["samples"] == 4  # the first epoch sends all
    stored = 4 * 150_528 * np.log2(15) / 8  # bytes of levels of fixed length
    assert all(0 < row["uplink_bytes"] < stored + 100 for row in rows)
