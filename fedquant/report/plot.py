"""Pictures of a study."""

from __future__ import annotations

from pathlib import Path

from fedquant.report.pyplot import pyplot
from fedquant.report.table import Runs, curve


def accuracy_against_bytes(path: Path, results: Runs, title: str) -> None:
    """Mean test accuracy against mean cumulative uplink, one line a scheme; SVG or PNG by the suffix.

    Raises ConfigError where matplotlib is missing.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for scheme, runs in results.items():
        mean = curve(runs)
        axes.plot(mean.uplink, [100 * a for a in mean.accuracy], label=scheme, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_xlabel("uplink payload of all sensors, bytes")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(title)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
