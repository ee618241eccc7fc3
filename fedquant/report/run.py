"""What a run says while it runs and when it has ended."""

from __future__ import annotations

from rich.table import Table

from fedquant.engines.run import Result, Row
from fedquant.ledger import SCENARIO
from fedquant.scenario import load


def said(row: Row) -> str:
    """A round in a few words; nothing for one that was not evaluated."""
    sent = f"round {row['round']}, uplink {size(row['uplink_total'])}"
    what, quality = _quality(row, digits=1)
    return f"{sent}, {what} {quality}" if what else ""


def table(result: Result, title: str) -> Table:
    """About ten rounds of a run, and the last: accuracies, errors of a descent, losses of a regression."""
    descent = "relative_error" in result.rounds[-1]
    last = ("range",) if descent else ("samples sent",)
    what, _ = _quality(result.rounds[-1])
    out = Table("round", what, "uplink", "downlink", *last, title=title, caption=_ending(result))
    measured = [row for row in result.rounds if _quality(row)[0]]
    step = max(1, len(measured) // 10)
    for row in [*measured[:-1:step], measured[-1]]:
        sent = sum(r["samples"] for r in result.rounds[: row["round"]])
        _, quality = _quality(row)
        end = _range(row["range"]) if descent else str(sent)
        out.add_row(str(row["round"]), quality, size(row["uplink_total"]), size(row["downlink_total"]), end)
    return out


def size(n: int) -> str:
    """Bytes as people read them (decimal units)."""
    value, unit = float(n), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{n} B" if unit == "B" else f"{value:.3g} {unit}"


def _quality(row: Row, digits: int = 2) -> tuple[str, str]:
    """(what a round tells of the model, its value); two empty texts where it was not evaluated."""
    if "relative_error" in row:
        return "relative error", f"{row['relative_error']:.{digits}e}"
    if "test_accuracy" in row:
        return "accuracy", f"{row['test_accuracy']:.1%}"
    return ("test loss", f"{row['test_loss']:.4g}") if "test_loss" in row else ("", "")


def _range(r: float | None) -> str:
    return "–" if r is None else f"{r:.2e}"


def _ending(result: Result) -> str | None:
    row = result.rounds[-1]
    if "relative_error" not in row:
        return None
    if row["diverged"]:
        scenario = load(result.folder / SCENARIO)
        naive = getattr(scenario.uplink, "method", "").startswith("nq-") and scenario.sensors == 1
        return "diverged: give the codec more bits" + (", or quantize differentially" if naive else "")
    if row["finished"]:
        rate = row["relative_error"] ** (1 / row["iteration"])
        return f"down to float64's floor in {row['iteration']} iterations, rate {rate:.4f}"
    return f"not at float64's floor after {row['iteration']} iterations"
