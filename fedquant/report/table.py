"""The table of a study: accuracy against real bytes."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedquant.engines.run import Row
from fedquant.report.distortion import Distortion

Runs = Mapping[str, Sequence[Sequence[Row]]]


@dataclass(frozen=True)
class Line:
    """One scheme: means over its runs. Bytes are of whole runs, and `at_target` of the uplink."""

    scheme: str
    accuracy: float
    spread: float
    uplink: float
    downlink: float
    at_target: float


@dataclass(frozen=True)
class Curve:
    """Means over a scheme's runs at each evaluated round."""

    uplink: tuple[float, ...]
    accuracy: tuple[float, ...]


def curve(runs: Sequence[Sequence[Row]]) -> Curve:
    """The mean accuracy of runs against their mean uplink so far."""
    measured = [[row for row in rounds if "test_accuracy" in row] for rounds in runs]
    points = list(zip(*measured, strict=True))
    return Curve(
        tuple(statistics.fmean(row["uplink_total"] for row in point) for point in points),
        tuple(statistics.fmean(row["test_accuracy"] for row in point) for point in points),
    )


def common_target(results: Runs) -> float:
    """The highest whole percent that every scheme's mean accuracy reaches."""
    least = min(max(curve(runs).accuracy) for runs in results.values())
    percent = math.floor(100 * least)
    return percent / 100 if percent / 100 <= least else (percent - 1) / 100  # 100·least was rounded up


def summarise(results: Runs) -> tuple[float, list[Line]]:
    """(target accuracy, one line a scheme). The spread is the standard deviation over runs."""
    target, lines = common_target(results), []
    for scheme, runs in results.items():
        last = [rounds[-1] for rounds in runs]
        final = [row["test_accuracy"] for row in last]
        mean = curve(runs)
        reached = next(u for u, a in zip(mean.uplink, mean.accuracy, strict=True) if a >= target)
        lines.append(
            Line(
                scheme,
                statistics.fmean(final),
                statistics.stdev(final) if len(final) > 1 else 0.0,
                statistics.fmean(row["uplink_total"] for row in last),
                statistics.fmean(row["downlink_total"] for row in last),
                reached,
            )
        )
    return target, lines


def markdown(target: float, lines: Sequence[Line]) -> str:
    """The table in Markdown; bytes in MB (10⁶)."""
    head = ["scheme", "accuracy, %", "uplink, MB", "downlink, MB", f"uplink to {target:.0%}, MB"]
    rows = [
        [
            line.scheme,
            percent(line),
            megabytes(line.uplink),
            megabytes(line.downlink),
            megabytes(line.at_target),
        ]
        for line in lines
    ]
    return _table(head, rows)


def codec_markdown(lines: Sequence[Line], distortions: Mapping[str, Distortion]) -> str:
    """The table of codecs in Markdown; ratios are to the first scheme's payloads."""
    head = ["codec", "accuracy, %", "payload, B", "ratio", "bit/coordinate", "NMSE"]
    first = distortions[lines[0].scheme].payload_bytes
    rows = [
        [
            line.scheme,
            percent(line),
            f"{found.payload_bytes:,.0f}",
            f"{first / found.payload_bytes:.3g}",
            f"{found.rate:.3g}",
            f"{found.nmse:.2g}",
        ]
        for line in lines
        for found in [distortions[line.scheme]]
    ]
    return _table(head, rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    table = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n"


def percent(line: Line) -> str:
    """Accuracy, and its spread where there is one."""
    return f"{100 * line.accuracy:.1f}" + (f" ± {100 * line.spread:.1f}" if line.spread else "")


def megabytes(n: float) -> str:
    """Three significant digits, in MB."""
    value = n / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_csv(path: Path, results: Runs) -> None:
    """Every evaluated round of every run."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(
            ["scheme", "run", "round", "test_accuracy", "test_loss", "uplink_bytes", "downlink_bytes"]
        )
        for scheme, runs in results.items():
            for n, rounds in enumerate(runs):
                for row in rounds:
                    if "test_accuracy" in row:
                        values = (row["test_accuracy"], row["test_loss"])
                        shown = [f"{v:.6g}" for v in values]
                        out.writerow(
                            [scheme, n, row["round"], *shown, row["uplink_total"], row["downlink_total"]]
                        )
