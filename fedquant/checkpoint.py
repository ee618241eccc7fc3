"""A checkpoint: all that a server must know to go on with a run, in one file of its folder.

checkpoint.safetensors   arrays as tensors; in the metadata the version, the run, the state as JSON that
                         names the tensors, and a digest of everything

A state is a tree of mappings, lists and tuples; its leaves are numbers, texts, bytes, None and numpy arrays.
It comes back as it was, floats to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedquant.errors import EngineError

State = dict[str, Any]
"""A tree, as above."""

NAME: Final = "checkpoint.safetensors"
_VERSION: Final = "1"
_Arrays = dict[str, npt.NDArray[Any]]


def write(folder: Path, run: int, state: State) -> None:
    """Replaces a run folder's checkpoint: whenever the machine stops, the old one or the new one is there.

    Raises EngineError where it cannot be written.
    """
    arrays: _Arrays = {}
    meta = {"version": _VERSION, "run": f"{run:016x}", "state": json.dumps(_pack(state, arrays))}
    partial = folder / f"{NAME}.part"
    try:
        save_file(arrays, partial, metadata={**meta, "digest": _digest(meta, arrays)})
        sync(partial)
        partial.replace(folder / NAME)
        sync(folder)
    except (SafetensorError, OSError) as error:
        raise EngineError(f"{folder / NAME}: {error}; mend that, then resume") from None


def read(folder: Path, run: int) -> State:
    """The state in a run folder's checkpoint. Raises EngineError for a damaged one, or another run's."""
    path = folder / NAME
    try:
        with safe_open(path, framework="numpy") as file:
            meta = dict(file.metadata() or {})
            if (version := meta.get("version")) != _VERSION:
                raise EngineError(
                    f"{path}: checkpoint version {version}, this fedquant reads {_VERSION}; resume with the "
                    "fedquant that wrote it, or start without resume"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if meta.pop("digest") != _digest(meta, arrays):
            raise ValueError("its digest is wrong")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise EngineError(f"{path}: damaged checkpoint ({error}); start without resume") from None
    if meta["run"] != f"{run:016x}":
        raise EngineError(f"{path}: is of run {meta['run']}, not {run:016x}; start without resume")
    state: State = _unpack(json.loads(meta["state"]), arrays)
    return state


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(meta: Mapping[str, str], arrays: _Arrays) -> str:
    heads = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
    digest = hashlib.sha256(json.dumps([meta, heads], sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


# ---- trees as JSON: an object names its kind


def _pack(value: Any, arrays: _Arrays) -> Any:
    """JSON of a tree, its arrays put into `arrays`."""
    if isinstance(value, np.ndarray | np.generic):  # first: a np.float64 is a float, too
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: _add(np.asarray(value), arrays)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": _add(np.frombuffer(value, np.uint8), arrays)}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_pack(item, arrays) for item in value]
    if isinstance(value, Mapping):
        return {"map": [[_pack(k, arrays), _pack(v, arrays)] for k, v in value.items()]}
    raise TypeError(f"a checkpoint keeps no {type(value).__name__}; say it in numbers, texts and arrays")


def _add(array: npt.NDArray[Any], arrays: _Arrays) -> str:
    name = f"{len(arrays):06}"
    arrays[name] = np.array(array, order="C")
    return name


def _unpack(value: Any, arrays: _Arrays) -> Any:
    """The inverse of `_pack`."""
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "map":
        return {_unpack(k, arrays): _unpack(v, arrays) for k, v in inside}
    if kind == "tuple":
        return tuple(_unpack(item, arrays) for item in inside)
    array = arrays[inside]
    if kind == "bytes":
        return array.tobytes()
    return array[()] if kind == "scalar" else array
