"""Samples as they are: the baseline of every data codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedquant.codecs.data import Array, DataCodec, DataSpec
from fedquant.codecs.labels import labels_size, pack_labels, unpack_labels
from fedquant.errors import CodecError
from fedquant.keys import Key
from fedquant.wire import Knobs


@final
@dataclass(frozen=True)
class Raw(DataCodec):
    """float32 samples, little-endian, then the labels. Body: u32 count, samples, labels."""

    name: ClassVar[str] = "raw"

    def _encode_body(self, x: Array, labels: Array, spec: DataSpec, key: Key, knobs: Knobs) -> bytes:
        samples = x.astype("<f4", copy=False).tobytes()
        return len(x).to_bytes(4, "little") + samples + pack_labels(labels, spec)

    def _decode_body(self, data: bytes, spec: DataSpec, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        n = int.from_bytes(data[:4], "little")
        end = 4 + 4 * n * spec.size
        if n > spec.max_samples or len(data) != end + labels_size(n, spec):
            raise CodecError(f"raw: {len(data)} bytes are not {n} samples (≤ {spec.max_samples})")
        x = np.frombuffer(data[4:end], "<f4").astype(np.float32).reshape(n, spec.size)
        return x, unpack_labels(data[end:], n, spec)
