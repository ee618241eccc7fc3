"""How the experiments write what they found: pictures, tables, numbers, and whether claims hold."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedquant.report.pyplot import pyplot


class Claim(NamedTuple):
    """What the paper says, what was measured and whether that holds (None: it cannot be told)."""

    text: str
    measured: str
    holds: bool | None


def panels(count: int) -> tuple[Any, Sequence[Any]]:
    """A figure and its axes, up to four side by side. Raises ConfigError without matplotlib."""
    rows = -(-count // 4)
    columns = -(-count // rows)
    figure, axes = pyplot().subplots(
        rows, columns, figsize=(5.5 * columns, 4.2 * rows), layout="constrained", squeeze=False
    )
    for unused in axes.flat[count:]:
        unused.set_axis_off()
    return figure, axes.flat[:count]


def finish(axes: Any, title: str, x: str, y: str) -> None:
    """Names the axes, with a grid and a legend."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def save(figure: Any, path: Path) -> None:
    """Writes path.svg and path.png; the same picture gives the same SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".svg", ".png"):
        target = path.with_name(path.name + suffix)
        figure.savefig(target, dpi=110, metadata={"Date": None} if suffix == ".svg" else None)
    pyplot().close(figure)


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """One line a row, numbers to six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        for row in rows:
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of Markdown; the first column to the left."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def write(path: Path, title: str, *blocks: str | Sequence[str]) -> Path:
    """A Markdown file: the title, then blocks (a text, or lines) between blank lines. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [block.strip() if isinstance(block, str) else "\n".join(block) for block in blocks]
    path.write_text("\n\n".join([f"# {title}", *texts]) + "\n", encoding="utf-8")
    return path


def verdicts(claims: Iterable[Claim]) -> list[str]:
    """Each claim beside its measurement, and whether it holds."""
    rows = [(c.text, c.measured, _verdict(c.holds)) for c in claims]
    return ["| the paper | measured | |", "| --- | --- | --- |", *("| " + " | ".join(r) + " |" for r in rows)]


def _verdict(holds: bool | None) -> str:
    if holds is None:
        return "**cannot be told**"
    return "holds" if holds else "**does not hold**"
