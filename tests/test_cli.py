"""The command line: what it prints, and mistakes without tracebacks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedquant import cli
from fedquant.report.run import size


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedquant", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return 0 if end.value.code is None else int(end.value.code)


def test_a_run_ends_with_a_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--set", "training.rounds=2", "--set", "training.batch_size=2"]
    assert call(monkeypatch, "run", "wearables", *short, "--out", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "run folder" in out


def test_a_descent_ends_with_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", "descent", "--out", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "relative error" in out
    assert "accuracy" not in out
    assert "iterations, rate 0.8" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "wearable"], "did you mean 'wearables'"),
        (["run", "wearables", "--set", "traning.rounds=1"], "did you mean 'training'"),
        (["run", "wearables", "--set", "training.rounds"], "expected key.path=value"),
        (["run", "wearables", "--set", "task={name: mnist, download: false, root: /nowhere}"], "/nowhere"),
        (["compare", "studies/wearable"], "did you mean"),
    ],
)
def test_mistakes_are_one_message(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_sizes_are_decimal() -> None:
    assert [size(n) for n in (0, 999, 1000, 22_600_000, 5_000_000_000)] == [
        "0 B",
        "999 B",
        "1 kB",
        "22.6 MB",
        "5 GB",
    ]
