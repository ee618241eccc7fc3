"""What codecs share that send few numbers of a vector: their payloads are added where these numbers are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import numpy as np

from fedquant.codecs.base import Array, Codec, Sent, Spec
from fedquant.errors import CodecError
from fedquant.kernels import scan
from fedquant.keys import Key
from fedquant.wire import Knobs


class Scattered(Codec):
    """Decodes to given values at given indices, and to 0 elsewhere."""

    @abstractmethod
    def _entries(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        """(int64[k], distinct and within the spec; float32[k]) of a body. Raises CodecError for a bad one."""

    @final
    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        return scatter(*self._entries(data, spec, key, knobs), spec.size)

    @final
    def _add_bodies(
        self, out: Array, sent: Sequence[Sent], spec: Spec, knobs: Knobs
    ) -> dict[int, CodecError]:
        refused: dict[int, CodecError] = {}
        for i, (body, key, weight) in enumerate(sent):
            try:
                indices, values = self._entries(body, spec, key, knobs)
                if not np.isfinite(scan.max_abs(values)):
                    raise CodecError(f"{self.name}: decodes to a number that is not finite")
            except CodecError as error:
                refused[i] = error
            else:
                out[indices] += values * np.asarray(weight, values.dtype)
        return refused


def scatter(indices: Array, values: Array, size: int) -> Array:
    """float32[size]: `values` at `indices`, 0 elsewhere."""
    out = np.zeros(size, np.float32)
    out[indices] = values
    return out
