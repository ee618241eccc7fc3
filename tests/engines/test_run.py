"""The two engines run the same apps: the same seed gives the same run folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import fedquant
from fedquant.engines.run import Row
from fedquant.errors import ConfigError, EngineError

QUICK = {
    "training.rounds": 3,
    "training.evaluate_every": 3,
    "training.batch_size": 4,
    "training.epoch_rounds": 1,
}


def test_an_unknown_engine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use local or flower"):
        fedquant.run("wearables", QUICK, engine="ray", out=tmp_path)  # type: ignore[arg-type]


def test_rounds_are_handed_on(tmp_path: Path) -> None:
    seen: list[int] = []
    result = fedquant.run("wearables", QUICK, out=tmp_path, on_round=lambda row: seen.append(row["round"]))
    assert seen == [1, 2, 3]
    assert 0 < result.accuracy < 1


def test_warnings_reach_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the program has no handlers of its own, as pytest has."""

    def warn(row: Row) -> None:
        logging.getLogger("fedquant").warning("round %d: a payload was refused", row["round"])

    fedquant.run("descent", {"training.rounds": 1}, out=tmp_path, on_round=warn)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    fedquant.run("descent", {"training.rounds": 1}, out=tmp_path, on_round=warn)
    assert capsys.readouterr().err == "round 1: a payload was refused\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [("rounds.jsonl", None), ("rounds.jsonl", ""), ("rounds.jsonl", "{"), ("scenario.yaml", "a: [1")],
)
def test_a_damaged_folder_is_told_with_the_fix(name: str, content: str | None, tmp_path: Path) -> None:
    fedquant.run("descent", {"training.rounds": 2}, out=tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(
        EngineError, match=r"(?s)rounds\.jsonl: damaged .*; delete|scenario\.yaml.*; delete it"
    ):
        fedquant.run("descent", {"training.rounds": 2}, out=tmp_path, resume=True)


def test_an_optimizer_is_tried_before_an_older_run_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text("an older run's")
    with pytest.raises(ConfigError, match="lbfgs cannot be used here"):
        fedquant.run("wearables", {"training.optimizer": "lbfgs"}, out=tmp_path)
    assert (tmp_path / "rounds.jsonl").read_text() == "an older run's"


@pytest.mark.slow
def test_local_and_flower_agree(tmp_path: Path) -> None:
    uplink = {"kind": "data", "codec": "dataq", "selection": "relative", "cache": True}
    changes = {**QUICK, "uplink": uplink, "topology.sensors_per_gateway": 8}
    local = fedquant.run("wearables", changes, out=tmp_path / "local")
    lines: list[str] = []
    flower = fedquant.run(
        "wearables", changes, engine="flower", out=tmp_path / "flower", on_line=lines.append
    )
    assert any("run folder" in line for line in lines)
    for path in sorted(p for p in local.folder.rglob("*") if p.is_file() and p.name != "timings.jsonl"):
        there = flower.folder / path.relative_to(local.folder)
        assert there.read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_a_flower_run_that_was_stopped_ends_the_same(tmp_path: Path) -> None:
    """All of it is ended, whatever it does just then; another Flower run, with other nodes, goes on."""
    uplink = {"kind": "gradient", "codec": {"name": "error_feedback", "inner": "qsgd"}}
    downlink = {"codec": "qsgd", "reference": "difference"}
    changes = {
        **QUICK,
        "training.rounds": 9,
        "training.sensors_per_round": 5,
        "training.checkpoint_every": 2,
        "uplink": uplink,
        "downlink": downlink,
        "topology.sensors_per_gateway": 4,
    }
    whole = fedquant.run("wearables", changes, out=tmp_path / "whole")

    def stop(line: str) -> None:
        if line.startswith("round 5,"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fedquant.run("wearables", changes, engine="flower", out=tmp_path / "stopped", on_line=stop)
    lines: list[str] = []
    stopped = fedquant.run(
        "wearables", changes, engine="flower", out=tmp_path / "stopped", resume=True, on_line=lines.append
    )
    assert any("goes on after round" in line for line in lines)
    for name in ("model.safetensors", "rounds.jsonl", "sensors-00000.npz"):
        assert (stopped.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
