"""How many threads the compiled kernels use on large vectors. numba's own count is left alone: asking for it
starts its threading layer, which resets that of torch."""

from __future__ import annotations

import os

_count = int(os.environ.get("NUMBA_NUM_THREADS") or os.cpu_count() or 1)


def get_threads() -> int:
    """The threads in use: at first one a core, or NUMBA_NUM_THREADS."""
    return _count


def set_threads(n: int) -> None:
    """Lets kernels use n threads in this process. Raises ValueError for n < 1."""
    global _count
    if n < 1:
        raise ValueError(f"threads: {n} is below 1")
    _count = n
