"""The app that Flower runs: as `make_app` writes it, then once for real."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fedquant.engines import sandbox
from fedquant.engines.flower import RunConfig, make_app, run_app
from fedquant.errors import EngineError


def test_make_app_writes_a_bundle_of_the_packages(tmp_path: Path) -> None:
    text = '"\\ é\n😀\x7f ' * 2000
    config: RunConfig = {"scenario": json.dumps({"text": text}), "raw": text, "x": 0.1, "b": False}
    app = make_app(tmp_path / "new" / "app", config)
    project = tomllib.loads((app / "pyproject.toml").read_text("utf-8"))
    assert project["tool"]["flwr"]["app"] == {
        "publisher": "fedquant",
        "components": {"serverapp": "strategies.app:app", "clientapp": "clients.app:app"},
        "config": config,
    }
    for package in ("strategies", "clients"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        sources = {
            path.relative_to(root): path.read_bytes()
            for root in map(Path, spec.submodule_search_locations)
            for path in root.rglob("*.py")
        }
        copies = (app / package).rglob("*.*")
        copied = {path.relative_to(app / package): path.read_bytes() for path in copies}
        assert copied == sources


def test_make_app_copies_sources_only_and_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("strategies", "clients"):
        (tmp_path / package / "deep").mkdir(parents=True)
        for name in ("__init__.py", "app.py", "deep/part.py"):
            (tmp_path / package / name).write_text("raise AssertionError('imported')\n")
        for name in ("data.bin", "deep/part.pyc"):
            (tmp_path / package / name).write_bytes(b"\0")
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    app = make_app(tmp_path / "app", {})
    files = sorted(str(path.relative_to(app)) for path in app.rglob("*") if path.is_file())
    parts = ("__init__.py", "app.py", "deep/part.py")
    assert files == [
        *(f"clients/{p}" for p in parts),
        "pyproject.toml",
        *(f"strategies/{p}" for p in parts),
    ]


def test_make_app_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="'strategies' is not installed"):
        make_app(tmp_path, {})


# For real

SERVER = """
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
    if context.run_config["fail"]:
        raise RuntimeError("broken on purpose")
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=3)
    arrays = ArrayRecord([np.zeros(2)])
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=2)
    print("arrays", result.arrays.to_numpy_ndarrays()[0].tolist())
    print("scenario", len(context.run_config["scenario"]))
"""
CLIENT = """
import os
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    print("client of", os.environ["RAY_TMPDIR"])
    array = message.content["arrays"].to_numpy_ndarrays()[0] + 1
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": ArrayRecord([array]), "metrics": metrics})
    return Message(content=content, reply_to=message)
"""


@pytest.fixture
def dummy_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle as make_app writes it, of two small stand-ins for strategies and clients."""
    for package, text in (("strategies", SERVER), ("clients", CLIENT)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "app.py").write_text(text)
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return make_app(tmp_path / "app", {"fail": False, "scenario": json.dumps({"é😀": "x" * 9000})})


@pytest.fixture
def processes_of_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Lists the living processes of all runs that the test starts."""
    boxes: list[sandbox.Sandbox] = []
    start, lock = sandbox.Sandbox.start, threading.Lock()

    def noted(box: sandbox.Sandbox, *command: str, **options: Any) -> subprocess.Popen[str]:
        with lock:
            boxes.append(box)
        return start(box, *command, **options)

    monkeypatch.setattr(sandbox.Sandbox, "start", noted)

    def processes() -> list[int]:
        assert len({box.token for box in boxes}) == 2
        assert not [box.home for box in boxes if box.home.exists()]
        return [pid for box in boxes for pid in box.living()]

    return processes


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `sim`")
def test_two_real_runs_at_once_one_of_which_fails(
    dummy_app: Path, processes_of_runs: Callable[[], list[int]]
) -> None:
    def go(fail: bool) -> tuple[list[str], str]:
        lines: list[str] = []
        try:
            run_app(
                dummy_app,
                run_config={"fail": fail},
                nodes=3,
                total_cpus=1,
                on_line=lines.append,
                stall_timeout=120,
            )
        except EngineError as error:
            return lines, str(error)
        return lines, ""

    with ThreadPoolExecutor() as pool:
        (good, no_error), (_, error) = pool.map(go, (False, True))
    assert no_error == ""
    assert "arrays [2.0, 2.0]" in good
    assert f"scenario {len(json.dumps({'é😀': 'x' * 9000}))}" in good
    assert any("client of" in line for line in good)
    assert "'finished:failed'" in error
    assert "broken on purpose" in error
    assert processes_of_runs() == []
