"""Selection of the largest numbers of a vector, exact, with ties to the lower index."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def largest(x: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """int64[k], ascending: where the k largest |x_i| of finite x: float32[n] are.

    Raises ValueError for k outside [0, n].
    """
    if not 0 <= k <= x.size:
        raise ValueError(f"topk: k={k} is outside [0, n={x.size}]")
    if k in (0, x.size):
        return np.arange(k, dtype=np.int64)
    bits = x.view(np.int32) & np.int32(0x7FFFFFFF)  # as integers, magnitudes order like the floats they are
    least = np.partition(bits, x.size - k)[x.size - k]
    found = np.flatnonzero(bits >= least)
    if found.size > k:
        ties = np.flatnonzero(bits[found] == least)
        found = np.delete(found, ties[k - found.size :])
    return found.astype(np.int64, copy=False)
