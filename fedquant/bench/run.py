"""One run of the benchmark: measures, then writes results.json, results.md, rate.svg and rate.png."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fedquant import machine
from fedquant.bench import codecs, coding, distortion, kernels, plot, report, small, vectors
from fedquant.bench.peers import peers
from fedquant.bench.results import Results
from fedquant.bench.tensor import SEED, SIZE, layered_normal
from fedquant.folder import writable

Progress = Callable[[str], None]

PIXELS: Final = 784


@dataclass(frozen=True)
class Effort:
    """numbers of a vector, samples of a batch, rounds of training (0: no gradients), seconds a timing."""

    numbers: int
    samples: int
    rounds: int
    budget: float


FULL: Final = Effort(SIZE, 10_000, 20, 0.15)
QUICK: Final = Effort(1_500_000, 2_000, 5, 0.03)


def run(
    out: Path, quick: bool = False, progress: Progress = lambda said: None, effort: Effort | None = None
) -> Results:
    """Measures everything and writes the report to the folder `out`.

    progress is told what comes next. Raises ConfigError where matplotlib is missing, or `out` not writable.
    """
    writable(out, "--out")
    begun, load = time.perf_counter(), machine.load()
    effort = effort or (QUICK if quick else FULL)
    x, spec = layered_normal(effort.numbers)
    missing: dict[str, str] = {}

    kernel_rows = kernels.measure(x, effort.budget, progress)
    coding_rows, absent = coding.measure(x, spec, effort.budget, progress)
    missing |= absent
    codec_rows, refused = codecs.measure(x, spec, effort.budget, progress)
    missing |= refused
    samples = np.random.default_rng(SEED).standard_normal((effort.samples, PIXELS), dtype=np.float32)
    data_rows = codecs.measure_data(samples, effort.budget, progress)
    small_rows = small.measure(effort.budget, progress)

    others, absent = peers()
    missing |= absent
    if quick:
        missing |= {peer.name: "slow, left out with --quick" for peer in others if peer.slow}
        others = [peer for peer in others if not peer.slow]
    gradients, absent = vectors.gradients(effort.rounds) if effort.rounds else ([], {})
    missing |= absent
    comparisons = [
        distortion.compare_schemes(each, others, progress)
        for each in (vectors.tensor(effort.numbers), *gradients)
    ]

    results = Results(
        machine.describe(load),
        f"fedquant bench{' --quick' if quick else ''}",
        time.perf_counter() - begun,
        effort.numbers,
        kernel_rows,
        coding_rows,
        codec_rows,
        data_rows,
        small_rows,
        comparisons,
        missing,
    )
    (out / "results.json").write_text(report.to_json(results), encoding="utf-8")
    (out / "results.md").write_text(report.markdown(results, "rate.svg"), encoding="utf-8")
    plot.pictures(out, comparisons)
    return results
