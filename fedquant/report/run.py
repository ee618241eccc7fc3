"""What a run says while it runs and when it has ended."""

from __future__ import annotations

from rich.table import Table

from fedquant.engines.run import Result, Row


def said(row: Row) -> str:
    """A round in a few words; nothing for one that was not evaluated."""
    sent = f"round {row['round']}, uplink {size(row['uplink_total'])}"
    if "relative_error" in row:
        return f"{sent}, relative error {row['relative_error']:.1e}"
    return f"{sent}, accuracy {row['test_accuracy']:.1%}" if "test_accuracy" in row else ""


def table(result: Result, title: str) -> Table:
    """About ten rounds of a run, and the last: accuracies, or errors where it descended."""
    descent = "relative_error" in result.rounds[-1]
    last = ("range",) if descent else ("samples sent",)
    what = "relative error" if descent else "accuracy"
    out = Table("round", what, "uplink", "downlink", *last, title=title, caption=_ending(result.rounds[-1]))
    measured = [row for row in result.rounds if descent or "test_accuracy" in row]
    step = max(1, len(measured) // 10)
    for row in [*measured[:-1:step], measured[-1]]:
        sent = sum(r["samples"] for r in result.rounds[: row["round"]])
        quality = f"{row['relative_error']:.2e}" if descent else f"{row['test_accuracy']:.1%}"
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


def _range(r: float | None) -> str:
    return "–" if r is None else f"{r:.2e}"


def _ending(row: Row) -> str | None:
    if "relative_error" not in row:
        return None
    if row["diverged"]:
        return "diverged: give the codec more bits, or quantize differentially"
    if row["finished"]:
        rate = row["relative_error"] ** (1 / row["iteration"])
        return f"down to float64's floor in {row['iteration']} iterations, rate {rate:.4f}"
    return f"not at float64's floor after {row['iteration']} iterations"
