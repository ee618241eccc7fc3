"""Figure 2 of the QCS paper: the step sizes with which SGD learns a linear regression, and how fast."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedquant.reproduce import report
from fedquant.reproduce.qcs_regression_runs import (
    BATCH,
    CURVES,
    FULL,
    INPUTS,
    OUTPUTS,
    QCS_STEP,
    QSGD_STEP,
    QUICK,
    SEED,
    SPEC,
    TARGET,
    Descent,
    Size,
    descend,
    schemes,
)
from fedquant.reproduce.qcs_schemes import PAPER
from fedquant.reproduce.report import Claim

FAR: Final = 1e-6  # of the loss at the start, as TARGET
COLOURS: Final = {
    "no quantization": "black",
    "QSGD": "tab:orange",
    "Sparse-SGD": "tab:green",
    "QCS": "tab:blue",
    "QCS, fewer bits": "tab:cyan",
    "Sparse-SGD, plainly coded": "tab:olive",
    "QSGD, entropy-coded": "tab:red",
}


def run(out: Path, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Path:
    """Writes qcs-fig2.{svg,png,csv,md} into the folder `out`; returns the Markdown file.

    Raises ConfigError without matplotlib.
    """
    figure, axes = report.panels(1 + len(CURVES))  # before minutes of work
    size, codecs = QUICK if quick else FULL, schemes()
    found = descend(codecs, size, say)
    for scheme in codecs:
        shares = [_share(found, scheme, step) for step in size.steps]
        axes[0].plot(size.steps, shares, ".-", color=COLOURS[scheme], label=scheme)
        for panel, step in zip(axes[1:], CURVES, strict=True):
            _curve(panel, scheme, _of(found, scheme, step))
    report.finish(axes[0], "SGD that converges", "step size μ", "% of the runs")
    for panel, step in zip(axes[1:], CURVES, strict=True):
        panel.set_yscale("log")
        panel.set_ylim(1e-9, 1e2)
        report.finish(panel, f"step size {step:g}", "iteration", "loss, relative to the start")
    report.save(figure, out / "qcs-fig2")
    head = ["scheme", "step", "run", "payload_bytes", "iterations", "loss", "to_target"]
    rows = [(d.scheme, d.step, d.run, d.payload, len(d.loss), float(d.loss[-1]), d.arrival()) for d in found]
    report.write_csv(out / "qcs-fig2.csv", head, rows)
    return _markdown(out / "qcs-fig2.md", found, size)


def claims(found: list[Descent]) -> list[Claim]:
    """What the paper says about Fig. 2, as measured."""
    reach = {scheme: _reach(found, scheme) for scheme in COLOURS}
    shown = ", ".join(f"{scheme} {reach[scheme]:g}" for scheme in list(COLOURS)[:4])
    speeds = [
        (target, _arrival(found, "QCS", QCS_STEP, target), _arrival(found, "QSGD", QSGD_STEP, target))
        for target in (TARGET, FAR)
    ]
    quickest = {scheme: min(_arrival(found, scheme, s) for s in _steps(found)) for scheme in COLOURS}
    few = quickest["QCS, fewer bits"]
    return [
        Claim(
            "compression narrows the range of step sizes",
            f"≥ 95 % converge up to μ = {shown}",
            all(reach[s] < reach["no quantization"] for s in ("QSGD", "Sparse-SGD", "QCS")),
        ),
        *(
            Claim(
                f"QCS widens it significantly against {other}",
                f"{reach['QCS']:g} against {reach[other]:g} (×1.25)",
                reach["QCS"] >= 1.25 * reach[other],
            )
            for other in ("QSGD", "Sparse-SGD", "Sparse-SGD, plainly coded")
        ),
        Claim(
            "QCS at μ = 0.10 converges in half the iterations of QSGD at μ = 0.05",
            "; ".join(f"{fast:g} against {slow:g} to {target:g}" for target, fast, slow in speeds)
            + " (at most 0.6 of them)",
            all(fast <= 0.6 * slow for _, fast, slow in speeds),
        ),
        Claim(
            "QCS is the best of the compressed at its best step size",
            f"{quickest['QCS']:g} iterations; QSGD {quickest['QSGD']:g}, "
            f"Sparse-SGD {quickest['Sparse-SGD']:g}",
            quickest["QCS"] < min(quickest["QSGD"], quickest["Sparse-SGD"]),
        ),
        Claim(
            "with 40 % fewer bits QCS still does no worse than QSGD at its best step size",
            f"{few:g} against {quickest['QSGD']:g} iterations (×1.1)",
            few <= 1.1 * quickest["QSGD"],
        ),
    ]


def _markdown(path: Path, found: list[Descent], size: Size) -> Path:
    settings = f"""
