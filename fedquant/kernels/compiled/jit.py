"""How a kernel is compiled, and how many threads run it.

Threads are Python's own around kernels that release the GIL, not numba's `parallel=True`: one piece of
machine code serves one thread or many, so the bits agree, half as much is compiled, and a process may fork.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numba

from fedquant.kernels.threads import get_threads

Function = Callable[..., Any]
Item = TypeVar("Item")
Result = TypeVar("Result")

MANY: Final = 1 << 20  # elements; for fewer, a second thread costs more than it saves
_PIECES: Final = 4  # a thread, so that a slow one holds up the others little


def kernel(function: Function) -> Function:
    """Compiles at the first call and keeps the code on disk; no fastmath, so a + b·c rounds twice."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that can be written: each process compiles for itself
        compiled = numba.njit(**options)(function)
    return compiled


def inlined(function: Function) -> Function:
    """A part of kernels. The disk cache watches only a kernel's own file: touch that after an edit here."""
    part: Function = numba.njit(inline="always", error_model="numpy")(function)
    return part


def spread(run: Callable[[int, int], Result], n: int, grain: int = 1) -> list[Result]:
    """[run(start, stop), …] over range(n), cut at multiples of `grain` among the threads there are."""
    threads = get_threads() if n >= MANY else 1
    if threads == 1:
        return [run(0, n)]
    size = -(-n // (threads * _PIECES * grain)) * grain
    return each(lambda start: run(start, min(start + size, n)), range(0, n, size), n)


def each(task: Callable[[Item], Result], items: Sequence[Item], n: int) -> list[Result]:
    """[task(item), …] for items of n elements together; threads live for one call: they survive no fork."""
    workers = min(get_threads(), len(items))
    if n < MANY or workers < 2:
        return [task(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(task, items))
