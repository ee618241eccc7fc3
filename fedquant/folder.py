"""Folders as they are found: finished, stopped with a checkpoint, of another scenario, damaged, or in use."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fedquant import checkpoint
from fedquant.errors import ConfigError, EngineError
from fedquant.ledger import MODEL, SCENARIO
from fedquant.scenario.load import load
from fedquant.scenario.schema import Scenario

log = logging.getLogger("fedquant")
_SHOWN: Final = 5  # differences that an error names


def finished(folder: Path, scenario: Scenario) -> bool:
    """Whether it holds this very run, complete. Raises EngineError where its scenario is damaged."""
    return (folder / MODEL).is_file() and _same(folder, scenario)


def stopped(folder: Path, scenario: Scenario) -> bool:
    """Whether it holds this very run up to a checkpoint. Raises EngineError where its scenario is damaged."""
    return (folder / checkpoint.NAME).is_file() and _same(folder, scenario)


def last_checkpoint(folder: Path, scenario: Scenario) -> checkpoint.State:
    """What to go on from.

    Raises ConfigError where there is another scenario or no checkpoint, EngineError for a damaged one.
    """
    if (folder / SCENARIO).is_file() and not _same(folder, scenario):
        differences = "; ".join(_differences(scenario.identity, _held(folder).identity))
        raise ConfigError(
            f"{folder} holds another scenario: {differences}. Resume with its own, choose another folder "
            "with --out, or start without resume"
        )
    if not (folder / checkpoint.NAME).is_file():
        raise ConfigError(
            f"{folder}: no checkpoint to resume from; start without resume, and with "
            "training.checkpoint_every=N for a checkpoint every N rounds"
        )
    return checkpoint.read(folder, scenario.run_id)


def not_stopped(folder: Path) -> None:
    """Raises ConfigError where a run stopped that could go on: a new one would replace it."""
    if (folder / checkpoint.NAME).is_file():
        raise ConfigError(
            f"{folder} holds a run that stopped and can go on from its checkpoint; add --resume "
            "(resume=True), choose another folder with --out, or delete it"
        )


def writable(folder: Path, option: str) -> None:
    """Makes a folder for results before the work begins. Raises ConfigError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option} {folder}: {error.strerror}; choose a folder that can be written with {option}"
        ) from None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing to a run folder meanwhile. Raises EngineError where one does."""
    if os.name != "posix":  # Windows has no such locks
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise EngineError(f"run folder {folder}: {error}; choose another with --out") from None
    try:
        _lock(folder, handle)
        yield
    finally:
        os.close(handle)


def _lock(folder: Path, handle: int) -> None:
    """Until the handle is closed or the process ends, however it does."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise EngineError(
            f"run folder {folder}: another process runs in it; wait for its end, or choose another with --out"
        ) from None
    except OSError as error:  # a file system without locks
        log.warning("run folder %s cannot be locked (%s); see that no other run uses it", folder, error)


def _same(folder: Path, scenario: Scenario) -> bool:
    return (folder / SCENARIO).is_file() and _held(folder).run_id == scenario.run_id


def _held(folder: Path) -> Scenario:
    """The scenario in a run folder. Raises EngineError for a damaged one."""
    try:
        return load(folder / SCENARIO)
    except ConfigError as error:
        why = " ".join(str(error).split())
        raise EngineError(
            f"{folder} holds no scenario that can be read ({why}); delete it, or choose another folder with "
            "--out"
        ) from None


def _differences(given: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    now, then = _flat(given), _flat(there)
    keys = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
    out = [f"its {key} is {then.get(key, 'not set')!r}, not {now.get(key, 'unset')!r}" for key in keys]
    return [*out[:_SHOWN], f"{len(out) - _SHOWN} more"] if len(out) > _SHOWN else out


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Values by dotted path."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return out