y = W*x without noise, x ~ N(0, R), n = {INPUTS}, m = {OUTPUTS}, eigenvalues of R even in [1, 4], batches of
{BATCH}, one worker; {size.runs} regressions (seed {SEED.seed}), {len(size.steps)} step sizes,
{size.iterations} iterations at most. A run converges when its loss falls to {TARGET:g} of that at the
start; iterations are medians over the runs. Gradients travel as real payloads, header and scales counted.
QSGD is ternary with one scale, the largest magnitude. Sparse-SGD sends one magnitude for all it keeps by
chance and the fewest bits that say which these are. Not in the paper: Sparse-SGD that keeps only as many as
32 bits and an index each would allow in these bytes (“plainly coded”; its real payloads are smaller), and
QSGD with 31 levels of the ℓ₂ norm in their entropy.

Command: `fedquant reproduce qcs-fig2{" --quick" if size is QUICK else ""}`
"""
    rows = []
    for scheme in COLOURS:
        own = _of(found, scheme, QSGD_STEP)
        payload = float(np.mean([d.payload for d in own]))
        best = min(_steps(found), key=lambda s: _arrival(found, scheme, s))
        rows.append(
            (
                scheme,
                f"{payload:.0f}",
                f"{4 * SPEC.size / payload:.1f}",
                f"{_reach(found, scheme):g}",
                *(f"{_arrival(found, scheme, s):g}" for s in CURVES),
                f"{_arrival(found, scheme, best):g} (μ = {best:g})",
            )
        )
    head = [
        "scheme",
        "payload, B",
        "gain",
        "≥ 95 % converge up to μ",
        *(f"iterations, μ = {s:g}" for s in CURVES),
    ]
    return report.write(
        path,
        "QCS, Figure 2: linear regression",
        PAPER,
        settings,
        report.verdicts(claims(found)),
        report.table([*head, "iterations, best μ"], rows),
        ["![Figure 2](qcs-fig2.svg)"],
    )


def _of(found: list[Descent], scheme: str, step: float) -> list[Descent]:
    return [d for d in found if d.scheme == scheme and d.step == step]


def _steps(found: list[Descent]) -> list[float]:
    return sorted({d.step for d in found})


def _share(found: list[Descent], scheme: str, step: float) -> float:
    own = _of(found, scheme, step)
    return 100 * sum(math.isfinite(d.arrival()) for d in own) / len(own)


def _reach(found: list[Descent], scheme: str) -> float:
    """The largest step size up to which 95 % of the runs converge, beyond the first that does; 0 if none."""
    good = 0.0
    for step in _steps(found):
        if _share(found, scheme, step) >= 95:
            good = step
        elif good:
            break
    return good


def _arrival(found: list[Descent], scheme: str, step: float, target: float = TARGET) -> float:
    """Median iterations to the target."""
    return float(np.median([d.arrival(target) for d in _of(found, scheme, step)]))


def _curve(panel: Any, scheme: str, own: list[Descent]) -> None:
    """Mean and ±1.5 standard deviations of the logarithm, while all runs last."""
    last = min(len(d.loss) for d in own)
    logs = np.log10([np.maximum(d.loss[:last], 1e-30) for d in own])
    mean, spread = logs.mean(axis=0), 1.5 * logs.std(axis=0)
    x = np.arange(1, last + 1)
    panel.plot(x, 10**mean, color=COLOURS[scheme], label=scheme, linewidth=1.4)
    panel.fill_between(x, 10 ** (mean - spread), 10 ** (mean + spread), color=COLOURS[scheme], alpha=0.15)
