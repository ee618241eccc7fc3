"""Runs that are stopped and go on end as runs that were never stopped, byte for byte."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message

import fedquant
from clients.state import NodeState
from fedquant import carrier, checkpoint, cli
from fedquant.errors import ConfigError, EngineError
from fedquant.folder import alone, finished, stopped
from fedquant.message import Request
from fedquant.report import study
from fedquant.scenario import load
from strategies.grid import LocalGrid

TINY = {
    "training.rounds": 7,
    "training.batch_size": 4,
    "training.evaluate_every": 3,
    "training.sensors_per_round": 5,
    "topology.sensors_per_gateway": 4,
}
EVERY = {"training.checkpoint_every": 2}
FEEDBACK = {"name": "error_feedback", "inner": {"name": "qsgd", "bits": 2}}
BUDGET = {"name": "dqsgd_nonconvex", "budget": {"bytes": 400_000}}
ADAM = {
    "training.optimizer": "adamw",
    "training.schedule": {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": 9},
}
DATA = {"kind": "data", "codec": {"name": "dataq", "rounding": "floor"}, "selection": "relative"}
DIFFERENCE = {"codec": {"name": "qsgd", "bits": 4}, "reference": "difference"}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "feedback": (
        "wearables",
        {"uplink": {"kind": "gradient", "codec": FEEDBACK}, **ADAM, "task.norm": "batch"},
    ),
    "budget": ("wearables", {"uplink": {"kind": "gradient", "codec": "qsgd", "control": BUDGET}}),
    "delta": (
        "wearables",
        {"uplink": {"kind": "delta", "codec": FEEDBACK, "local_steps": 2, "local_lr": 0.05}},
    ),
    "selection": ("wearables", {"uplink": DATA, "training.epoch_rounds": 2}),
    "cache": (
        "wearables",
        {"uplink": {**DATA, "cache": True, "refine": {"factor": 4}}, "training.batch_size": 12},
    ),
    "correction": ("wearables", {"uplink": {**DATA, "grad_corr": {}}}),
    "difference": ("wearables", {"uplink": {"kind": "gradient", "codec": "qsgd"}, "downlink": DIFFERENCE}),
    "dq-agd": ("descent", {"uplink.method": "dq-agd"}),
    "several": ("descent", {"task.workers": 3, "uplink.method": "nq-gd", "uplink.total_rate": 20.0}),
}


class Stopped(BaseException):
    """As sudden as an exception can be: nothing here catches it."""


def changes(kind: str) -> tuple[str, dict[str, Any]]:
    name, own = KINDS[kind]
    return (name, {**TINY, **own}) if name == "wearables" else (name, {"training.rounds": 7, **own})


def stop_at(round: int) -> Callable[[dict[str, Any]], None]:
    def hook(row: dict[str, Any]) -> None:
        if row["round"] == round:
            raise Stopped

    return hook


def results(folder: Path) -> dict[str, bytes]:
    names = ["model.safetensors", "rounds.jsonl", *sorted(p.name for p in folder.glob("sensors-*.npz"))]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_ends_the_same(kind: str, tmp_path: Path) -> None:
    name, values = changes(kind)
    whole = fedquant.run(name, values, out=tmp_path / "whole")
    values, out = {**values, **EVERY}, tmp_path / "stopped"
    for resume, round in (
        (False, 4),
        (True, 3),
        (True, 6),
    ):  # before the checkpoint of round 4 is made, and so on
        with pytest.raises(Stopped):
            fedquant.run(name, values, out=out, resume=resume, on_round=stop_at(round))
    seen: list[int] = []
    fedquant.run(name, values, out=out, resume=True, on_round=lambda row: seen.append(row["round"]))
    assert seen == [5, 6, 7]
    assert results(out) == results(whole.folder)
    assert len((out / "timings.jsonl").read_text().splitlines()) == 7
    assert not list(out.rglob("*.part"))
    assert not (out / checkpoint.NAME).exists()


@pytest.mark.parametrize("kind", ["feedback", "cache", "difference", "several"])
@pytest.mark.parametrize("saves", [1, 6])
def test_nodes_may_be_ahead_of_the_server(
    kind: str, saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some have saved what a round did, others have not."""
    name, values = changes(kind)
    values = {**values, **EVERY, "training.rounds": 5}
    whole = fedquant.run(name, values, out=tmp_path / "whole")
    out, save, left = tmp_path / "stopped", NodeState.save, [saves]

    def stopping(state: NodeState, path: Path | None = None) -> None:
        left[0] -= state.round > 2 and path is None
        if left[0] == 0:
            raise Stopped
        save(state, path)

    for resume in (False, True):
        left[0] = saves
        monkeypatch.setattr(NodeState, "save", stopping)
        with pytest.raises(Stopped):
            fedquant.run(name, values, out=out, resume=resume)
        monkeypatch.undo()
    fedquant.run(name, values, out=out, resume=True)
    assert results(out) == results(whole.folder)


