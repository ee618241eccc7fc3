"""A run begins, or goes on from the server's checkpoint: nodes put back what they remembered then.

A node learns of a checkpoint with the first request after it. Before it changes anything it keeps a copy of
its state, the one that may have to be put back: the server keeps no older checkpoint either.
"""

from __future__ import annotations

from pathlib import Path

from clients.state import NodeState, partial_path
from fedquant.errors import StateError
from fedquant.message import Request, Start


def begin(path: Path, start: Start) -> int:
    """Puts a node's state back to what it was at the start's checkpoint; which attempt at the run this is.

    Raises StateError where neither the state nor its copy is of then.
    """
    state, kept = NodeState.open(path, start.run), NodeState.open(_copy(path), start.run)
    attempt = 1 + max(state.attempt, kept.attempt)
    if not start.checkpoint:
        state = NodeState(path, start.run)
        kept.path.unlink(missing_ok=True)
    elif kept.checkpoint == start.checkpoint:
        state, state.path = kept, path
    elif state.round > start.checkpoint:
        raise StateError(
            f"{path}: is of round {state.round}, the run goes on after round {start.checkpoint}, and of that "
            f"there is no copy ({kept.path.name}); start the run anew, without resume"
        )
    if start.checkpoint and attempt == 1:
        raise StateError(
            f"{path}: there is no state of the run, which goes on after round {start.checkpoint}; give the "
            "node the state_dir that it had, or start the run anew, without resume"
        )
    for before in range(attempt):
        for file in (path, _copy(path)):
            partial_path(file, before).unlink(missing_ok=True)  # a process ended while it wrote
    state.attempt = attempt
    state.save()
    return attempt


def recall(path: Path, request: Request) -> NodeState:
    """A node's state before a request. Raises StateError for a request of an abandoned attempt."""
    state = NodeState.open(path, request.run)
    if state.attempt not in (0, request.attempt):  # 0: the file is lost, which its sensors will notice
        raise StateError(
            f"{path}: attempt {state.attempt} has begun, the request is of attempt {request.attempt}"
        )
    state.attempt = request.attempt
    if state.checkpoint != request.checkpoint:
        state.checkpoint = request.checkpoint
        if NodeState.open(_copy(path), request.run).checkpoint != request.checkpoint:
            state.save(_copy(path))
    state.round = request.round
    return state


def _copy(path: Path) -> Path:
    return path.with_suffix(f".checkpoint{path.suffix}")
