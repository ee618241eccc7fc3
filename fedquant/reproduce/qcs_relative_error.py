"""Figure 4 of the QCS paper: relative error against accuracy while LeNet-5 learns MNIST."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.qcs import QCS
from fedquant.codecs.qsgd import QSGD
from fedquant.keys import Purpose
from fedquant.reproduce import report
from fedquant.reproduce.qcs_gradients import moments
from fedquant.reproduce.qcs_schemes import PAPER, nmse, through
from fedquant.reproduce.report import Claim
from fedquant.scenario import load

SCENARIO: Final = "papers/qcs/mnist"
EDGES: Final = (0, 0.5, 0.7, 0.8, 0.85, 0.875, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 1)
GAINS: Final = (8, 11, 19, 32, 64)  # about those of QSGD with 7, 3 and 1 levels, and beyond them
CLOSE: Final = 0.1  # deviation over mean, up to which an error counts as concentrated around its mean
PAIRS: Final = (("QCS, gain 19", "QSG, s = 1"), ("QCS, gain 11", "QSG, s = 3"), ("QCS, gain 8", "QSG, s = 7"))


class Size(NamedTuple):
    """How much is measured: seeds, and the rounds looked at."""

    seeds: int
    rounds: tuple[int, ...]


FULL = Size(3, tuple(dict.fromkeys(int(r) for r in np.geomspace(1, 1180, 45))))
QUICK = Size(1, tuple(dict.fromkeys(int(r) for r in np.geomspace(1, 150, 12))))


class Error(NamedTuple):
    """What one payload lost."""

    seed: int
    round: int
    accuracy: float
    sensor: int
    scheme: str
    gain: float
    nmse: float


def schemes() -> dict[str, Codec]:
    """QCS at several gains; QSG as run in practice (largest magnitude of 512) and as analysed (ℓ₂ norm)."""
    return {
        **{f"QCS, gain {gain}": QCS(gain=gain) for gain in GAINS},
        **{f"QSG, s = {s}": QSGD(levels=s, scope=512) for s in (1, 3, 7)},
        **{f"QSG, s = {s}, ℓ₂": QSGD(levels=s, scope=512, norm="l2") for s in (1, 3, 7)},
    }


def run(out: Path, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Path:
    """Writes qcs-fig4.{svg,png,csv,md} into the folder `out`; returns the Markdown file.

    Raises ConfigError without matplotlib, DataError without MNIST.
    """
    figure, axes = report.panels(2)  # before minutes of work
    size, found = QUICK if quick else FULL, []
    for seed in range(1, size.seeds + 1):
        found += _one(seed, size)
        say(f"training {seed} of {size.seeds}: accuracy {found[-1].accuracy:.1%}")
    _picture(axes[0], found, [name for name in schemes() if name.startswith("QCS")])
    _picture(axes[1], found, [name for pair in PAIRS for name in pair] + ["QSG, s = 1, ℓ₂"])
    report.save(figure, out / "qcs-fig4")
    report.write_csv(out / "qcs-fig4.csv", Error._fields, found)
    return _markdown(out / "qcs-fig4.md", found, size)


def _one(seed: int, size: Size) -> list[Error]:
    scenario, codecs, found = load(SCENARIO, {"seed": seed}), schemes(), []
    for moment in moments(scenario, size.rounds):
        for sensor, gradient in enumerate(moment.gradients):
            spec = Spec(gradient.size)
            key = scenario.key.fold(round=moment.round, sensor=sensor, purpose=Purpose.GRADIENT)
            for name, codec in codecs.items():
                decoded, length, _ = through(codec, gradient, spec, key)
                gain, lost = 4 * spec.size / length, nmse(decoded, gradient)
                found.append(Error(seed, moment.round, moment.accuracy, sensor, name, gain, lost))
    return found


def _of(found: Sequence[Error], scheme: str) -> list[Error]:
    return [e for e in found if e.scheme == scheme]


def _bins(own: Sequence[Error]) -> list[tuple[float, float, float]]:
    """(mean accuracy, mean error, its deviation) by accuracy, where there is any."""
    out = []
    for low, high in pairwise(EDGES):
        some = [e for e in own if low <= e.accuracy < high]
        if some:
            errors = [e.nmse for e in some]
            mean = float(np.mean([e.accuracy for e in some]))
            out.append((mean, float(np.mean(errors)), float(np.std(errors))))
    return out


def _picture(axes: Any, found: Sequence[Error], names: Sequence[str]) -> None:
    for i, name in enumerate(names):
        x, mean, spread = (np.array(column) for column in zip(*_bins(_of(found, name)), strict=True))
        axes.plot(100 * x, mean, ".-" if name.startswith("QCS") else ".--", color=f"C{i}", label=name)
        axes.fill_between(
            100 * x, np.maximum(mean - spread, mean / 10), mean + spread, color=f"C{i}", alpha=0.2
        )
    axes.set_yscale("log")
    report.finish(axes, "LeNet-5 on MNIST, ±1 standard deviation", "test accuracy, %", "‖ĝ − g‖² / ‖g‖²")


def _spread(own: Sequence[Error]) -> float:
    """Deviation over mean of the error, over the whole training."""
    errors = [e.nmse for e in own]
    return float(np.std(errors) / np.mean(errors))


def claims(found: Sequence[Error]) -> list[Claim]:
    """What the paper says about Fig. 4, as measured."""
    out = []
    for qcs, qsg in PAIRS:
        for other in (qsg, f"{qsg}, ℓ₂"):
            mine, theirs = _of(found, qcs), _of(found, other)
            lower = [a.nmse < b.nmse for a, b in zip(mine, theirs, strict=True)]
            ratio = np.mean([b.nmse for b in theirs]) / np.mean([a.nmse for a in mine])
            shown = f"lower for {np.mean(lower):.1%} of the gradients, on average ×{ratio:.1f}"
            gain = np.mean([e.gain for e in theirs])
            text = f"{qcs}: relative error below {other} (gain {gain:.1f})"
            out.append(Claim(text, shown, bool(np.all(lower))))
    for qcs, qsg in PAIRS:
        a = _spread(_of(found, qcs))
        measured = f"deviation / mean {a:.3f} (at most {CLOSE:g})"
        out.append(Claim(f"{qcs}: error highly concentrated around its mean", measured, a <= CLOSE))
        for other in (qsg, f"{qsg}, ℓ₂"):
            b = _spread(_of(found, other))
            text = f"{qcs}: so, unlike {other}"
            out.append(Claim(text, f"{measured} against {b:.3f} (more)", a <= CLOSE < b))
    for name in (f"QCS, gain {gain}" for gain in GAINS):
        means = [mean for _, mean, _ in _bins(_of(found, name))]
        drift = max(means) / min(means)
        text = f"{name}: like noise of a fixed signal to noise ratio all along"
        out.append(Claim(text, f"largest / least mean over the accuracies {drift:.2f} (1.25)", drift <= 1.25))
    return out


def _markdown(path: Path, found: Sequence[Error], size: Size) -> Path:
    settings = f"""
