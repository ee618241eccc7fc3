"""The file of a checkpoint: what it holds comes back, and damage is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedquant import checkpoint
from fedquant.errors import EngineError
from tests.alike import same

TREE: checkpoint.State = {
    "floats": [0.1, -0.0, float("inf"), float("-inf"), 5e-324, 1 / 3],
    "scalars": (np.float64(0.1), np.float32(0.1), np.bool_(True), np.int64(-3)),
    "arrays": {0: np.arange(6, dtype=np.float32).reshape(2, 3).T, 7: np.zeros((0, 4)), -1: np.array(2.5)},
    "pairs": {1: (2, True), 3: (4, False)},
    "bytes": [b"", b"\0\xff"],
    "none": None,
    "text": "ς",
    "big": 2**80,
}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, 7, TREE)
    assert same(checkpoint.read(tmp_path, 7), TREE)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]


def test_a_state_of_something_else_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="keeps no set"):
        checkpoint.write(tmp_path, 7, {"a": {1, 2}})


def test_every_damage_is_noticed(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, 7, TREE)
    path = tmp_path / checkpoint.NAME
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(EngineError, match="start without resume"):
            checkpoint.read(tmp_path, 7)
    for size in range(0, len(data), 31):
        path.write_bytes(data[:size])
        with pytest.raises(EngineError, match="damaged checkpoint"):
            checkpoint.read(tmp_path, 7)


def test_a_checkpoint_of_another_run_or_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path, 7, {})
    with pytest.raises(EngineError, match="is of run 0000000000000007"):
        checkpoint.read(tmp_path, 8)
    monkeypatch.setattr(checkpoint, "_VERSION", "2")
    with pytest.raises(EngineError, match="checkpoint version 1, this fedquant reads 2"):
        checkpoint.read(tmp_path, 7)
