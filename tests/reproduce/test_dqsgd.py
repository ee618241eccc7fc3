"""Table 1 of DQSGD: what is made of finished runs, and the whole of it at the smallest size."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from fedquant.errors import ConfigError
from fedquant.reproduce import dqsgd
from fedquant.reproduce.dqsgd_runs import FORGOTTEN, FULL, RATES, SCHEMES, SHOWN, TASKS, Setting, Size
from fedquant.scenario import load
from fedquant.wire import HEADER_SIZE

pytest.importorskip("matplotlib", reason="needs the extra `report`")

NUMBERS = 55_338  # parameters of the small CNN
ROUNDS = 4
ACCURACY = {"Vanilla SGD": 0.90, "SignSGD": 0.7, "TernGrad": 0.8, "QSGD (4 bits)": 0.85}
BITS = {"Vanilla SGD": 32.0, "SignSGD": 1.0, "TernGrad": 1.6, "QSGD (4 bits)": 4.0, "DQSGD": 4.7}


def rows(accuracy: float, bits: float) -> list[dict[str, Any]]:
    """A run of four rounds, whose last three accuracies have that mean."""
    each = bits / 8 * NUMBERS * 8
    return [
        {
            "round": n,
            "uplink_bytes": each,
            "uplink_total": n * each,
            "test_accuracy": 0.1 if n == 1 else accuracy + 0.01 * (n - 3),
            "test_loss": 1.0,
        }
        for n in range(1, ROUNDS + 1)
    ]


def setting(seeds: tuple[float, ...] = (0.0, 0.02), **changes: tuple[float, float]) -> Setting:
    """Made-up runs by scheme; `changes` give another accuracy and other bits."""
    scenario = load(TASKS["MNIST"], {"training.rounds": ROUNDS})
    runs = {}
    for scheme in SCHEMES:
        told = changes.get(scheme, (ACCURACY.get(scheme, 0.9), BITS.get(scheme, 6.0)))
        runs[scheme] = [rows(told[0] + shift, told[1]) for shift in seeds]
    return Setting("MNIST", scenario, runs)


def test_measures_of_a_setting() -> None:
    found = setting()
    assert found.numbers == NUMBERS
    assert found.bits("DQSGD") == pytest.approx(4.7)
    assert found.ratio("SignSGD") == pytest.approx(32)
    assert found.accuracies("DQSGD") == pytest.approx([90, 92])
    assert found.accuracy("QSGD (4 bits)") == pytest.approx(86)


def test_differences_are_paired() -> None:
    found = setting(seeds=(0.0, 0.05, 0.02))
    mean, error = found.difference("QSGD (4 bits)", "QSGD (6 bits)")
    assert mean == pytest.approx(-5)
    assert error == pytest.approx(0, abs=1e-9)  # both have the same ups and downs
    runs = dict(found.runs)
    runs["DQSGD"] = [rows(0.9 + shift, 4.7) for shift in (0.01, 0.05, 0.0)]
    mean, error = Setting("MNIST", found.scenario, runs).difference("DQSGD", "QSGD (6 bits)")
    # Differences 1, 0 and −2 points: mean −1/3, deviation √(7/3), over √3.
    assert mean == pytest.approx(-1 / 3)
    assert error == pytest.approx((7 / 9) ** 0.5)
    assert dqsgd.points(setting(seeds=(0.0,)), "TernGrad", "Vanilla SGD") == "-10.00"


def test_claims_that_hold() -> None:
    found = dqsgd.claims(setting())
    assert [claim.holds for claim in found] == [True] * 5
    assert found[0].measured == "21.7 % fewer"


def test_claims_that_do_not_hold_are_said_not_to() -> None:
    bad = dqsgd.claims(setting(DQSGD=(0.84, 5.5), AdaQS=(0.9, 5.0), TernGrad=(0.897, 1.6)))
    assert [claim.holds for claim in bad] == [False] * 5
    few = dqsgd.claims(setting(DQSGD=(0.9, 3.0)))  # nothing to compare with on the line
    assert [claim.holds for claim in few] == [False, True, True, True]


def test_between() -> None:
    found = setting()
    assert dqsgd.between(found, found.ratio("QSGD (4 bits)")) == pytest.approx(86)
    low, high = found.ratio("QSGD (6 bits)"), found.ratio("QSGD (4 bits)")
    assert dqsgd.between(found, (low * high) ** 0.5) == pytest.approx((91 + 86) / 2)
    assert dqsgd.between(found, 12) is None


def test_scenarios_have_the_forgetting_of_the_paper() -> None:
    for name in TASKS.values():
        scenario = load(name)
        alpha = scenario.to_dict()["uplink"]["control"]["alpha"]
        assert alpha ** (scenario.training.rounds / 2) == pytest.approx(FORGOTTEN, rel=0.02)
    for n, paper in ((6000, 0.999), (1000, 0.994)):
        assert paper ** (n / 2) == pytest.approx(FORGOTTEN, rel=0.02)
    assert len(FULL.seeds) == 4


@pytest.mark.slow
def test_the_whole_at_the_smallest_size(tmp_path: Path) -> None:
    changes = {
        "task.source": "synthetic",
        "task.train_samples": 64,
        "task.test_samples": 16,
        "training.batch_size": 2,
        "training.device": "cpu",
    }
    said: list[str] = []
    out = tmp_path / "new" / "folder"
    path = dqsgd.run(
        out, True, said.append, runs=tmp_path / "runs", processes=1, size=Size((5,), 2), changes=changes
    )
    pictures = {f"dqsgd-{name}.{suffix}" for name in ("fig1", "table1") for suffix in ("svg", "png")}
    assert {p.name for p in out.iterdir()} == pictures | {"dqsgd-table1.md", "dqsgd-table1.csv"}
    text = path.read_text(encoding="utf-8")
    assert "seeds 5; rounds: MNIST 2, Fashion-MNIST 2" in text
    assert "dqsgd-table1 --quick" in text
    with (out / "dqsgd-table1.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * (len(TASKS) * len(SCHEMES) + len(RATES))
    last = {(r["task"], r["scheme"]): int(r["uplink_bytes"]) for r in lines if r["round"] == "2"}
    float32 = last[SHOWN, "Vanilla SGD"]
    assert float32 == 2 * 8 * (4 * NUMBERS + HEADER_SIZE)
    assert 5.3 < float32 / last[SHOWN, "QSGD (6 bits)"] < 5.4  # 32 bits against 6
    assert said[-1].startswith("AG-News")


def test_an_unknown_key_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="training"):
        dqsgd.run(tmp_path, quick=True, runs=tmp_path, changes={"training.batch": 2})
