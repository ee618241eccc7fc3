"""The runs behind Figure 2 of QCS: SGD on linear regressions, with each scheme and step size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.qcs import QCS
from fedquant.codecs.qsgd import QSGD
from fedquant.codecs.sparse import Sparse
from fedquant.differential.normal import normal
from fedquant.keys import Key, Purpose
from fedquant.reproduce.qcs_schemes import BASELINE, matching, through

F64 = npt.NDArray[np.float64]

SEED: Final = Key(2020)
INPUTS, OUTPUTS, BATCH = 64, 50, 32
GAIN: Final = 21.0
SPEC: Final = Spec(INPUTS * OUTPUTS)
TARGET: Final = 1e-3  # of the loss at the start
DIVERGED: Final = 1e4
CURVES: Final = (0.05, 0.10)  # the paper's step sizes of Fig. 2b and 2c
QSGD_STEP, QCS_STEP = CURVES
ALONG: Final = 40  # iterations after which Sparse-SGD's bytes are matched: gradients change their shape


class Size(NamedTuple):
    """How much is measured: regressions, step sizes, iterations at most."""

    runs: int
    steps: tuple[float, ...]
    iterations: int


FULL = Size(24, tuple(i / 100 for i in range(1, 31)), 500)
QUICK = Size(4, (0.02, 0.05, 0.08, 0.10, 0.14, 0.20), 300)


class Descent(NamedTuple):
    """One run of SGD: the loss after each iteration over that at the start, and bytes a gradient."""

    scheme: str
    step: float
    run: int
    loss: F64
    payload: float

    def arrival(self, target: float = TARGET) -> float:
        """Iterations to the target; infinity where it is not reached."""
        reached = np.flatnonzero(self.loss <= target)
        return float(reached[0] + 1) if reached.size else math.inf


@dataclass(frozen=True)
class Regression:
    """y = W*x without noise: x ~ N(0, R), eigenvalues of R even in [1, 4]; W* ~ N(0, 1), W starts at 0."""

    run: int
    iterations: int

    @property
    def key(self) -> Key:
        """Of the problem."""
        return SEED.fold(sensor=self.run, purpose=Purpose.SHUFFLE)

    @cached_property
    def root(self) -> F64:
        """float64[inputs, inputs]: a symmetric root of R."""
        basis, _ = np.linalg.qr(normal(self.key, (INPUTS, INPUTS)))
        root: F64 = (basis * np.sqrt(np.linspace(1, 4, INPUTS))) @ basis.T
        return root

    @cached_property
    def batches(self) -> F64:
        """float64[iterations, batch, inputs]: the same for every scheme and step size."""
        drawn = normal(self.key.fold(part=1), (self.iterations * BATCH, INPUTS)) @ self.root
        return drawn.reshape(self.iterations, BATCH, INPUTS)

    @cached_property
    def start(self) -> F64:
        """float64[outputs, inputs]: W − W* at the start."""
        return -normal(self.key.fold(part=2), (OUTPUTS, INPUTS))

    def gradient(self, error: F64, iteration: int) -> F64:
        """float64[outputs, inputs]: of half the mean squared residual of a batch, at W − W* = error."""
        x = self.batches[iteration]
        gradient: F64 = (error @ x.T) @ x / BATCH
        return gradient

    def loss(self, error: F64) -> float:
        """½E‖y − Wx‖², exactly."""
        return 0.5 * float(np.sum(np.square(error @ self.root)))

    def descend(self, scheme: str, codec: Codec, step: float, stop: bool) -> Descent:
        """SGD with coded gradients until the target (if `stop`), divergence or the last iteration."""
        error, at_start, losses, sizes = self.start, self.loss(self.start), [], []
        for i in range(self.iterations):
            gradient = self.gradient(error, i).astype(np.float32).ravel()
            key = SEED.fold(round=i, sensor=self.run, purpose=Purpose.GRADIENT)
            decoded, size, _ = through(codec, gradient, SPEC, key)
            error = error - step * decoded.reshape(error.shape)
            losses.append(self.loss(error) / at_start)
            sizes.append(size)
            if losses[-1] > DIVERGED or (stop and losses[-1] <= TARGET):
                break
        return Descent(scheme, step, self.run, np.array(losses), float(np.mean(sizes)))


def schemes() -> dict[str, Codec]:
    """Each with about the gain of 21, but for the first and the one with 40 % fewer bits."""
    budget = math.floor(4 * SPEC.size / GAIN)
    problem = Regression(0, ALONG + 1)
    error = problem.start
    for i in range(ALONG):
        error = error - QSGD_STEP * problem.gradient(error, i)
    sparse = matching(problem.gradient(error, ALONG).astype(np.float32).ravel(), budget, SEED)
    return {
        "no quantization": BASELINE,
        "QSGD": QSGD(levels=1),
        "Sparse-SGD": sparse,
        "QCS": QCS(order="auto", gain=GAIN),
        "QCS, fewer bits": QCS(order="auto", gain=GAIN / 0.6),
        "Sparse-SGD, plainly coded": Sparse(density=8 * budget / (32 + math.log2(SPEC.size)) / SPEC.size),
        "QSGD, entropy-coded": QSGD(levels=31, norm="l2", entropy=True),
    }


def descend(codecs: Mapping[str, Codec], size: Size, say: Callable[[str], None]) -> list[Descent]:
    """Every scheme and step size on each regression; only those of `CURVES` go on beyond the target."""
    found = []
    for n in range(size.runs):
        problem = Regression(n, size.iterations)
        for scheme, codec in codecs.items():
            for step in size.steps:
                found.append(problem.descend(scheme, codec, step, stop=step not in CURVES))
        say(f"regression {n + 1} of {size.runs}")
    return found
