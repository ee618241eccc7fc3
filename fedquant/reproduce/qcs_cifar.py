"""Figure 8 of the QCS paper: CifarNet learns CIFAR-10 with Adam on four workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from fedquant.reproduce import report
from fedquant.reproduce.qcs_runs import BASELINE, LOSS, STYLES, Setting, gain, measured, train
from fedquant.reproduce.qcs_schemes import PAPER
from fedquant.reproduce.report import Claim

SCENARIO: Final = "papers/qcs/cifar10"
LABEL: Final = "CifarNet, Adam, 4 workers"
SCHEMES: Final = ("no quantization", "QSGD", "QCS-1", "QCS-2", "QCS-1, feedback")


class Size(NamedTuple):
    """How much is run: rounds, how often it is evaluated, and on how many images."""

    rounds: int
    evaluate_every: int
    test_samples: int


FULL = Size(196, 28, 10_000)  # two epochs
QUICK = Size(24, 6, 1_000)


def run(
    out: Path,
    quick: bool = False,
    say: Callable[[str], None] = lambda _: None,
    runs: Path = Path("runs"),
    processes: int = 2,
) -> Path:
    """Writes qcs-fig8.{svg,png,csv,md} into the folder `out`; returns the Markdown file.

    runs: a folder that keeps finished runs. Raises ConfigError without matplotlib, DataError without
    CIFAR-10's JPEG copy.
    """
    size = QUICK if quick else FULL
    changes = {
        "training.rounds": size.rounds,
        "training.evaluate_every": size.evaluate_every,
        "task.test_samples": size.test_samples,
    }
    setting = Setting(LABEL, SCENARIO, changes, SCHEMES)
    name = "qcs-cifar10-quick" if quick else "qcs-cifar10"
    found = {scheme: rounds for (_, scheme), rounds in train(name, [setting], runs, processes, say).items()}
    losses = {scheme: measured(rounds, "test_loss") for scheme, rounds in found.items()}
    last = {scheme: measured(rounds, "test_accuracy")[-1] for scheme, rounds in found.items()}
    falling = sum(values[-1] < values[0] for values in losses.values())
    figure, (axes,) = report.panels(1)
    rows = []
    for scheme, rounds in found.items():
        colour, line = STYLES[scheme]
        evaluated = [row for row in rounds if "test_loss" in row]
        x, y = [row["round"] for row in evaluated], losses[scheme]
        axes.plot(x, y, linestyle=line, color=colour, label=scheme)
        for row in evaluated:
            score = float(row["test_accuracy"]), float(row["test_loss"])
            rows.append((scheme, row["round"], *score, row["uplink_total"]))
    report.finish(axes, LABEL, "round", "test loss, nat")
    report.save(figure, out / "qcs-fig8")
    head = ["scheme", "round", "test_accuracy", "test_loss", "uplink_bytes"]
    report.write_csv(out / "qcs-fig8.csv", head, rows)
    text = f"""
`{SCENARIO}`: the JPEG copy of CIFAR-10, four workers, 128 images each a round, Adam 0.001, decay 0.99 an
epoch, by `fedquant.run` with real payloads. Shortened against the paper, which trains to the end:
{size.rounds} rounds of 98 an epoch; tested on {size.test_samples:,} images. One seed. The loss falls with
{falling} of {len(found)} schemes. A difference within the figure in parentheses (of accuracies, two standard
deviations of so many images) cannot be told from noise. Gains are those of real bytes: zero buckets and
partitions, of units that do not fire, send a scale alone.

Command: `fedquant reproduce qcs-fig8{" --quick" if size is QUICK else ""}`
"""
    table = [
        (
            scheme,
            f"{gain(rounds, found[BASELINE]):.1f}",
            f"{losses[scheme][0]:.3f}",
            f"{losses[scheme][-1]:.3f}",
            f"{100 * last[scheme]:.1f}",
        )
        for scheme, rounds in found.items()
    ]
    head = ["scheme", "gain", f"loss, round {rows[0][1]}", "loss at the end", "accuracy at the end, %"]
    return report.write(
        out / "qcs-fig8.md",
        "QCS, Figure 8: CifarNet on CIFAR-10",
        PAPER,
        text,
        report.verdicts(claims(losses, last, size.test_samples)),
        report.table(head, table),
        ["![Figure 8](qcs-fig8.svg)"],
    )


def claims(
    losses: Mapping[str, Sequence[float]], accuracies: Mapping[str, float], images: int
) -> list[Claim]:
    """What the paper says about Fig. 8, as measured: test losses by scheme, and the last accuracies."""
    noise = 100 / images**0.5  # points: twice the deviation at 50 %, where it is largest
    mean = {scheme: sum(values) / len(values) for scheme, values in losses.items()}
    out = []
    for scheme in [s for s in losses if s.startswith("QCS")]:
        ratio = mean[scheme] / mean[BASELINE]
        faster = None if abs(ratio - 1) < LOSS else ratio < 1
        text = f"{scheme} converges faster than the baseline on some occasions"
        out.append(Claim(text, f"mean loss ×{ratio:.3f} ({LOSS:.0%})", faster))
        points = 100 * (accuracies[scheme] - accuracies[BASELINE])
        better = None if abs(points) < noise else points > 0
        text = f"{scheme} ends more accurate than the baseline on some occasions"
        out.append(Claim(text, f"{points:+.1f} points ({noise:.1f})", better))
    return out