`{SCENARIO}`: LeNet-5 learns MNIST with uncompressed gradients of four workers, 128 images each, SGD 0.05;
{size.seeds} trainings (seeds 1 to {size.seeds}), at {len(size.rounds)} rounds from 1 to {max(size.rounds)};
every gradient is coded by every scheme into real payloads. Gains count header and scales. QCS has
partitions of 256; QSG has buckets of 512, scaled by their largest magnitude as its authors run it, or by
the ℓ₂ norm as they analyse it. The paper names neither its gains nor QSG's norm. The picture's averages are
over test accuracies of similar height.

Command: `fedquant reproduce qcs-fig4{" --quick" if size is QUICK else ""}`
"""
    rows = []
    for name in schemes():
        own = _of(found, name)
        errors = [e.nmse for e in own]
        quantiles = np.quantile(errors, (0.05, 0.95))
        rows.append(
            (
                name,
                f"{np.mean([e.gain for e in own]):.1f}",
                f"{np.mean(errors):.3g}",
                f"{quantiles[0]:.3g} … {quantiles[1]:.3g}",
                f"{_spread(own):.3f}",
            )
        )
    head = ["scheme", "gain", "mean error", "5 … 95 %", "deviation / mean"]
    title = "QCS, Figure 4: relative error while training"
    picture = ["![Figure 4](qcs-fig4.svg)"]
    return report.write(
        path, title, PAPER, settings, report.verdicts(claims(found)), report.table(head, rows), picture
    )
