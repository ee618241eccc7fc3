"""What every sensor sent each round: one line a round, one row a sensor, wall-clock times apart.

scenario.yaml        the resolved scenario
rounds.jsonl         one line a round
sensors-00000.npz    columns (round, sensor, uplink_bytes, samples, status), one row a sensor and round
timings.jsonl        seconds a round; the only file that a rerun changes
model.safetensors    the final model
"""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from fedquant.errors import EngineError
from fedquant.scenario.schema import Scenario

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
    """Writes a run folder; an older run's files in it are replaced."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in [
                *folder.glob("sensors-*.npz"),
                *folder.glob("*.jsonl"),
                *folder.glob("*.safetensors"),
            ]:
                old.unlink()
            text = yaml.safe_dump(scenario.to_dict(), sort_keys=False, allow_unicode=True)
            (folder / "scenario.yaml").write_text(text, encoding="utf-8")
        except OSError as error:
            raise EngineError(f"run folder {folder}: {error}; choose another with --out") from None
        self._chunk = 0
        self._rows: list[tuple[int, int, int, int, int]] = []

    @property
    def model_path(self) -> Path:
        """Where the final model goes."""
        return self.folder / "model.safetensors"

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
        path = self.folder / f"sensors-{self._chunk:05}.npz"
        np.savez_compressed(path, allow_pickle=False, **arrays)
        self._chunk, self._rows = self._chunk + 1, []

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
