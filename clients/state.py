"""What a node remembers between rounds: one safetensors file a Flower node."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedquant.errors import StateError

_VERSION: Final = 2
_MODEL: Final = "model"
Arrays = Mapping[str, npt.NDArray[Any]]


class NodeState:
    """What the sensors remember, the rounds of their last payloads, and the model as last heard.

    arrays: by sensor and name. model: float32[size], empty unless broadcasts are differences. attempt: which
    start of the run it belongs to (0: none yet). round: of the last request. checkpoint: the server's last
    one, as of that request.
    """

    def __init__(self, path: Path, run: int) -> None:
        self.path, self.run = path, run
        self.pending: dict[int, int] = {}
        self.arrays: dict[int, Arrays] = {}
        self.model: npt.NDArray[np.float32] = np.zeros(0, np.float32)
        self.broadcasts = 0  # heard so far
        self.attempt = self.round = self.checkpoint = 0

    @classmethod
    def open(cls, path: Path, run: int) -> NodeState:
        """The state in a file; empty where there is no file, or one of another run.

        Raises StateError for a file that is not a node's state, and for a folder that cannot be made: what
        opens a state will save it.
        """
        state = cls(path, run)
        with _usable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                return state
        with _opened(path) as (file, meta):
            if meta["run"] != f"{run:016x}":
                return state
            state.attempt, state.round = int(meta["attempt"]), int(meta["round"])
            state.checkpoint, state.broadcasts = int(meta["checkpoint"]), int(meta["broadcasts"])
            state.pending = {int(k): int(v) for k, v in meta["pending"].items()}
            arrays: dict[int, dict[str, npt.NDArray[Any]]] = {}
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if name == _MODEL:
                    state.model = file.get_tensor(name)
                    continue
                sensor, _, label = name.partition("/")
                arrays.setdefault(int(sensor), {})[label] = file.get_tensor(name)
            state.arrays = dict(arrays)
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

    def save(self, path: Path | None = None) -> None:
        """Writes the file (or another); a reader sees the old one or the new one.

        Raises StateError where it cannot, and where it holds a later attempt at the same run: this one was
        abandoned.
        """
        path = path or self.path
        if (there := _attempt(path, self.run)) > self.attempt:
            raise StateError(
                f"{path}: attempt {there} has begun, what attempt {self.attempt} does is too late"
            )
        meta = {
            "version": _VERSION,
            "run": f"{self.run:016x}",
            "attempt": self.attempt,
            "round": self.round,
            "checkpoint": self.checkpoint,
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
        partial = partial_path(path, self.attempt)
        with _usable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(flat, partial, metadata={"fedquant": json.dumps(meta)})
            partial.replace(path)


def partial_path(path: Path, attempt: int) -> Path:
    """What a state file is called while it is written; an abandoned attempt gets in nobody's way."""
    return path.with_name(f"{path.name}.{attempt}.part")


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Raises StateError where the folder of a state file cannot be used."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise StateError(
            f"{path}: {error}; name a folder that can be written, as state_dir in the scenario or as "
            "FEDQUANT_STATE_DIR in the node's environment"
        ) from None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A state file and its metadata. Raises StateError for a file that is none."""
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {}).get("fedquant", "{}"))
            if meta.get("version") != _VERSION:
                raise StateError(
                    f"{path}: state version {meta.get('version')}, expected {_VERSION}; delete it"
                )
            yield file, meta
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise StateError(f"{path}: unreadable node state ({error}); delete it and start anew") from None


def _attempt(path: Path, run: int) -> int:
    """Which attempt at a run a file is of; 0 for none."""
    if not path.exists():
        return 0
    with _opened(path) as (_, meta):
        return int(meta["attempt"]) if meta["run"] == f"{run:016x}" else 0
