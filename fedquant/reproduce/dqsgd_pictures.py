"""Figures 1 and 2 of DQSGD, as measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fedquant.engines.run import Row
from fedquant.reproduce import report
from fedquant.reproduce.dqsgd_runs import RATES, SCHEMES, SHOWN, Setting, measured

COLOURS: Final = {
    "Vanilla SGD": "black",
    "SignSGD": "tab:brown",
    "TernGrad": "tab:green",
    "QSGD (2 bits)": "moccasin",
    "QSGD (4 bits)": "tab:orange",
    "QSGD (6 bits)": "tab:red",
    "Adaptive": "tab:pink",
    "AdaQS": "tab:purple",
    "DQSGD": "tab:blue",
}


def figure1(path: Path, setting: Setting) -> None:
    """Accuracy, loss, bits by iteration and bytes so far; means over seeds. Writes path.svg and path.png."""
    figure, axes = report.panels(4)
    for scheme, colour in COLOURS.items():
        if scheme not in setting.runs:
            continue
        runs = setting.runs[scheme]
        evaluated = [row["round"] for row in runs[0] if "test_loss" in row]
        rounds = [row["round"] for row in runs[0]]
        per = setting.numbers * setting.scenario.sensors / 8  # bytes of a bit each
        curves = (
            (evaluated, [100 * v for v in _mean(runs, "test_accuracy")]),
            (evaluated, _mean(runs, "test_loss")),
            (rounds, [v / per for v in _mean(runs, "uplink_bytes")]),
            (rounds, [v / 1e6 for v in _mean(runs, "uplink_total")]),
        )
        width = 2.2 if scheme == "DQSGD" else 1.2
        for panel, (x, y) in zip(axes, curves, strict=True):
            panel.plot(x, y, color=colour, label=scheme, linewidth=width)
    for panel in axes[2:]:
        panel.set_yscale("log", base=2)
    names = (
        (f"{setting.label}: test accuracy", "test accuracy, %"),
        ("test loss", "test loss, nat"),
        ("bits of an iteration", "payload bits a number"),
        ("communication", "uplink of all workers, MB"),
    )
    for panel, (title, label) in zip(axes, names, strict=True):
        report.finish(panel, title, "iteration", label)
    report.save(figure, path)


def figure2(path: Path, settings: Sequence[Setting]) -> None:
    """Accuracy against compression ratio, one panel a task. Writes path.svg and path.png."""
    figure, axes = report.panels(len(settings))
    for panel, setting in zip(axes, settings, strict=True):
        for family, colour in (("QSGD", "tab:red"), ("DQSGD", "tab:blue")):
            own = sorted(
                (setting.ratio(s), *_spread(setting.accuracies(s)))
                for s in setting.runs
                if s.startswith(family)
            )
            ratios, means, errors = zip(*own, strict=True)
            panel.errorbar(ratios, means, errors, fmt="o-", color=colour, capsize=2, label=family)
        for scheme in ("Vanilla SGD", "Adaptive", "AdaQS"):
            panel.plot(
                setting.ratio(scheme), setting.accuracy(scheme), "s", color=COLOURS[scheme], label=scheme
            )
        panel.set_xscale("log", base=2)
        report.finish(panel, setting.label, "compression ratio", "test accuracy, %")
    report.save(figure, path)


def order(setting: Setting) -> list[str]:
    """The table's schemes, then those of more rates."""
    return [*SCHEMES, *(RATES if setting.label == SHOWN else ())]


def _mean(runs: Sequence[Sequence[Row]], key: str) -> list[float]:
    columns: Any = zip(*(measured(rows, key) for rows in runs), strict=True)
    return [statistics.fmean(column) for column in columns]


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard error (0 for one value)."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return statistics.fmean(values), error
