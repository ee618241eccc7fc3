"""Samples as they are: the baseline of every data codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedquant.codecs.counts import count_size, pack_count, unpack_count
from fedquant.codecs.data import Array, DataCodec, DataSpec
from fedquant.codecs.labels import labels_size, pack_labels, unpack_labels
from fedquant.errors import CodecError
from fedquant.keys import Key
from fedquant.wire import Knobs


@final
@dataclass(frozen=True)
class Raw(DataCodec):
    """float32 samples, little-endian, then the labels. Body: how many samples, the samples, the labels."""

    name: ClassVar[str] = "raw"

    def _encode_body(self, x: Array, labels: Array, spec: DataSpec, key: Key, knobs: Knobs) -> bytes:
        samples = x.astype("<f4", copy=False).tobytes()
        return pack_count(len(x), spec.max_samples) + samples + pack_labels(labels, spec)

    def _decode_body(self, data: bytes, spec: DataSpec, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        n = unpack_count(data, 0, spec.max_samples, self.name)
        start = count_size(spec.max_samples)
        end = start + 4 * n * spec.size
        if len(data) != end + labels_size(n, spec):
            raise CodecError(f"raw: body of {len(data)} bytes, {n} samples take {end + labels_size(n, spec)}")
        x = np.frombuffer(data[start:end], "<f4").astype(np.float32).reshape(n, spec.size)
        return x, unpack_labels(data[end:], n, spec)
