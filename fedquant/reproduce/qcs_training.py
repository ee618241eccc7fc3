"""Figures 6 and 7 of the QCS paper: FC 1000-300-100 and LeNet-5 learn MNIST on one to eight workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from fedquant.engines.run import Row
from fedquant.reproduce import report
from fedquant.reproduce.qcs_runs import STYLES, Setting, gain, measured, schedule, train
from fedquant.reproduce.qcs_schemes import PAPER
from fedquant.reproduce.report import Claim

SCENARIO: Final = "papers/qcs/mnist"
MODELS: Final = {"fc": "FC", "lenet5": "LeNet-5"}
OPTIMIZERS: Final = {"SGD": {"name": "sgd", "lr": 0.05}, "Adam": {"name": "adam", "lr": 0.001}}
SAMPLES: Final = 60_000
SHOWN: Final = 4  # workers of Fig. 7
Found = Mapping[tuple[str, str], Sequence[Row]]


class Case(NamedTuple):
    """A model, an optimizer, how many workers, and rounds."""

    model: str
    optimizer: str
    workers: int
    rounds: int

    @property
    def label(self) -> str:
        """Its name."""
        plural = "s" if self.workers > 1 else ""
        return f"{MODELS[self.model]}, {self.optimizer}, {self.workers} worker{plural}"

    def setting(self, evaluations: int) -> Setting:
        """What is run."""
        changes = {
            "task.model": self.model,
            "task.sensors": self.workers,
            "topology.sensors_per_gateway": self.workers,
            "training.rounds": self.rounds,
            "training.evaluate_every": max(1, self.rounds // evaluations),
            "training.optimizer": OPTIMIZERS[self.optimizer],
            "training.schedule": schedule(SAMPLES, self.workers),
        }
        return Setting(self.label, SCENARIO, changes)


class Size(NamedTuple):
    """What is run: Fig. 6 varies the workers, Fig. 7 shows four of them."""

    cases: tuple[Case, ...]
    evaluations: int


FULL = Size(
    tuple(
        Case(model, optimizer, workers, 1180)  # as SCENARIO: ten epochs of four workers
        for optimizer in OPTIMIZERS
        for model in MODELS
        for workers in (1, 2, 4, 8)
    ),
    20,
)
QUICK = Size(
    (
        *(Case("lenet5", "SGD", workers, 120) for workers in (1, 4)),
        Case("fc", "Adam", SHOWN, 20),
        Case("lenet5", "Adam", SHOWN, 60),
    ),
    4,
)


def run(
    out: Path,
    quick: bool = False,
    say: Callable[[str], None] = lambda _: None,
    runs: Path = Path("runs"),
    processes: int = 2,
) -> Path:
    """Writes qcs-fig6.{svg,png,csv,md} and qcs-fig7.{svg,png} into the folder `out`; returns the Markdown.

    runs: a folder that keeps finished runs; begun again, the command goes on where it was ended.
    Raises ConfigError without matplotlib, DataError without MNIST.
    """
    size = QUICK if quick else FULL
    name = "qcs-training-quick" if quick else "qcs-training"
    found = train(name, [case.setting(size.evaluations) for case in size.cases], runs, processes, say)
    _figure6(out / "qcs-fig6", found, size.cases)
    _figure7(out / "qcs-fig7", found, [case.label for case in size.cases if case.workers == SHOWN])
    head = ["setting", "scheme", "round", "test_accuracy", "test_loss", "uplink_bytes"]
    report.write_csv(out / "qcs-fig6.csv", head, _rows(found))
    return _markdown(out / "qcs-fig6.md", found, size)


def _rows(found: Found) -> Iterable[tuple[object, ...]]:
    for (setting, scheme), rounds in found.items():
        for row in rounds:
            if "test_accuracy" in row:
                score = float(row["test_accuracy"]), float(row["test_loss"])
                yield setting, scheme, row["round"], *score, row["uplink_total"]


def _figure6(path: Path, found: Found, cases: Sequence[Case]) -> None:
    shown = list(dict.fromkeys((case.model, case.optimizer) for case in cases))
    figure, axes = report.panels(len(shown))
    for panel, pair in zip(axes, shown, strict=True):
        own = [case for case in cases if (case.model, case.optimizer) == pair]
        workers = [case.workers for case in own]
        for scheme, (colour, line) in STYLES.items():
            final = [100 * _accuracy(found, case.label, scheme) for case in own]
            panel.plot(workers, final, "o", linestyle=line, color=colour, label=scheme)
        panel.set_xticks(workers)
        title = f"{MODELS[own[0].model]}, {own[0].optimizer}, after {own[0].rounds} rounds"
        report.finish(panel, title, "workers", "test accuracy, %")
    report.save(figure, path)


def _figure7(path: Path, found: Found, shown: Sequence[str]) -> None:
    figure, axes = report.panels(len(shown))
    for panel, setting in zip(axes, shown, strict=True):
        for scheme, (colour, line) in STYLES.items():
            rounds = found[setting, scheme]
            x = [row["round"] for row in rounds if "test_loss" in row]
            panel.plot(x, measured(rounds, "test_loss"), linestyle=line, color=colour, label=scheme)
        panel.set_yscale("log")
        report.finish(panel, setting, "round", "test loss, nat")
    report.save(figure, path)


def _accuracy(found: Found, setting: str, scheme: str) -> float:
    return measured(found[setting, scheme], "test_accuracy")[-1]


def _loss(found: Found, setting: str, scheme: str) -> float:
    """The mean over the evaluated rounds: low for who is fast."""
    losses = measured(found[setting, scheme], "test_loss")
    return sum(losses) / len(losses)


def claims(found: Found) -> list[Claim]:
    """What the paper says about Figures 6 and 7, as measured."""
    cases = list(dict.fromkeys(setting for setting, _ in found))

    def gains(scheme: str) -> list[float]:
        return [gain(found[c, scheme], found[c, "no quantization"]) for c in cases]

    def beats(one: str, other: str, score: Callable[[Found, str, str], float], sign: int) -> list[str]:
        return [c for c in cases if sign * score(found, c, one) > sign * score(found, c, other)]

    first, second, qsgd = gains("QCS-1"), gains("QCS-2"), gains("QSGD")
    above = {c for s in ("QCS-1", "QCS-2") for c in beats(s, "no quantization", _accuracy, 1)}
    faster = {c for s in ("QCS-1", "QCS-2") for c in beats(s, "no quantization", _loss, -1)}
    out = [
        Claim(
            "QCS-1's gain is about 32",
            f"{min(first):.1f} to {max(first):.1f}",
            all(31 <= g <= 33 for g in first),
        ),
        Claim(
            "QCS-2's gain is QSGD's",
            f"{second[0]:.1f}, QSGD {qsgd[0]:.1f} (5 %)",
            all(abs(a / b - 1) <= 0.05 for a, b in zip(second, qsgd, strict=True)),
        ),
        Claim(
            "QCS ends above the baseline's accuracy on some occasions",
            f"QCS-1 or QCS-2 on {len(above)} of {len(cases)} settings",
            bool(above),
        ),
        Claim(
            "QCS converges faster than the baseline on some occasions",
            f"mean loss of QCS-1 or QCS-2 lower on {len(faster)} of {len(cases)} settings",
            bool(faster),
        ),
    ]
    for one, other in (("QCS-2", "QSGD"), ("QCS-1", "Sparse-SGD"), ("QCS-1", "1 bit, feedback")):
        better, quicker = beats(one, other, _accuracy, 1), beats(one, other, _loss, -1)
        shown = f"final accuracy on {len(better)}, mean loss on {len(quicker)} of {len(cases)} settings"
        both = min(len(better), len(quicker))
        out.append(Claim(f"{one} does better than {other} (on most settings)", shown, 2 * both > len(cases)))
    for scheme in ("QCS-1", "QCS-2"):
        quicker = beats(f"{scheme}, feedback", scheme, _loss, -1)
        text = f"weighted feedback speeds {scheme} up (on most settings)"
        shown = f"mean loss lower on {len(quicker)} of {len(cases)} settings"
        out.append(Claim(text, shown, 2 * len(quicker) > len(cases)))
    return out


def _markdown(path: Path, found: Found, size: Size) -> Path:
    epochs = [case.rounds / schedule(SAMPLES, case.workers)["step_size"] for case in size.cases]
    length = f"{min(epochs):.2g} to {max(epochs):.2g} epochs"
    text = f"""
