"""Compiles all kernels ahead of their first use, for installers and slow machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fedquant import registry
from fedquant.codecs.base import Spec
from fedquant.codecs.data import DataSpec
from fedquant.errors import CodecError
from fedquant.kernels import hadamard, rng
from fedquant.keys import Key

# One configuration for each way through the kernels; what is not named here has only one.
_VARIANTS: dict[str, list[dict[str, Any]]] = {
    "qsgd": [
        {"bits": 4},
        {"bits": 3},
        {"bits": 4, "scope": 512},
        {"bits": 3, "scope": 512},
        {"levels": 300, "norm": "l2"},
        {"levels": 300, "norm": "l2", "scope": 512},
        {"levels": 300, "entropy": True},
    ],
    "ecq": [{}, {"dither": True}, {"bytes": 300}],
    "qcs": [{}, {"q": 0.5}, {"q": 7.5, "order": 12}, {"k": 1}],
    "error_feedback": [{"inner": "sign"}],
    "uniform": [{"bits": 4}, {"bits": 2.5}, {"entropy": True}],
    "dataq": [{"m": 8}, {"m": 300, "rounding": "nearest"}, {"m": 3, "rounding": "stochastic"}],
}


def warm() -> Iterator[str]:
    """Runs every codec once on little data; yields what it did."""
    key, n = Key(0), 1 << 16
    x = (rng.uniform(key, n) - np.float32(0.5)) ** 5  # mostly small, so that entropy coding pays
    rng.uint32(key, n)
    hadamard.transform(x.reshape(-1, 256))
    for name in registry.names("codec"):
        for fields in _VARIANTS.get(name, [{}]):
            codec = registry.create("codec", {"name": name, **fields})
            for dtype in ("float32", "float64"):
                spec = Spec(n, dtype, (n // 2, n))
                try:
                    codec.check(spec)
                except CodecError:
                    continue
                payload, _ = codec.encode(x.astype(dtype), spec, key, codec.init(spec))
                codec.add_decoded(np.zeros(n, dtype), [payload], spec, [key], [1.0])
                codec.decode(payload, spec, key)
            yield name
    samples = x.reshape(-1, 16)
    for name in registry.names("data_codec"):
        for fields in _VARIANTS.get(name, [{}]):
            coder = registry.create("data_codec", {"name": name, **fields})
            data_spec = DataSpec((16,), len(samples), 10)
            for batch in (samples, np.abs(samples)):
                labels = np.arange(len(batch)) % 10
                coder.decode(coder.encode(batch, labels, data_spec, key), data_spec, key)
            yield name
