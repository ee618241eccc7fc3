"""What a node remembers between rounds: one safetensors file a Flower node."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedquant.errors import StateError

_VERSION: Final = 1
_MODEL: Final = "model"
Arrays = Mapping[str, npt.NDArray[Any]]


class NodeState:
    """What the sensors remember, the rounds of their last payloads, and the model as last heard.

    arrays: by sensor and name. model: float32[size], empty unless broadcasts are differences.
    """

    def __init__(self, path: Path, run: int) -> None:
        self.path, self.run = path, run
        self.pending: dict[int, int] = {}
        self.arrays: dict[int, Arrays] = {}
        self.model: npt.NDArray[np.float32] = np.zeros(0, np.float32)
        self.broadcasts = 0  # heard so far

    @classmethod
    def open(cls, path: Path, run: int) -> NodeState:
        """The state in a file; empty where there is no file, or one of another run.

        Raises StateError for a file that is not a node's state.
        """
        state = cls(path, run)
        if not path.exists():
            return state
        try:
            with safe_open(path, framework="numpy") as file:
                meta = json.loads((file.metadata() or {}).get("fedquant", "{}"))
                if meta.get("version") != _VERSION:
                    raise StateError(
                        f"{path}: state version {meta.get('version')}, expected {_VERSION}; delete it"
                    )
                if meta["run"] != f"{run:016x}":
                    return state
                state.pending = {int(k): int(v) for k, v in meta["pending"].items()}
                arrays: dict[int, dict[str, npt.NDArray[Any]]] = {}
                state.broadcasts = int(meta["broadcasts"])
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    if name == _MODEL:
                        state.model = file.get_tensor(name)
                        continue
                    sensor, _, label = name.partition("/")
                    arrays.setdefault(int(sensor), {})[label] = file.get_tensor(name)
                state.arrays = dict(arrays)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise StateError(f"{path}: unreadable node state ({error}); delete it and start anew") from None
        return state

    def judge(self, sensor: int, settled: int, delivered: bool) -> bool | None:
        """Whether the sensor's last payload arrived; None where none is open.

        settled: the round of the last payload that the server judged (0: none). A later one never
        reached it. Raises StateError where the server knows a payload that this state does not.
        """
        last = self.pending.get(sensor, 0)
        if last < settled:
            raise StateError(
                f"sensor {sensor}: state {self.path} is of round {last}, the server expects round {settled}; "
                "nodes that move between machines need one shared state_dir"
            )
        if last == 0:
            return None
        return delivered if last == settled else False

    def save(self) -> None:
        """Writes the file; a reader sees the old one or the new one."""
        meta = {
            "version": _VERSION,
            "run": f"{self.run:016x}",
            "broadcasts": self.broadcasts,
            "pending": {str(k): self.pending[k] for k in sorted(self.pending)},
        }
        flat = {
            f"{sensor}/{label}": np.ascontiguousarray(array)
            for sensor in sorted(self.arrays)
            for label, array in sorted(self.arrays[sensor].items())
        }
        if self.model.size:
            flat[_MODEL] = self.model
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        save_file(flat, partial, metadata={"fedquant": json.dumps(meta)})
        partial.replace(self.path)