`{SCENARIO}`: MNIST, even shares, 128 images a worker and round, SGD 0.05 or Adam 0.001, decay 0.99 an
epoch, by `fedquant.run` with real payloads. Shortened against the paper, whose trainings go on until they
converge: {length}, the second table has the rounds. Its figures show SGD, its text tells of Adam, too.
One seed.

QSGD is ternary in buckets of 512; QCS has partitions of 256, gain 32 (QCS-1) or k = n, Q = 1 (QCS-2), and
feedback of weight 1/(γ+1); Sparse-SGD keeps 12 %. Test accuracy of 10,000 images has a standard deviation
of about 0.3 points from the choice of images alone, more where training is far from its end.

Command: `fedquant reproduce qcs-fig6{" --quick" if size is QUICK else ""}`
"""
    first = size.cases[0].label
    gains = [f"{gain(found[first, scheme], found[first, 'no quantization']):.1f}" for scheme in STYLES]
    scores = [
        (case.label, *(f"{100 * _accuracy(found, case.label, scheme):.1f}" for scheme in STYLES))
        for case in size.cases
    ]
    losses = [
        (case.label, case.rounds, *(f"{_loss(found, case.label, scheme):.3g}" for scheme in STYLES))
        for case in size.cases
    ]
    return report.write(
        path,
        "QCS, Figures 6 and 7: distributed training on MNIST",
        PAPER,
        text,
        report.verdicts(claims(found)),
        ["Test accuracy after the last round, %:"],
        report.table(["setting", *STYLES], [("gain", *gains), *scores]),
        ["Test loss, mean over the evaluated rounds, nat:"],
        report.table(["setting", "rounds", *STYLES], losses),
        ["![Figure 6](qcs-fig6.svg)"],
        ["![Figure 7](qcs-fig7.svg)"],
    )
