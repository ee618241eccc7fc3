"""The node's state file: what it keeps, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clients.state import NodeState
from fedquant.errors import StateError


def saved(path: Path, run: int = 7) -> NodeState:
    state = NodeState(path, run)
    state.pending = {3: 5, 4: 6}
    state.arrays = {3: {"residual": np.arange(4, dtype=np.float32), "inner/x": np.ones(2, np.uint32)}}
    state.save()
    return state


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "node.safetensors"
    saved(path)
    state = NodeState.open(path, 7)
    assert state.pending == {3: 5, 4: 6}
    assert state.arrays[3]["residual"].tolist() == [0, 1, 2, 3]
    assert state.arrays[3]["inner/x"].dtype == np.uint32
    assert [p.name for p in path.parent.iterdir()] == ["node.safetensors"]


def test_another_run_starts_empty(tmp_path: Path) -> None:
    saved(tmp_path / "s", run=7)
    assert NodeState.open(tmp_path / "s", 8).pending == {}
    assert NodeState.open(tmp_path / "none", 8).pending == {}


def test_rounds_are_judged(tmp_path: Path) -> None:
    state = saved(tmp_path / "s")
    assert state.judge(3, settled=5, delivered=True) is True
    assert state.judge(3, settled=5, delivered=False) is False
    assert state.judge(3, settled=2, delivered=True) is False  # round 5 never reached the server
    assert state.judge(9, settled=0, delivered=False) is None
    with pytest.raises(StateError, match="round 5, the server expects round 8"):
        state.judge(3, settled=8, delivered=True)
    with pytest.raises(StateError, match="shared state_dir"):
        state.judge(9, settled=1, delivered=True)


@pytest.mark.parametrize("damage", [b"", b"not a file", b"\xff" * 64])
def test_a_damaged_file_is_refused(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(damage)
    with pytest.raises(StateError, match="delete it"):
        NodeState.open(tmp_path / "s", 7)


def test_a_folder_that_cannot_be_written_is_told_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "deep" / "node.safetensors"
    for use in (lambda: NodeState.open(path, 7), NodeState(path, 7).save):
        with pytest.raises(StateError, match="as state_dir in the scenario or as FEDQUANT_STATE_DIR"):
            use()
