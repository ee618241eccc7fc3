"""Labels on the wire: classes in mixed radix (log2 C bit each), regression targets as floats."""

from __future__ import annotations

import numpy as np

from fedquant.codecs.data import Array, DataSpec
from fedquant.errors import CodecError
from fedquant.kernels import pack


def labels_size(n: int, spec: DataSpec) -> int:
    """Bytes that the labels of n samples take."""
    if isinstance(spec.labels, str):
        return n * spec.label_type.itemsize
    return pack.radix_size(n, spec.labels)


def pack_labels(labels: Array, spec: DataSpec) -> bytes:
    """The bytes of checked labels."""
    if isinstance(spec.labels, str):
        return labels.astype(spec.label_type.newbyteorder("<")).tobytes()
    return pack.pack_radix(labels, spec.labels)


def unpack_labels(data: bytes, n: int, spec: DataSpec) -> Array:
    """int64[n] classes, float[n] targets, or int64[0] without labels. Raises CodecError."""
    if isinstance(spec.labels, str):
        if len(data) != labels_size(n, spec):
            raise CodecError(f"labels: {len(data)} bytes, expected {labels_size(n, spec)}")
        targets = np.frombuffer(data, spec.label_type.newbyteorder("<")).astype(spec.label_type)
        if not np.isfinite(targets).all():
            raise CodecError("labels: a target is not finite")
        return targets
    if spec.labels == 0:
        if data:
            raise CodecError(f"labels: {len(data)} bytes where the spec has none")
        return np.zeros(0, np.int64)
    return pack.unpack_radix(data, n, spec.labels).astype(np.int64)
