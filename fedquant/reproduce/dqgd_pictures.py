"""Pictures of `dqgd`: measured rates as circles, what theory promises as lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedquant.differential import rates
from fedquant.differential.methods import METHODS
from fedquant.differential.sweep import Point
from fedquant.reproduce import report
from fedquant.reproduce.dqgd_bits import CODECS, Size

STYLES: Final = {
    "gd": ("black", "GD, unquantized"),
    "nq-gd": ("tab:orange", "NQ-GD"),
    "dq-gd": ("tab:blue", "DQ-GD"),
    "agd": ("tab:olive", "AGD, unquantized"),
    "dq-agd": ("tab:green", "DQ-AGD"),
    "hb": ("tab:pink", "HB, unquantized"),
    "dq-hb": ("tab:red", "DQ-HB"),
}
"""Colour and label of each method."""
_LABELS: Final = ("R, bit/coordinate", "rate of convergence, clipped at 1")


def rates_against_bits(path: Path, panels: Sequence[tuple[str, int, float, Sequence[Point]]]) -> None:
    """One panel a (title, n, κ, points): mean rates, 5–95 % of the instances, and the theory for √n·2^−R.

    Writes path.svg and path.png.
    """
    figure, row = report.panels(len(panels))
    for axes, (title, n, kappa, points) in zip(row, panels, strict=True):
        methods = list(dict.fromkeys(p.method for p in points))
        ends = [p.bits for p in points if p.quantizer]
        grid = np.linspace(min(ends), max(ends), 400)
        for name in methods:
            own, (colour, label) = [p for p in points if p.method == name], STYLES[name]
            promise = [min(1, rates.promised(name, kappa, math.sqrt(n) * 2.0**-bits)) for bits in grid]
            exact = METHODS[name][1] == "exact"
            axes.plot(grid, promise, color=colour, linewidth=1, linestyle="--" if exact else "-")
            marks = [(bits, p) for p in own for bits in (sorted(set(ends)) if exact else [p.bits])]
            _circles(axes, marks, colour, label)
            if METHODS[name][1] == "differential" and METHODS[name][0] != "none":
                for q in (rates.lossless(name, kappa), rates.linear(name, kappa)):
                    axes.axvline(rates.cube_bits(n, q), color=colour, linewidth=0.8, linestyle=":")
        if "dq-gd" in methods:
            axes.plot(grid, [rates.converse(kappa, b) for b in grid], "k:", linewidth=1, label="converse")
        report.finish(axes, title, *_LABELS)
    report.save(figure, path)


def cube_against_ball(path: Path, panels: Sequence[tuple[str, int, float, Sequence[Point]]]) -> None:
    """One panel a (title, n, κ, points): DQ-GD with both quantizers. Writes path.svg and path.png."""
    figure, row = report.panels(len(panels))
    for axes, (title, _, kappa, points) in zip(row, panels, strict=True):
        for kind, colour in (("cube", "tab:blue"), ("ball", "tab:purple")):
            own = [p for p in points if p.quantizer == kind]
            axes.plot([p.bits for p in own], [min(1, p.promised) for p in own], color=colour, linewidth=1)
            _circles(axes, [(p.bits, p) for p in own], colour, f"DQ-GD, {kind}")
        ends = [p.bits for p in points if p.quantizer]
        grid = np.linspace(min(ends), max(ends), 400)
        axes.plot(grid, [rates.converse(kappa, bits) for bits in grid], "k:", linewidth=1, label="converse")
        report.finish(axes, title, *_LABELS)
    report.save(figure, path)


def bits_sent(path: Path, panels: Sequence[tuple[str, Sequence[Size]]]) -> None:
    """One panel a (title, sizes of DQ-GD's runs): measured bits against the R at which the cube has that q.

    Writes path.svg and path.png.
    """
    figure, row = report.panels(len(panels))
    for axes, (title, sizes) in zip(row, panels, strict=True):
        for name, colour in zip(CODECS, ("tab:blue", "tab:green", "tab:purple"), strict=True):
            own = sorted((s for s in sizes if s.codec == name and s.converged == 1), key=lambda s: -s.q)
            x = [rates.cube_bits(s.n, s.q) for s in own]
            axes.plot(x, [s.body for s in own], "o-", color=colour, markersize=4, linewidth=1, label=name)
            axes.plot(x, [s.payload for s in own], ":", color=colour, linewidth=1)
        x_label = "log2(√n/q): the R of `uniform` for this q; dotted: with the header"
        report.finish(axes, title, x_label, "bit/coordinate, measured")
    report.save(figure, path)


def _circles(axes: Any, marks: Sequence[tuple[float, Point]], colour: str, label: str) -> None:
    x, y = [bits for bits, _ in marks], [p.rate for _, p in marks]
    spread = [[p.rate - p.low for _, p in marks], [p.high - p.rate for _, p in marks]]
    # A skewed distribution may have its mean outside the quantiles.
    axes.errorbar(
        x,
        y,
        np.maximum(spread, 0),
        fmt="o",
        markersize=4,
        markerfacecolor="none",
        color=colour,
        linewidth=0.7,
        label=label,
    )
