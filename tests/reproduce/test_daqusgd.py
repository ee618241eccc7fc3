"""Figure 4 of DaQuSGD: what is made of finished runs, and the whole of it at the smallest size."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from fedquant.reproduce import daqusgd, daqusgd_runs
from fedquant.reproduce.daqusgd_runs import SCHEMES, SELECTED, SETUPS, Comparison, Setup
from fedquant.scenario import load
from fedquant.scenario.schema import DataUplink, GradientUplink

pytest.importorskip("matplotlib", reason="needs the extra `report`")

QTOPK, QSGD = "QTopK (10 %)", "QSGD (4 bits)"


def rows(step: float, final: float = 0.95) -> list[dict[str, Any]]:
    """A run of four evaluated rounds of `step` bytes each: 50 %, 70 %, 90 %, and `final`."""
    return [
        {
            "round": n,
            "drawn": 128,
            "samples": 128 if n < 3 else 32,
            "uplink_total": n * step,
            "downlink_total": 0,
            "test_accuracy": accuracy,
            "test_loss": 1.0,
        }
        for n, accuracy in enumerate((0.5, 0.7, 0.9, final), start=1)
    ]


def comparison(label: str = "MNIST, LeNet-5", times: float = 1.0, **final: float) -> Comparison:
    """Made-up runs: DataQ takes 2, QTopK 20·times and QSGD 400·times the bytes of DataQ with selection."""
    changes = {**SETUPS[label].changes, "training.evaluate_every": 1}
    half = load(SETUPS[label].scenario, changes).sensors // 2
    scenario = load(SETUPS[label].scenario, {**changes, "training.sensors_per_round": half})
    steps = {SELECTED: 1e3, "DataQ": 2e3, QTOPK: 20e3 * times, QSGD: 400e3 * times, "float32": 3e6}
    return Comparison(label, scenario, {s: [rows(b, final.get(s, 0.95))] * 2 for s, b in steps.items()})


def test_gain_is_of_the_bits_to_an_accuracy_that_all_reach() -> None:
    found = comparison()
    assert found.target == 0.95
    assert [found.gain(s) for s in SCHEMES] == pytest.approx([1, 2, 20, 400, 3000])
    lower = Comparison("x", found.scenario, {**found.runs, "DataQ": [rows(2e3, 0.91)]})
    assert lower.target == 0.91
    late = Comparison("x", found.scenario, {**found.runs, "DataQ": [rows(2e3, 0.72)]})
    assert late.target == 0.9  # its best
    assert late.gain("DataQ") == pytest.approx(2)


def test_epochs_and_shares_sent_count_passes_over_all_nodes() -> None:
    found = comparison()  # two rounds a pass
    assert found.scenario.participation.rounds == 2
    assert found.epochs("DataQ") == 2
    assert found.sent() == [1, 0.25]


def test_claims_that_hold() -> None:
    assert [claim.holds for claim in daqusgd.claims(comparison())] == [True] * 4


def test_claims_that_do_not_hold_are_said_not_to() -> None:
    found = comparison(times=0.1)
    runs = {**found.runs, "DataQ": [rows(500)], SELECTED: [rows(1e3, 0.93)]}
    assert [c.holds for c in daqusgd.claims(Comparison("x", found.scenario, runs))] == [False] * 4


def test_growth_is_over_models_of_one_data_set() -> None:
    small, large = comparison(), comparison("MNIST, ResNet-18", times=30)
    other = comparison("Fashion-MNIST, LeNet-5")
    assert large.ratio == pytest.approx(11_172_810 / 784)
    assert [c.holds for c in daqusgd.growth([large, small, other])] == [True, True]
    assert not any(c.holds for c in daqusgd.growth([small, comparison("MNIST, ResNet-18", times=0.5)]))
    assert daqusgd.growth([small, other]) == []


@pytest.mark.parametrize("label", SETUPS)
def test_schemes_differ_in_their_uplink_alone(label: str) -> None:
    setup = SETUPS[label]
    own = load(setup.scenario, setup.changes)
    assert isinstance(own.uplink, DataUplink)
    assert own.participation.scheme == "turns"
    for changes in SCHEMES.values():
        scheme = load(setup.scenario, {**setup.changes, **changes})
        assert isinstance(scheme.uplink, DataUplink | GradientUplink)
        assert scheme.model_copy(update={"uplink": own.uplink}).to_dict() == own.to_dict()
    batches = own.to_dict()["task"]["train_samples"] / own.training.batch_size
    assert batches == own.sensors  # one batch a node
    assert own.training.rounds % own.participation.rounds == 0


def test_the_whole_experiment_at_the_smallest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "task.source": "synthetic",
        "task.sensors": 3,
        "task.train_samples": 24,
        "task.test_samples": 20,
        "training.rounds": 6,
        "training.batch_size": 8,
        "training.evaluate_every": 1,
    }
    chosen = {label: Setup(SETUPS[label].scenario, {}, 6) for label in ("MNIST, LeNet-5",)}
    monkeypatch.setattr(daqusgd_runs, "SETUPS", chosen)
    heard: list[str] = []
    out = tmp_path / "out"
    path = daqusgd.run(out, True, heard.append, tmp_path / "runs", 1, small)
    assert heard == [f"MNIST, LeNet-5: {n} of 5 runs" for n in range(6)]
    text = path.read_text(encoding="utf-8")
    assert all(f"| {scheme} |" in text for scheme in SCHEMES)
    assert "h = 61,706, d = 784" in text
    assert {p.name for p in out.iterdir()} == {
        "daqusgd-fig4.md", "daqusgd-fig4.csv", "daqusgd-fig4.svg", "daqusgd-fig4.png",
        "daqusgd-gain.svg", "daqusgd-gain.png",
    }  # fmt: skip
    with (out / "daqusgd-fig4.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 * 6
    assert all(int(line["uplink_bits"]) % 8 == 0 for line in lines)
    daqusgd.run(out, True, heard.append, tmp_path / "runs", 1, small)
    assert heard[6:] == ["MNIST, LeNet-5: 5 of 5 runs"]  # finished runs are kept
