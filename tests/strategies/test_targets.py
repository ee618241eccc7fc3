"""Runs whose labels are numbers: sent, kept, refined and learned as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import clients.app
import fedquant
from fedquant.engines.run import Row
from fedquant.errors import ConfigError, FedquantError
from fedquant.ledger import Ledger
from fedquant.plan import make_plan
from fedquant.report.run import said, table
from fedquant.report.study import jobs, load_study
from fedquant.scenario import Scenario, load
from fedquant.tasks.base import Targets
from strategies.data import DataStrategy
from strategies.grid import LocalGrid

TINY = {
    "task": {"name": "forecast", "window": 2, "overlap": 0, "folds": 2},
    "training.rounds": 2,
    "training.batch_size": 1000,
    "training.sampling": "epochs",
    "training.evaluate_every": 2,
}
DATA = {"kind": "data", "codec": {"name": "dataq", "m": 4}}
REFINED = {**DATA, "cache": True, "refine": {"factor": 8}}
UPLINKS: dict[str, dict[str, Any]] = {
    "raw": {"kind": "data", "codec": "raw"},
    "relative": {**DATA, "selection": "relative"},
    "top": {**DATA, "selection": {"name": "top_fraction", "fraction": 0.5}},
    "l2": {**DATA, "codec": {"name": "dataq", "m": 64, "scale": "l2"}},
    "refined": REFINED,
    "corrected": {**DATA, "grad_corr": {}},
    "gradient": {"kind": "gradient", "codec": "qsgd"},
    "delta": {"kind": "delta", "codec": "qsgd", "local_lr": 0.01},
}


def strategy_after(scenario: Scenario, folder: Path) -> DataStrategy:
    """A run, for what its server holds in the end."""
    config = {"scenario": scenario.to_json()}
    grid = LocalGrid(clients.app.app, scenario.gateways, config, {"state-dir": str(folder / "state")})
    strategy = DataStrategy(scenario, Ledger(folder, scenario))
    strategy.start(grid, strategy.arrays(), num_rounds=scenario.training.rounds)
    return strategy


@pytest.mark.parametrize("targets", ["float16", "float32"])
@pytest.mark.parametrize(
    "uplink", [{"kind": "data", "codec": "raw", "cache": True}, REFINED], ids=["raw", "dataq"]
)
def test_labels_arrive_as_sent_and_stay_so(uplink: Any, targets: Targets, tmp_path: Path) -> None:
    """All samples travel in round 1; in round 2 they are refined, which leaves their labels alone."""
    scenario = load("forecast", {**TINY, "task.targets": targets, "uplink": uplink})
    plan, kept = make_plan(scenario), strategy_after(scenario, tmp_path).cache.state()
    assert plan.data_spec.labels == targets
    assert sorted(kept["rows"]) == list(range(plan.federation.n_sensors))
    errors = []
    for sensor, rows in kept["rows"].items():
        sent = plan.samples(sensor, plan.batch(sensor, 1))
        assert (kept["y"].dtype, len(sent)) == (np.dtype(targets), plan.federation.sizes[sensor])
        np.testing.assert_array_equal(kept["y"][rows], sent.y)
        errors.append(np.abs(kept["x"][rows] - sent.x).max() / np.abs(sent.x).max())
    # m = 4 and 8 parts a step: 24 steps a sign, rounded toward zero; float32's rounding beside that
    assert max(errors) <= (0 if uplink["codec"] == "raw" else 1 / 24 + 1e-6)


@pytest.mark.parametrize("kind", UPLINKS)
def test_every_uplink_learns_them(kind: str, tmp_path: Path) -> None:
    runs = {}
    for targets, size in (("float32", 4), ("float16", 2)):
        changes = {**TINY, "task.targets": targets, "uplink": UPLINKS[kind], "training.batch_size": 32}
        runs[size] = fedquant.run("forecast", changes, out=tmp_path / targets)
        last = runs[size].rounds[-1]
        assert [row["step"] for row in runs[size].rounds] == [True] * 2
        assert sum(row["refused"] + row["failures"] for row in runs[size].rounds) == 0
        assert np.isfinite(last["test_loss"])
        assert "test_accuracy" not in last
    first = [run.rounds[0] for run in (runs[4], runs[2])]
    if kind not in ("gradient", "delta"):  # then no label travels
        samples = first[0]["samples"]
        assert samples > 0
        assert first[0]["uplink_bytes"] - first[1]["uplink_bytes"] == samples * 2


@pytest.mark.parametrize("kind", ["data", "gradient"])
def test_it_learns_something(kind: str, tmp_path: Path) -> None:
    """Always saying the mean of the training subjects has a test loss of 0.436, the last value 0.431."""
    changes: dict[str, Any] = {"training.rounds": 60, "training.evaluate_every": 60}
    if kind == "gradient":
        changes["uplink"] = {"kind": "gradient", "codec": "qsgd"}
    result = fedquant.run("forecast", changes, out=tmp_path)
    assert result.rounds[-1]["test_loss"] < 0.35
    assert table(result, "forecast").columns[1].header == "test loss"
    assert said(result.rounds[-1]).endswith(f"test loss {result.rounds[-1]['test_loss']:.4g}")
    assert said(result.rounds[0]) == ""
    with pytest.raises(FedquantError, match=r"a regression has no accuracy, use rounds\[-1\]\['test_loss'\]"):
        _ = result.accuracy


class Stopped(BaseException):
    pass


def test_kept_targets_survive_a_stop(tmp_path: Path) -> None:
    changes = {**TINY, "task.targets": "float16", "uplink": REFINED, "training.rounds": 4}
    changes |= {"training.batch_size": 16, "training.epoch_rounds": 2}
    whole = fedquant.run("forecast", changes, out=tmp_path / "whole")

    def stop(row: Row) -> None:
        if row["round"] == 3:
            raise Stopped

    changes["training.checkpoint_every"] = 2
    with pytest.raises(Stopped):
        fedquant.run("forecast", changes, out=tmp_path / "stopped", on_round=stop)
    again = fedquant.run("forecast", changes, out=tmp_path / "stopped", resume=True)
    assert again.rounds == whole.rounds
    for name in ("model.safetensors", "sensors-00000.npz"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_study_compares_accuracies_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "scenario": "forecast", "schemes": {"a": {}}}))
    with pytest.raises(ConfigError, match="s: forecast is a regression and has no accuracy to compare"):
        jobs(load_study(path), tmp_path)
