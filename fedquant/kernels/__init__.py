"""The inner loops: generator, scans, quantization, packing, entropy coding, transforms and selection.

`reference` (numpy) says what they mean; `compiled` (numba) gives the same bytes sooner and is what is used
where numba is there, unless FEDQUANT_KERNELS=numpy.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fedquant.errors import ConfigError
from fedquant.kernels.threads import get_threads, set_threads

_wanted = os.environ.get("FEDQUANT_KERNELS", "")
if _wanted not in ("", "numpy", "numba"):
    raise ConfigError(f"FEDQUANT_KERNELS={_wanted!r} is not known, use numpy or numba")

COMPILED: bool = _wanted == "numba" or (_wanted == "" and find_spec("numba") is not None)
"""Whether the compiled kernels are in use."""

if TYPE_CHECKING or not COMPILED:
    from fedquant.kernels.reference import (
        fused,
        hadamard,
        pack,
        quantize,
        rans,
        rng,
        scan,
        steps,
        symbols,
        tokens,
        topk,
    )
else:
    from fedquant.kernels.compiled import (
        fused,
        hadamard,
        pack,
        quantize,
        rans,
        rng,
        scan,
        steps,
        symbols,
        tokens,
        topk,
    )

__all__ = [
    "COMPILED",
    "fused",
    "get_threads",
    "hadamard",
    "pack",
    "quantize",
    "rans",
    "rng",
    "scan",
    "set_threads",
    "steps",
    "symbols",
    "tokens",
    "topk",
]
