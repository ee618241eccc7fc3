"""One call for a run: where a ServerApp and a ClientApp meet."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedquant.errors import ConfigError, EngineError, FedquantError
from fedquant.folder import alone, finished, last_checkpoint, not_stopped
from fedquant.scenario import Scenario, load
from fedquant.scenario.descent import DescentUplink

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """A finished run: its folder and the lines of its rounds."""

    folder: Path
    rounds: list[Row]

    @property
    def accuracy(self) -> float:
        """Test accuracy after the last round, in [0, 1].

        Raises FedquantError for a descent and for a regression: they have none.
        """
        last = self.rounds[-1]
        if "test_accuracy" not in last:
            what = "descent" if "relative_error" in last else "regression"
            measure = "relative_error" if what == "descent" else "test_loss"
            raise FedquantError(f"{self.folder}: a {what} has no accuracy, use rounds[-1]['{measure}']")
        return float(last["test_accuracy"])

    @property
    def uplink_bytes(self) -> int:
        """Payload bytes that the sensors sent, all told."""
        return int(self.rounds[-1]["uplink_total"])

    @property
    def downlink_bytes(self) -> int:
        """Payload bytes broadcast, each broadcast counted once."""
        return int(self.rounds[-1]["downlink_total"])

    def model(self) -> dict[str, Any]:
        """The final model's tensors by name."""
        from safetensors.torch import load_file

        tensors: dict[str, Any] = load_file(self.folder / "model.safetensors")
        return tensors


def run(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    *,
    engine: Literal["local", "flower"] = "local",
    out: str | Path | None = None,
    resume: bool = False,
    on_round: Callable[[Row], None] | None = None,
    on_line: Callable[[str], None] = print,
) -> Result:
    """Runs a scenario and returns its result; `out` is the run folder (runs/<name> by default).

    resume: goes on from the checkpoint in that folder, or returns what is finished there. Without it a
    finished run in the folder is replaced, and one that stopped at a checkpoint is a ConfigError.
    on_round is called with each round's line (engine local), on_line with each log line (flower).
    Raises ConfigError, DataError or EngineError.
    """
    checked = load(scenario, overrides)
    folder = run_folder(checked, out)
    if engine not in ("local", "flower"):
        raise ConfigError(f"engine: {engine!r} is not known, use local or flower")
    if resume:
        if finished(folder, checked):
            return read(folder)
        last_checkpoint(folder, checked)  # a mistake is told before anything starts
    else:
        not_stopped(folder)
    if engine == "local":
        _local(checked, folder, resume, on_round)
    else:
        _flower(checked, folder, resume, on_line)
    return read(folder)


def run_folder(scenario: Scenario, out: str | Path | None) -> Path:
    """Where a run goes that is told `out`."""
    return (Path(out) if out is not None else Path("runs") / scenario.name).absolute()


def read(folder: Path) -> Result:
    """The result in a run folder. Raises EngineError for a damaged one."""
    path = folder / "rounds.jsonl"
    try:
        rounds = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not rounds:
            raise ValueError("it is empty")
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: damaged ({error}); delete {folder} and run it again") from None
    return Result(folder, rounds)


def _local(scenario: Scenario, folder: Path, resume: bool, on_round: Callable[[Row], None] | None) -> None:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from flwr.app import Context, RecordDict

    import clients.app
    import strategies.app
    from strategies.grid import LocalGrid

    run_config: dict[str, Any] = {"scenario": scenario.to_json()}
    state = scenario.state_dir or str(folder / "state")
    grid = LocalGrid(clients.app.app, scenario.gateways, run_config, {"state-dir": state})
    node_config: dict[str, Any] = {"out": str(folder), "resume": resume}
    context = Context(run_id=1, node_id=1, node_config=node_config, state=RecordDict(), run_config=run_config)
    log, flower = logging.getLogger("fedquant"), logging.getLogger("flwr")
    handler, level, quiet = _Rounds(on_round), log.level, flower.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    flower.setLevel(logging.WARNING)
    try:
        with _own_threads(scenario):
            strategies.app.app(grid, context)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        flower.setLevel(quiet)


@contextmanager
def _own_threads(scenario: Scenario) -> Iterator[None]:
    """Gives torch and kernels back the threads that they had; a descent has no torch."""
    if isinstance(scenario.uplink, DescentUplink):
        yield
        return
    import torch

    from fedquant import kernels

    before = torch.get_num_threads(), kernels.get_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        kernels.set_threads(before[1])


def _flower(scenario: Scenario, folder: Path, resume: bool, on_line: Callable[[str], None]) -> None:
    from fedquant.engines.flower import make_app, run_app

    with alone(folder):
        pass  # the server will want it: tell now, rather than in Flower's log
    with tempfile.TemporaryDirectory(prefix="fq") as temporary:
        app = make_app(Path(temporary), {"scenario": scenario.to_json()})
        state = scenario.state_dir or str(folder / "state")
        env = {
            "FEDQUANT_OUT": str(folder),
            "FEDQUANT_STATE_DIR": str(Path(state).absolute()),
            "FEDQUANT_RESUME": str(int(resume)),
        }
        total = None if os.environ.get("RAY_ADDRESS") else os.cpu_count()
        run_app(app, run_config={}, nodes=scenario.gateways, total_cpus=total, env=env, on_line=on_line)


class _Rounds(logging.Handler):
    """Hands each round's line on; warnings go to the terminal, unless the program logs elsewhere."""

    def __init__(self, on_round: Callable[[Row], None] | None) -> None:
        super().__init__()
        self.on_round = on_round

    def emit(self, record: logging.LogRecord) -> None:
        row = getattr(record, "row", None)
        if row is not None and self.on_round is not None:
            self.on_round(row)
        if record.levelno >= logging.WARNING and not logging.getLogger().handlers and logging.lastResort:
            logging.lastResort.handle(record)
