"""What every sensor sent each round: one line a round, one row a sensor, wall-clock times apart.

scenario.yaml        the resolved scenario
rounds.jsonl         one line a round
sensors-00000.npz    columns (round, sensor, uplink_bytes, samples, status), one row a sensor and round
timings.jsonl        seconds a round; the only file that a rerun changes
model.safetensors    the final model, which says that the run is finished

A run that goes on from a checkpoint cuts these files back to what they were then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedquant import checkpoint
from fedquant.checkpoint import State
from fedquant.errors import EngineError
from fedquant.scenario.load import dump
from fedquant.scenario.schema import Scenario

MODEL: Final = "model.safetensors"
SCENARIO: Final = "scenario.yaml"
_LINES: Final = ("rounds.jsonl", "timings.jsonl")
_CHUNKS: Final = "sensors-" + 5 * "[0-9]" + ".npz"
_ROWS: Final = 1 << 20  # rows a chunk
_COLUMNS: Final = {
    "round": np.uint32,
    "sensor": np.uint32,
    "uplink_bytes": np.uint64,
    "samples": np.uint32,
    "status": np.uint8,
}


class Status(IntEnum):
    """What became of a sensor in a round."""

    SILENT = 0  # nothing to say
    ACCEPTED = 1
    REFUSED = 2  # a payload came and was refused
    MISSING = 3  # its node failed or did not answer


class Ledger:
    """Writes a run folder; an older run's files in it are replaced. Raises EngineError where it cannot.

    since: the state of a ledger of this run, from which this one goes on.
    """

    def __init__(self, folder: Path, scenario: Scenario, since: State | None = None) -> None:
        self.folder = folder
        self._chunk = 0
        self._rows: list[tuple[int, ...]] = []
        try:
            if since is None:
                self._begin(scenario)
            else:
                self._go_on(since)
        except OSError as error:
            raise EngineError(f"run folder {folder}: {error}; choose another with --out") from None

    def _begin(self, scenario: Scenario) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (MODEL, checkpoint.NAME, *_LINES):
            for old in (name, f"{name}.part"):
                (self.folder / old).unlink(missing_ok=True)
        for chunk in self.folder.glob(_CHUNKS):
            chunk.unlink()
        (self.folder / SCENARIO).write_text(dump(scenario), encoding="utf-8")

    def _go_on(self, since: State) -> None:
        self._chunk, self._rows = since["chunk"], [tuple(row) for row in since["rows"].tolist()]
        for name, size in since["bytes"].items():
            path = self.folder / name
            if path.stat().st_size < size:
                raise EngineError(
                    f"{path}: shorter than at the checkpoint, when it had {size} bytes; start without resume"
                )
            os.truncate(path, size)
        for name in (MODEL, checkpoint.NAME):
            (self.folder / f"{name}.part").unlink(missing_ok=True)
        for chunk in self.folder.glob(_CHUNKS):
            if chunk.name >= self._chunk_path().name:
                chunk.unlink()

    def state(self) -> State:
        """Where the ledger stands; all that it has written so far is on the disk by then."""
        files = [self.folder / name for name in _LINES]
        for path in files:
            checkpoint.sync(path)
        return {
            "bytes": {path.name: path.stat().st_size for path in files},
            "chunk": self._chunk,
            "rows": np.array(self._rows, np.int64).reshape(-1, len(_COLUMNS)),
        }

    def finish(self, save: Callable[[str], None]) -> None:
        """Writes what is left, and the model, which `save` does to a path; checkpoints have had their day."""
        self.flush()
        partial = self.folder / f"{MODEL}.part"
        save(str(partial))
        for path in (partial, *(self.folder / name for name in _LINES)):
            checkpoint.sync(path)  # before the checkpoint goes, from which the run could be ended again
        partial.replace(self.folder / MODEL)
        checkpoint.sync(self.folder)
        (self.folder / checkpoint.NAME).unlink(missing_ok=True)

    def round(self, row: dict[str, Any]) -> None:
        """Appends a round's line."""
        self._append("rounds.jsonl", row)

    def timing(self, row: dict[str, Any]) -> None:
        """Appends a round's wall-clock times."""
        self._append("timings.jsonl", row)

    def sensor(self, round: int, sensor: int, uplink_bytes: int, samples: int, status: Status) -> None:
        """Appends a sensor's row."""
        self._rows.append((round, sensor, uplink_bytes, samples, int(status)))
        if len(self._rows) == _ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes the rows gathered so far."""
        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        arrays = {
            name: np.array(c, dtype) for (name, dtype), c in zip(_COLUMNS.items(), columns, strict=True)
        }
        np.savez_compressed(self._chunk_path(), allow_pickle=False, **arrays)
        checkpoint.sync(self._chunk_path())
        self._chunk, self._rows = self._chunk + 1, []

    def _chunk_path(self) -> Path:
        return self.folder / f"sensors-{self._chunk:05}.npz"

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
