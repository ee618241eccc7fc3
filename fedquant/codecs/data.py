"""The contract of data codecs: batches of samples with their labels, to framed bytes and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
import numpy.typing as npt

from fedquant import registry, wire
from fedquant.codecs.configured import Configured
from fedquant.errors import CodecError
from fedquant.kernels import scan
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DataSpec:
    """What a data decoder may expect at most: samples of `shape`, and their labels.

    labels: the number of classes, 0 for none, or "float16" / "float32" for regression targets.
    """

    shape: tuple[int, ...]
    max_samples: int
    labels: int | Literal["float16", "float32"] = 0

    @property
    def size(self) -> int:
        """Numbers a sample."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def label_type(self) -> np.dtype[Any]:
        """int64 of classes, or the targets' own."""
        return np.dtype(self.labels if isinstance(self.labels, str) else np.int64)

    @property
    def identity(self) -> str:
        """Text that enters every payload's checksum."""
        return f"{'x'.join(map(str, self.shape))} {self.max_samples} {self.labels}"


class DataCodec(Configured, ABC):
    """Codes batches of samples with their labels."""

    kind: ClassVar[registry.Kind] = "data_codec"

    @abstractmethod
    def _encode_body(self, x: Array, labels: Array, spec: DataSpec, key: Key, knobs: Knobs) -> bytes:
        """x: float32[n, size], n ≥ 1."""

    @abstractmethod
    def _decode_body(self, data: bytes, spec: DataSpec, key: Key, knobs: Knobs) -> tuple[Array, Array]: ...

    @final
    def encode(
        self, samples: Array, labels: Array, spec: DataSpec, key: Key, knobs: Knobs = NO_KNOBS
    ) -> bytes:
        """The payload of samples: float32[n, *shape] and labels[n]; n = 0 is a payload, too.

        Raises CodecError for NaN, infinity, a wrong shape, too many samples or a label out of range.
        """
        context = self.context(spec, key, knobs)
        x = np.ascontiguousarray(samples)
        n = len(x)
        if x.dtype != np.float32 or x.shape[1:] != spec.shape or n > spec.max_samples:
            raise CodecError(
                f"{self.name}: got {x.dtype}{list(x.shape)}, expected float32"
                f"[n ≤ {spec.max_samples}, {', '.join(map(str, spec.shape))}]"
            )
        x = x.reshape(n, spec.size)
        if not np.isfinite(scan.max_abs(x.reshape(-1))):
            at = scan.first_nonfinite(x.reshape(-1))
            raise CodecError(
                f"{self.name}: sample {at // spec.size} has {x.reshape(-1)[at]} at {at % spec.size}; "
                "every number must be finite"
            )
        checked = _check_labels(self.name, np.asarray(labels), n, spec)
        return wire.frame(self._encode_body(x, checked, spec, key, knobs), context)

    @final
    def decode(
        self, payload: bytes, spec: DataSpec, key: Key, knobs: Knobs = NO_KNOBS
    ) -> tuple[Array, Array]:
        """(samples: float32[n, *shape], labels[n]). Raises CodecError, and nothing else."""
        data = wire.unframe(payload, self.context(spec, key, knobs))
        x, labels = self._decode_body(data, spec, key, knobs)
        if not np.isfinite(scan.max_abs(x.reshape(-1))):
            raise CodecError(f"{self.name}: decodes to a number that is not finite")
        return x.reshape(-1, *spec.shape), labels


def _check_labels(name: str, labels: Array, n: int, spec: DataSpec) -> Array:
    if spec.labels == 0:
        return np.zeros(0, np.int64)
    if labels.shape != (n,):
        raise CodecError(f"{name}: labels of shape {list(labels.shape)}, expected [{n}]")
    if isinstance(spec.labels, str):
        with np.errstate(over="ignore"):  # an overflow is refused below
            targets = labels.astype(spec.label_type)
        if not np.isfinite(targets).all():
            raise CodecError(f"{name}: a label does not fit {spec.labels}")
        return targets
    if not np.issubdtype(labels.dtype, np.integer):
        raise CodecError(f"{name}: labels are {labels.dtype}, expected integers in [0, {spec.labels})")
    if n and not 0 <= labels.min() <= labels.max() < spec.labels:
        at = int(np.argmax((labels < 0) | (labels >= spec.labels)))
        raise CodecError(f"{name}: label {labels[at]} at {at} is outside [0, {spec.labels})")
    return labels.astype(np.int64)