def test_a_node_that_was_not_asked_keeps_what_it_has(tmp_path: Path) -> None:
    """One sensor of sixteen a round: most nodes hear nothing between a checkpoint and the end."""
    values = {**TINY, **KINDS["feedback"][1], "training.sensors_per_round": 1}
    whole = fedquant.run("wearables", values, out=tmp_path / "whole")
    values, out = {**values, "training.checkpoint_every": 3}, tmp_path / "stopped"
    with pytest.raises(Stopped):
        fedquant.run("wearables", values, out=out, on_round=stop_at(5))
    fedquant.run("wearables", values, out=out, resume=True)
    assert results(out) == results(whole.folder)


@pytest.mark.parametrize("kind", ["feedback", "difference", "several"])
def test_what_was_lost_is_remembered(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In round 2 no answer of the first two nodes arrives: then comes a checkpoint, and the end."""
    name, values = changes(kind)
    values = (
        {**values, "training.rounds": 6, "training.sensors_per_round": 16} if name == "wearables" else values
    )
    deliver = LocalGrid._deliver

    def losing(grid: LocalGrid, message: Message) -> Message:
        reply, node = deliver(grid, message), message.metadata.dst_node_id
        train = message.metadata.message_type == "train"
        if train and node <= 3 and Request.from_bytes(carrier.unwrap(message.content)).round == 2:
            reply = Message(Error(0, "lost"), reply_to=message)
            reply.metadata.__dict__["_src_node_id"] = node
        return reply

    monkeypatch.setattr(LocalGrid, "_deliver", losing)
    whole = fedquant.run(name, values, out=tmp_path / "whole")
    assert [row["failures"] for row in whole.rounds[:3]] == [0, 2, 0]
    values, out = {**values, **EVERY}, tmp_path / "stopped"
    with pytest.raises(Stopped):
        fedquant.run(name, values, out=out, on_round=stop_at(4))
    fedquant.run(name, values, out=out, resume=True)
    assert results(out) == results(whole.folder)


def test_a_killed_process_goes_on(tmp_path: Path) -> None:
    name, values = changes("cache")
    whole = fedquant.run(name, values, out=tmp_path / "whole")
    values, out = {**values, **EVERY}, tmp_path / "killed"
    script = f"""
import os, signal, fedquant
kill = lambda row: row["round"] == 6 and os.kill(os.getpid(), signal.SIGKILL)
fedquant.run({name!r}, {values!r}, out={str(out)!r}, on_round=kill)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert stopped(out, load(name, values))
    assert not finished(out, load(name, values))
    fedquant.run(name, values, out=out, resume=True)
    assert results(out) == results(whole.folder)
    assert finished(out, load(name, values))


def test_a_checkpoint_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends while it writes the second one."""
    name, values = changes("budget")
    whole = fedquant.run(name, values, out=tmp_path / "whole")
    values, out, sync, written = {**values, **EVERY}, tmp_path / "stopped", checkpoint.sync, [0]

    def stopping(path: Path) -> None:
        written[0] += path.suffix == ".part"
        if written[0] == 2:
            path.write_bytes(path.read_bytes()[:100])
            raise Stopped
        sync(path)

    monkeypatch.setattr(checkpoint, "sync", stopping)
    with pytest.raises(Stopped):
        fedquant.run(name, values, out=out)
    monkeypatch.undo()
    seen: list[int] = []
    fedquant.run(name, values, out=out, resume=True, on_round=lambda row: seen.append(row["round"]))
    assert seen == [3, 4, 5, 6, 7]
    assert results(out) == results(whole.folder)


def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    name, values = changes("delta")
    without = fedquant.run(name, values, out=tmp_path / "a")
    having = fedquant.run(name, {**values, "training.checkpoint_every": 1}, out=tmp_path / "b")
    assert load(name, values).run_id == load(name, {**values, **EVERY}).run_id
    assert results(without.folder) == results(having.folder)


def test_a_run_that_begins_again_forgets(tmp_path: Path) -> None:
    """What nodes remember of an earlier run of the same scenario is of no use to a new one."""
    name, values = changes("feedback")
    first = results(fedquant.run(name, values, out=tmp_path).folder)
    with pytest.raises(Stopped):
        fedquant.run(name, {**values, **EVERY}, out=tmp_path, on_round=stop_at(6))
    with pytest.raises(ConfigError, match=r"holds a run that stopped and can go on .* add --resume"):
        fedquant.run(name, values, out=tmp_path)
    assert (tmp_path / checkpoint.NAME).is_file()
    (tmp_path / checkpoint.NAME).unlink()
    assert results(fedquant.run(name, values, out=tmp_path).folder) == first


def test_the_flags_of_a_resumed_run(tmp_path: Path) -> None:
    """How often there are checkpoints may change; a chunk of rows that was written since is written again."""
    name, values = changes("selection")
    whole = fedquant.run(name, values, out=tmp_path / "whole")
    out = tmp_path / "stopped"
    with pytest.raises(Stopped):
        fedquant.run(name, {**values, **EVERY}, out=out, on_round=stop_at(5))
    (out / "sensors-00000.npz").write_bytes(b"cut off")
    fedquant.run(name, values, out=out, resume=True)
    assert results(out) == results(whole.folder)


def stopped_run(folder: Path) -> tuple[str, dict[str, Any]]:
    name, values = changes("selection")
    values |= EVERY
    with pytest.raises(Stopped):
        fedquant.run(name, values, out=folder, on_round=stop_at(3))
    return name, values


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    name, values = stopped_run(tmp_path)
    before = results_of_a_stopped_run(tmp_path)
    with pytest.raises(ConfigError, match=r"its seed is 1, not 7; its training.batch_size is 4, not 5"):
        fedquant.run(name, {**values, "seed": 7, "training.batch_size": 5}, out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r"no checkpoint to resume from.*checkpoint_every=N"):
        fedquant.run(name, values, out=tmp_path / "nowhere", resume=True)
    assert not (tmp_path / "nowhere").exists()
    assert results_of_a_stopped_run(tmp_path) == before
    (tmp_path / checkpoint.NAME).unlink()
    with pytest.raises(ConfigError, match="no checkpoint to resume from"):
        fedquant.run(name, values, out=tmp_path, resume=True)


def results_of_a_stopped_run(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_ledger_that_was_cut_is_told(tmp_path: Path) -> None:
    name, values = stopped_run(tmp_path)
    (tmp_path / "rounds.jsonl").write_text("")
    with pytest.raises(EngineError, match=r"rounds.jsonl: shorter than at the checkpoint"):
        fedquant.run(name, values, out=tmp_path, resume=True)


def test_a_node_whose_copy_is_gone_is_told(tmp_path: Path) -> None:
    name, values = changes("cache")
    values |= EVERY
    with pytest.raises(Stopped):
        fedquant.run(name, values, out=tmp_path, on_round=stop_at(4))
    copies = list(tmp_path.rglob("*.checkpoint.safetensors"))
    assert copies
    for copy in copies:
        copy.unlink()
    with pytest.raises(EngineError, match="there is no copy"):
        fedquant.run(name, values, out=tmp_path, resume=True)


def test_a_finished_run_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, values = "descent", {"training.rounds": 3}
    first = fedquant.run(name, values, out=tmp_path)
    changed = (tmp_path / "rounds.jsonl").stat().st_mtime_ns
    assert fedquant.run(name, values, out=tmp_path, resume=True) == first
    arguments = ["fedquant", "run", name, "--set", "training.rounds=3", "--out", str(tmp_path), "--resume"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (None, 0)
    assert "finished before" in capsys.readouterr().out
    assert (tmp_path / "rounds.jsonl").stat().st_mtime_ns == changed


def test_the_command_line_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, values = "descent", {"training.rounds": 5, "training.checkpoint_every": 2}
    whole = fedquant.run(name, values, out=tmp_path / "whole")
    out = tmp_path / "stopped"
    with pytest.raises(Stopped):
        fedquant.run(name, values, out=out, on_round=stop_at(3))
    sets = [text for key, value in values.items() for text in ("--set", f"{key}={value}")]
    monkeypatch.setattr(sys, "argv", ["fedquant", "run", name, *sets, "--out", str(out), "--resume"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (None, 0)
    assert results(out) == results(whole.folder)


def test_a_study_goes_on(tmp_path: Path) -> None:
    name, values = "descent", {"training.rounds": 5, "training.checkpoint_every": 2}
    whole = fedquant.run(name, values, out=tmp_path / "whole")
    out = tmp_path / "stopped"
    with pytest.raises(Stopped):
        fedquant.run(name, values, out=out, on_round=stop_at(5))
    before = (out / "timings.jsonl").read_text().splitlines()
    study._run(study.Job("dq-gd", out, load(name, values).to_json()))
    assert results(out) == results(whole.folder)
    assert (out / "timings.jsonl").read_text().splitlines()[:4] == before[:4]


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(EngineError, match="another process runs in it"):
        fedquant.run("descent", {"training.rounds": 1}, out=tmp_path)
    fedquant.run("descent", {"training.rounds": 1}, out=tmp_path)
