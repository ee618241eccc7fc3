"""What a strategy refuses before the first round."""

from __future__ import annotations

from pathlib import Path

import pytest

import clients.app
from fedquant.errors import ConfigError, EngineError
from fedquant.ledger import Ledger
from fedquant.scenario import load
from strategies.app import make_strategy
from strategies.data import DataStrategy
from strategies.grid import LocalGrid
from strategies.vector import VectorStrategy


def test_the_uplink_chooses_the_strategy(tmp_path: Path) -> None:
    data = load("wearables")
    gradient = load("wearables", {"uplink": {"kind": "gradient", "codec": "qsgd"}})
    assert isinstance(make_strategy(data, Ledger(tmp_path / "a", data)), DataStrategy)
    assert isinstance(make_strategy(gradient, Ledger(tmp_path / "b", gradient)), VectorStrategy)


def test_a_node_of_another_run_cannot_take_part(tmp_path: Path) -> None:
    scenario, other = load("wearables"), load("wearables", {"seed": 2})
    grid = LocalGrid(clients.app.app, 16, {"scenario": other.to_json()}, {"state-dir": str(tmp_path)})
    with pytest.raises(EngineError, match="is in run"):
        make_strategy(scenario, Ledger(tmp_path, scenario)).register(grid)


def test_a_node_without_sensors_cannot_take_part(tmp_path: Path) -> None:
    scenario = load("wearables")
    grid = LocalGrid(clients.app.app, 17, {"scenario": scenario.to_json()}, {"state-dir": str(tmp_path)})
    with pytest.raises(EngineError, match="start 16 nodes"):
        make_strategy(scenario, Ledger(tmp_path, scenario)).register(grid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training.optimizer": {"name": "sdg"}}, "did you mean 'sgd'"),
        ({"training.optimizer": {"name": "sgd", "lr": 0.1, "momentun": 0.9}}, "did you mean 'momentum'"),
        ({"training.optimizer": {"name": "sgd", "lr": -1}}, "training.optimizer"),
        ({"training.schedule": {"name": "StepLR"}}, "training.schedule"),
    ],
)
def test_optimizers_that_torch_refuses(change: dict[str, object], message: str, tmp_path: Path) -> None:
    scenario = load("wearables", change)
    with pytest.raises(ConfigError, match=message):
        make_strategy(scenario, Ledger(tmp_path, scenario))
