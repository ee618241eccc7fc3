"""Figure 4 of DaQuSGD at sizes that run on a laptop: accuracy against uplink bits, and the gain by h/d.

Command: `fedquant reproduce daqusgd-fig4`. Writes two pictures (SVG, PNG), evaluated rounds (CSV) and what
holds (Markdown).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from fedquant.report.table import curve, percent
from fedquant.reproduce import report
from fedquant.reproduce.daqusgd_runs import SCHEMES, SEEDS, SELECTED, Comparison, train
from fedquant.reproduce.report import Claim

PAPER: Final = "Hanna, Ezzeldin, Fragouli, Diggavi, “Quantization of Distributed Data for Learning” (2021)."
COLOURS: Final = dict(zip(SCHEMES, ("tab:blue", "tab:cyan", "tab:orange", "tab:red", "black"), strict=True))
KEPT: Final = 0.5
"""Points of accuracy below which a difference counts as none; the paper's own are 0.3 to 0.8."""
GAINS: Final = {"QTopK (10 %)": 14, "QSGD (4 bits)": 300}
"""The paper's, for CIFAR-10 and ResNet-18 (h/d = 3,637)."""


def run(
    out: Path,
    quick: bool = False,
    say: Callable[[str], None] = lambda _: None,
    runs: Path = Path("runs"),
    processes: int = 2,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Writes daqusgd-fig4.{md,csv,svg,png} and daqusgd-gain.{svg,png}; returns the Markdown.

    runs: a folder that keeps finished runs; begun again, the command goes on where it was ended.
    changes: to every scenario, by path. Raises ConfigError without matplotlib, DataError without the data.
    """
    folder = runs / f"daqusgd-fig4{'-quick' if quick else ''}"
    found = train(quick, folder, processes, say, changes or {})
    _curves(out / "daqusgd-fig4", found)
    _gains(out / "daqusgd-gain", found)
    head = ["setup", "scheme", "seed", "round", "test_accuracy", "test_loss", "uplink_bits"]
    report.write_csv(out / "daqusgd-fig4.csv", head, _rows(found))
    return _markdown(out / "daqusgd-fig4.md", found, quick)


# ---- what the paper claims


def claims(found: Comparison) -> list[Claim]:
    """The paper's claims about Figure 4, as measured on one model."""
    own = found.lines[SELECTED].accuracy
    lost = {s: 100 * (own - found.lines[s].accuracy) for s in GAINS}
    saved = found.gain("DataQ")
    return [
        *(
            Claim(
                f"DataQ + selection reaches the same accuracy with {times} times fewer bits than {scheme}",
                f"{_three(found.gain(scheme))} times fewer to {found.target:.0%}",
                found.gain(scheme) >= times,
            )
            for scheme, times in GAINS.items()
        ),
        Claim("selection saves bits", f"{saved:.3g} times fewer than DataQ alone", saved > 1),
        Claim(
            "and its final accuracy is that of the gradient schemes",
            ", ".join(f"{d:+.2f} points against {s}" for s, d in lost.items()) + f" ({KEPT:g} points)",
            min(lost.values()) >= -KEPT,
        ),
    ]


def growth(found: Sequence[Comparison]) -> list[Claim]:
    """Whether the gain grows with h/d, over models of one data set."""
    claimed = []
    for data, group in _by_data(found).items():
        if len(group) < 2:
            continue
        for scheme in GAINS:
            gains = [c.gain(scheme) for c in group]
            told = ", ".join(f"{_three(g)} at {c.ratio:,.0f}" for g, c in zip(gains, group, strict=True))
            text = f"the gain over {scheme} grows with h/d ({data})"
            claimed.append(Claim(text, told, all(a < b for a, b in pairwise(gains))))
    return claimed


def _by_data(found: Iterable[Comparison]) -> dict[str, list[Comparison]]:
    groups: dict[str, list[Comparison]] = {}
    for comparison in sorted(found, key=lambda c: c.ratio):
        groups.setdefault(comparison.label.partition(",")[0], []).append(comparison)
    return groups


# ---- pictures and numbers


def _curves(path: Path, found: Sequence[Comparison]) -> None:
    figure, axes = report.panels(len(found))
    for panel, comparison in zip(axes, found, strict=True):
        for scheme, runs in comparison.runs.items():
            mean = curve(runs)
            panel.plot(
                [8 * n for n in mean.uplink],
                [100 * a for a in mean.accuracy],
                color=COLOURS[scheme],
                label=scheme,
            )
        panel.axhline(100 * comparison.target, color="grey", linewidth=0.8, linestyle=":")
        panel.set_xscale("log")
        title = f"{comparison.label} (h/d = {comparison.ratio:,.0f})"
        report.finish(panel, title, "cumulative uplink of all nodes, bit", "test accuracy, %")
    report.save(figure, path)


def _gains(path: Path, found: Sequence[Comparison]) -> None:
    figure, (panel,) = report.panels(1)
    for (data, group), style in zip(_by_data(found).items(), ("o-", "s--"), strict=False):
        for scheme in [*GAINS, "float32"]:
            ratios, gains = [c.ratio for c in group], [c.gain(scheme) for c in group]
            panel.plot(ratios, gains, style, color=COLOURS[scheme], label=f"{scheme}, {data}")
    for scheme, times in GAINS.items():
        panel.plot(
            11_173_962 / 3072, times, "*", markersize=12, color=COLOURS[scheme], label=f"{scheme}, the paper"
        )
    panel.set_xscale("log")
    panel.set_yscale("log")
    report.finish(panel, "bits that DataQ + selection saves", "h/d", "times fewer bits to the same accuracy")
    report.save(figure, path)


def _rows(found: Iterable[Comparison]) -> Iterable[tuple[object, ...]]:
    for comparison in found:
        for scheme, runs in comparison.runs.items():
            for seed, rounds in zip(SEEDS, runs, strict=False):
                for row in rounds:
                    if "test_accuracy" in row:
                        score = float(row["test_accuracy"]), float(row["test_loss"])
                        yield comparison.label, scheme, seed, row["round"], *score, 8 * row["uplink_total"]


def _table(found: Comparison) -> list[str]:
    head = ["scheme", "accuracy, %", "uplink, Mbit", f"Mbit to {found.target:.0%}", "times", "epochs to it"]
    rows = [
        (
            line.scheme,
            percent(line),
            megabits(line.uplink),
            megabits(line.at_target),
            f"{_three(found.gain(line.scheme))}",
            f"{found.epochs(line.scheme):.2f}",
        )
        for line in found.lines.values()
    ]
    return report.table(head, rows)


def megabits(n: float) -> str:
    """Three significant digits of n bytes, in Mbit."""
    return _three(8 * n / 1e6)


def _three(value: float) -> str:
    """At least three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _payloads(found: Comparison) -> str:
    """How large they are: what h/d decides."""
    sizes = []
    for scheme in ("DataQ", *GAINS):
        sizes.append(_three(8 * found.lines[scheme].uplink / found.scenario.training.rounds / 1e3))
    batch, *gradients = (f"{size} kbit" for size in sizes)
    return (
        f"A batch takes {batch} with DataQ, a gradient {' and '.join(gradients)} with {' and '.join(GAINS)}."
    )


# ---- the report


def _markdown(path: Path, found: Sequence[Comparison], quick: bool) -> Path:
    seeds = ", ".join(map(str, SEEDS[:1] if quick else SEEDS))
    text = f"""
Scenarios `papers/daqusgd/`: as many nodes as there are batches, one node's images an iteration (in turns: an
epoch is one pass over all nodes), SGD with momentum 0.9 at the server, m = 8, batch maxima as scales, levels
entropy-coded, labels counted. Selection sends what has a loss above 0.2 times the mean of what was sent in
the epoch before; the first epoch sends all. QTopK keeps the 10 % largest numbers of every layer in 16 bits,
with coded indices; every node has a memory of its own. Bits are those of real payloads, headers included;
batch norm's buffers travel with gradients, and are the server's own where data travel. Means over seeds
{seeds} (± standard deviation); the bits to an accuracy are read off the mean curve, at its evaluations.
The paper has ResNet-18 on CIFAR-10 and ResNet-50 on ImageNet (`papers/daqusgd/cifar10`, `imagenet`), which
take a GPU. The ResNets here see 1,280 images three times: their trainings are far from their end, and noisy.

Command: `fedquant reproduce daqusgd-fig4{" --quick" if quick else ""}`
"""
    blocks: list[str | list[str]] = ["![accuracy against bits](daqusgd-fig4.svg)"]
    blocks += ["![gain by h/d](daqusgd-gain.svg)"]
    if quick:
        blocks += ["**Quick: one seed and fewer rounds.**"]
    if grown := growth(found):
        blocks += ["## Over model sizes", report.verdicts(grown)]
    for comparison in found:
        shares = ", ".join(f"{100 * s:.3g} %" for s in comparison.sent())
        blocks += [
            f"## {comparison.label}: h = {comparison.model_size:,}, d = {comparison.sample_size:,}",
            report.verdicts(claims(comparison)),
            _table(comparison),
            f"Sent with selection, epoch by epoch: {shares} of the samples. {_payloads(comparison)}",
        ]
    return report.write(path, "DaQuSGD, Figure 4: accuracy against uplink bits", PAPER, text, *blocks)
