"""Seconds of an operation and of memcpy, measured in turns in one process.

memcpy is `np.copyto` between two arrays that exist already, on one thread. On one thread the clock is that
thread's CPU time, which others on the machine disturb least; on more, the time that passes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedquant import kernels

Operation = Callable[[], Any]

FEWEST: Final = 3  # runs
PATIENCE: Final = 4  # budgets, after which fewer runs must do


@dataclass(frozen=True)
class Timing:
    """Medians over `runs`, in seconds; `best` and `memcpy_best` are of the fastest run."""

    threads: int
    seconds: float
    memcpy: float
    best: float
    memcpy_best: float
    runs: int

    @property
    def x(self) -> float:
        """The speed as a multiple of memcpy's."""
        return self.memcpy / self.seconds

    @property
    def x_best(self) -> float:
        """The same of the fastest runs, which say more on a busy machine."""
        return self.memcpy_best / self.best

    def each(self, count: int) -> Timing:
        """Of one of `count` things that were done at once."""
        return replace(self, seconds=self.seconds / count, best=self.best / count)


class Memcpy:
    """Copies float32[n] to where it has been copied before."""

    def __init__(self, x: npt.NDArray[np.float32]) -> None:
        self._x, self._to = x, np.zeros_like(x)

    def __call__(self) -> None:
        np.copyto(self._to, self._x)


def thread_counts() -> tuple[int, ...]:
    """(1, 2), or (1,) where the kernels have no second thread."""
    return (1, 2) if kernels.COMPILED and kernels.get_threads() > 1 else (1,)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Lets the kernels use n threads."""
    before = kernels.get_threads()
    kernels.set_threads(n)
    try:
        yield
    finally:
        kernels.set_threads(before)


def compare(operation: Operation, memcpy: Operation, n_threads: int, budget: float) -> Timing:
    """The operation against memcpy in turns, for about `budget` seconds, after one run that does not count.

    At least 3 runs, unless these would take 4 budgets; 1 in any case.
    """
    clock = time.thread_time if n_threads == 1 else time.perf_counter
    seconds: list[float] = []
    copies: list[float] = []
    with threads(n_threads):
        operation()
        memcpy()
        start = time.perf_counter()
        while not seconds or _goes_on(len(seconds), time.perf_counter() - start, budget):
            copies.append(_time(memcpy, clock))
            seconds.append(_time(operation, clock))
    medians = statistics.median(seconds), statistics.median(copies)
    return Timing(n_threads, *medians, min(seconds), min(copies), len(seconds))


def compare_all(operation: Operation, memcpy: Operation, budget: float) -> tuple[Timing, ...]:
    """`compare` for each of `thread_counts`."""
    return tuple(compare(operation, memcpy, n, budget) for n in thread_counts())


def short(operation: Operation, budget: float, batch: int = 100) -> float:
    """Seconds of CPU time that an operation of microseconds takes on one thread: the median over batches."""
    seconds: list[float] = []
    with threads(1):
        operation()
        start = time.perf_counter()
        while not seconds or _goes_on(len(seconds), time.perf_counter() - start, budget):
            before = time.thread_time()
            for _ in range(batch):
                operation()
            seconds.append((time.thread_time() - before) / batch)
    return statistics.median(seconds)


def _goes_on(runs: int, passed: float, budget: float) -> bool:
    return passed < budget if runs >= FEWEST else passed < PATIENCE * budget


def _time(operation: Operation, clock: Callable[[], float]) -> float:
    before = clock()
    result = operation()
    passed = clock() - before
    del result  # freeing it is not part of the operation
    return passed
