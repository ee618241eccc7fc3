"""Records of arrays: float64[n] of one instance, or float64[instances, n]."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
F64 = npt.NDArray[np.float64]
Floats = float | F64
EPS: Final = float(np.finfo(np.float64).eps)


def col(x: F64) -> F64:
    """float64[…] as float64[…, 1], to be multiplied with vectors."""
    return np.asarray(x)[..., np.newaxis]


def norm(x: F64) -> F64:
    """‖x‖₂: float64[…] of float64[…, n]."""
    return np.asarray(np.linalg.norm(x, axis=-1))


def take(record: Record, index: npt.NDArray[np.bool_] | int) -> Record:
    """The dataclass with every array cut to the instances at `index`."""
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return replace(
        record, **{k: np.asarray(v[index]) for k, v in values.items() if isinstance(v, np.ndarray)}
    )
