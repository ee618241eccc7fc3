"""The command line: what it prints, and mistakes without tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer import rich_utils

from fedquant import cli
from fedquant.engines.run import Result
from fedquant.report.run import size, table
from fedquant.reproduce import EXPERIMENTS
from fedquant.scenario import load
from fedquant.scenario.load import dump, names


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
        (["compare", "wearable"], "did you mean 'studies/wearables'"),
        (["compare", "nonsense"], "none of that name: known: studies/codecs-mnist, "),
        (["compare", "wearables"], "use `fedquant run wearables`"),
        (["run", "studies/wearables"], "use `fedquant compare studies/wearables`"),
        (
            ["compare", "studies/wearables", "--report", "file/x"],
            "choose a folder that can be written with --report",
        ),
        (["compare", "studies/wearables", "--out", "file"], "choose a folder that can be written with --out"),
        (["reproduce", "dqgd-fig3", "--out", "file/x"], "choose a folder that can be written with --out"),
        (["bench", "--out", "file"], "choose a folder that can be written with --out"),
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
    (tmp_path / "file").write_text("no folder")
    assert call(monkeypatch, *arguments) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_wrong_setting_of_kernels_is_one_line(tmp_path: Path) -> None:
    """Which is read before anything of fedquant runs."""
    script = (
        "import sys; import fedquant.cli; sys.argv = ['fedquant', 'run', 'wearables']; fedquant.cli.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "FEDQUANT_KERNELS": "foo"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stderr == "error: FEDQUANT_KERNELS='foo' is not known, use numpy or numba\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run", ["A scenario file, or the name of one that ships"]),
        ("compare", ["A study file, or the name of one that ships", *names("study")]),
        ("reproduce", ["An experiment of the papers", *EXPERIMENTS]),
    ],
)
def test_help_tells_of_arguments(
    command: str, said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 2000)
    assert call(monkeypatch, command, "--help") == 0
    out = capsys.readouterr().out
    assert [text for text in said if text not in out] == []


def test_help_lists_what_there_is() -> None:
    assert sorted(cli.EXPERIMENTS) == sorted(EXPERIMENTS)
    assert list(cli.STUDIES) == names("study")


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        (["uplink={kind: descent, method: nq-gd, codec: {name: uniform, bits: 1}}"], True),
        (["uplink={kind: descent, method: dq-gd, codec: {name: uniform, bits: 1}}"], False),
        (["uplink={kind: descent, method: nq-gd, codec: {name: uniform, bits: 1}}", "task.workers=2"], False),
    ],
)
def test_what_diverged_is_told_what_helps(changes: list[str], remedy: bool, tmp_path: Path) -> None:
    """Differential quantization helps what is not, and is for one sensor alone."""
    (tmp_path / "scenario.yaml").write_text(dump(load("descent", changes)), encoding="utf-8")
    row = {"round": 1, "relative_error": 9.0, "diverged": True, "finished": True, "iteration": 1}
    row |= {"samples": 0, "uplink_total": 8, "downlink_total": 8, "range": 1.0}
    caption = str(table(Result(tmp_path, [row]), "descent").caption)
    assert caption.startswith("diverged: give the codec more bits")
    assert ("quantize differentially" in caption) is remedy


def test_a_bug_ends_in_a_plain_traceback(tmp_path: Path) -> None:
    """Where the values of variables would take thousands of lines."""
    broken = """
import fedquant.scenario, fedquant.cli
def load(*given):
    vast = list(range(1000))
    return vast[len(vast)]
fedquant.scenario.load = load
fedquant.cli.main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", broken, "run", "x"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "IndexError: list index out of range"
    assert "997" not in ended.stderr


def test_sizes_are_decimal() -> None:
    assert [size(n) for n in (0, 999, 1000, 22_600_000, 5_000_000_000)] == [
        "0 B",
        "999 B",
        "1 kB",
        "22.6 MB",
        "5 GB",
    ]
