"""What a node remembers when a run begins, goes on from a checkpoint, or is begun anew meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clients.attempts import begin, recall
from fedquant.errors import StateError
from fedquant.message import Request, Start

RUN = 7


def ask(path: Path, round: int, attempt: int, checkpoint: int = 0) -> float:
    """A round in which the node counts one; what it had counted before."""
    state = recall(path, Request(RUN, round, (0,), (0,), (False,), {}, (), attempt, checkpoint))
    count = state.arrays.get(0, {"count": np.zeros(1)})["count"]
    state.arrays[0] = {"count": count + 1}
    state.save()
    return float(count[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a node that was asked in rounds 1, 2, 3 and 5; there is a checkpoint of round 2."""
    path = tmp_path / "state" / "node-0000003.safetensors"
    assert begin(path, Start(RUN, 0)) == 1
    asked = [ask(path, round, 1, 2 if round > 2 else 0) for round in (1, 2, 3, 5)]
    assert asked == [0, 1, 2, 3]
    return path


def test_what_came_after_the_checkpoint_is_undone(path: Path) -> None:
    assert begin(path, Start(RUN, 2)) == 2
    assert [ask(path, round, 2, 2) for round in (3, 5)] == [2, 3]
    assert begin(path, Start(RUN, 2)) == 3
    assert begin(path, Start(RUN, 2)) == 4
    assert ask(path, 3, 4, 2) == 2


def test_what_came_before_it_stays(path: Path) -> None:
    """The server made one after round 6, of which this node has not heard."""
    assert begin(path, Start(RUN, 6)) == 2
    assert ask(path, 9, 2, 6) == 4
    assert begin(path, Start(RUN, 6)) == 3
    assert ask(path, 9, 3, 6) == 4


def test_without_a_checkpoint_all_is_undone(path: Path) -> None:
    assert begin(path, Start(RUN, 0)) == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert ask(path, 1, 2) == 0


def test_the_copy_stands_in_for_a_lost_state(path: Path) -> None:
    path.unlink()
    assert begin(path, Start(RUN, 2)) == 2
    assert ask(path, 3, 2, 2) == 2
    path.unlink()  # lost while the run goes on: the copy stays what it is
    assert ask(path, 4, 2, 2) == 0
    assert begin(path, Start(RUN, 2)) == 3
    assert ask(path, 3, 3, 2) == 2


def test_a_node_that_was_never_asked(tmp_path: Path) -> None:
    path = tmp_path / "node.safetensors"
    begin(path, Start(RUN, 0))
    begin(path, Start(RUN, 4))
    assert ask(path, 5, 2, 4) == 0
    begin(path, Start(RUN, 4))
    assert ask(path, 5, 3, 4) == 0


def test_a_round_of_which_there_is_no_copy(path: Path) -> None:
    with pytest.raises(StateError, match=r"is of round 5, the run goes on after round 1.*start the run anew"):
        begin(path, Start(RUN, 1))


def test_an_abandoned_attempt_changes_nothing(path: Path) -> None:
    late = recall(path, Request(RUN, 6, (0,), (0,), (False,), {}, (), 1, 2))
    begin(path, Start(RUN, 2))
    with pytest.raises(StateError, match="attempt 2 has begun"):
        late.save()
    with pytest.raises(StateError, match="attempt 2 has begun"):
        ask(path, 6, 1, 2)
    assert ask(path, 3, 2, 2) == 2


def test_what_a_killed_process_left_goes(path: Path) -> None:
    for name in ("node-0000003.safetensors.1.part", "node-0000003.checkpoint.safetensors.1.part"):
        (path.parent / name).write_bytes(b"half")
    begin(path, Start(RUN, 2))
    assert not list(path.parent.glob("*.part"))


def test_another_runs_state_is_none(path: Path) -> None:
    assert begin(path, Start(RUN + 1, 0)) == 1


def test_a_node_that_lost_all_it_had_is_told(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(StateError, match="no state of the run, which goes on after round 2; give the node"):
        begin(path, Start(RUN, 2))
    assert begin(path, Start(RUN, 0)) == 1
