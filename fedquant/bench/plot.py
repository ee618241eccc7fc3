"""The picture: bits against error, ours and peers, and the bound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fedquant.bench.distortion import OURS, Comparison, RateRow
from fedquant.report.pyplot import pyplot

ERRORS: Final = (1e-5, 3.0)  # NMSE shown
RATES: Final = (0.05, 40.0)  # bit/element shown
_FRAMED: Final = "ecq"  # what is made to be near the bound
_PEERS: Final = {"bitsandbytes": "X", "hivemind": "P", "OpenFL": "*"}


def pictures(folder: Path, comparisons: Sequence[Comparison]) -> None:
    """Writes rate.svg and rate.png, a panel a set of vectors. Raises ConfigError without matplotlib."""
    plt = pyplot()
    figure, row = plt.subplots(
        1, len(comparisons), figsize=(1 + 4.8 * len(comparisons), 5.6), layout="constrained", squeeze=False,
        sharey=True,
    )  # fmt: skip
    colours = [plt.get_cmap("tab20")(i) for i in range(20)]
    names = list(dict.fromkeys(_family(r) for c in comparisons for r in c.rows if r.library == OURS))
    for axes, found in zip(row[0], comparisons, strict=True):
        _panel(axes, found, {name: colours[i % len(colours)] for i, name in enumerate(names)})
    row[0][0].set_ylabel("bit/element, every byte counted")
    shown = {
        label: handle
        for axes in row[0]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), fontsize=8, loc="outside lower center", ncols=7)
    for name, metadata in (("rate.svg", {"Date": None}), ("rate.png", None)):
        figure.savefig(folder / name, metadata=metadata, dpi=110)
    plt.close(figure)


def _family(row: RateRow) -> str:
    return row.name.split()[0]


def _panel(axes: Any, found: Comparison, colours: dict[str, Any]) -> None:
    axes.plot(
        *zip(*found.bound, strict=True), color="0.6", linewidth=1.2, label="bound of uniform quantizers"
    )
    rows = [
        r for r in found.rows if ERRORS[0] <= r.nmse <= ERRORS[1] and RATES[0] <= r.bits <= RATES[1]
    ]  # the rest would be in the legend only
    for name, colour in colours.items():
        own = [row for row in rows if row.library == OURS and _family(row) == name]
        edge, size = ("black", 7) if name == _FRAMED else ("none", 5)
        _dots(axes, own, "o", name, color=colour, markersize=size, markeredgecolor=edge)
    for library, marker in _PEERS.items():
        theirs = [row for row in rows if row.library == library]
        _dots(axes, theirs, marker, library, color="black", markersize=9)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.set_xlim(*ERRORS)
    axes.set_ylim(*RATES)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("NMSE")
    axes.set_title(found.vectors, fontsize=10)
    axes.grid(alpha=0.3)


def _dots(axes: Any, rows: Sequence[RateRow], marker: str, label: str, **style: Any) -> None:
    if rows:
        axes.plot([r.nmse for r in rows], [r.bits for r in rows], marker, label=label, linestyle="", **style)
