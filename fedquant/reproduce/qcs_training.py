"""Figures 6 and 7 of the QCS paper: FC 1000-300-100 and LeNet-5 learn MNIST on one to eight workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from fedquant.engines.run import Row
from fedquant.reproduce import report
from fedquant.reproduce.qcs_runs import BASELINE, LOSS, STYLES, Setting, gain, measured, schedule, train
from fedquant.reproduce.qcs_schemes import PAPER
from fedquant.reproduce.report import Claim

SCENARIO: Final = "papers/qcs/mnist"
MODELS: Final = {"fc": "FC", "lenet5": "LeNet-5"}
OPTIMIZERS: Final = {"SGD": {"name": "sgd", "lr": 0.05}, "Adam": {"name": "adam", "lr": 0.001}}
SAMPLES: Final = 60_000
SHOWN: Final = 4  # workers of Fig. 7
POINTS: Final = 0.004  # of accuracy: two standard deviations of 10,000 images at 96 %
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


class Tally(NamedTuple):
    """In how many settings one scheme is better than another, no different, and worse."""

    better: int
    equal: int
    worse: int

    @property
    def mostly(self) -> bool | None:
        """Whether it is better in most settings; None where it is no different in most, not only worse."""
        if self.better > self.equal + self.worse:
            return True
        alone = self.worse and not self.better
        return None if self.equal >= max(self.better, self.worse) and not alone else False

    @property
    def sometimes(self) -> bool | None:
        """Whether it is better in any; None where it is no different in some."""
        return True if self.better else None if self.equal else False

    def __str__(self) -> str:
        return f"better in {self.better}, equal in {self.equal}, worse in {self.worse} settings"


def accuracies(found: Found, one: str, other: str) -> Tally:
    """Of final accuracies; less than POINTS apart they are equal."""
    return _tally(_accuracy(found, c, one) - _accuracy(found, c, other) for c in _settings(found))


def speeds(found: Found, one: str, other: str) -> Tally:
    """Of mean losses; less than a share of LOSS apart they are equal."""
    shares = (_loss(found, c, other) / _loss(found, c, one) - 1 for c in _settings(found))
    return _tally(share * POINTS / LOSS for share in shares)


def _tally(differences: Iterable[float]) -> Tally:
    signs = [0 if abs(d) < POINTS else 1 if d > 0 else -1 for d in differences]
    return Tally(signs.count(1), signs.count(0), signs.count(-1))


def _settings(found: Found) -> list[str]:
    return list(dict.fromkeys(setting for setting, _ in found))


def _gains(found: Found, scheme: str) -> str:
    gains = [gain(found[c, scheme], found[c, BASELINE]) for c in _settings(found)]
    low, high = f"{min(gains):.1f}", f"{max(gains):.1f}"
    return low if low == high else f"{low} to {high}"


def claims(found: Found) -> list[Claim]:
    """What the paper says about Figures 6 and 7, as measured."""

    def ratio(one: str, other: str) -> list[float]:
        return [gain(found[c, one], found[c, other]) for c in _settings(found)]

    out = [
        Claim(
            "QCS-1's gain is about 32",
            _gains(found, "QCS-1"),
            all(31 <= g <= 33 for g in ratio("QCS-1", BASELINE)),
        ),
        Claim(
            "QCS-2's gain is QSGD's",
            f"{_gains(found, 'QCS-2')}, QSGD {_gains(found, 'QSGD')} (5 %)",
            all(abs(r - 1) <= 0.05 for r in ratio("QCS-2", "QSGD")),
        ),
    ]
    for scheme in ("QCS-1", "QCS-2"):
        more, faster = accuracies(found, scheme, BASELINE), speeds(found, scheme, BASELINE)
        text = f"{scheme} {{}} than the baseline on some occasions"
        out.append(Claim(text.format("ends more accurate"), str(more), more.sometimes))
        out.append(Claim(text.format("converges faster"), str(faster), faster.sometimes))
    for one, other in (("QCS-2", "QSGD"), ("QCS-1", "Sparse-SGD"), ("QCS-1", "1 bit, feedback")):
        more, faster = accuracies(found, one, other), speeds(found, one, other)
        out.append(Claim(f"{one} ends more accurate than {other}", str(more), more.mostly))
        out.append(Claim(f"{one} converges faster than {other}", str(faster), faster.mostly))
    for scheme in ("QCS-1", "QCS-2"):
        faster = speeds(found, f"{scheme}, feedback", scheme)
        out.append(Claim(f"weighted feedback speeds {scheme} up", str(faster), faster.mostly))
    return out


def _markdown(path: Path, found: Found, size: Size) -> Path:
    epochs = [case.rounds / schedule(SAMPLES, case.workers)["step_size"] for case in size.cases]
    length = f"{min(epochs):.2g} to {max(epochs):.2g} epochs"
    text = f"""
`{SCENARIO}`: MNIST, even shares, 128 images a worker and round, SGD 0.05 or Adam 0.001, decay 0.99 an
epoch, by `fedquant.run` with real payloads. Shortened against the paper, whose trainings go on until they
converge: all of a panel take as many rounds, so eight workers see eight times the images of one ({length}),
and a panel of Figure 6 shows that, too. Its figures show SGD, its text tells of Adam, too. One seed.

QSGD is ternary in buckets of 512; QCS has partitions of 256, gain 32 (QCS-1) or k = n, Q = 1 (QCS-2), and
feedback of weight 1/(γ+1); Sparse-SGD keeps 12 %, which takes about QCS-1's bytes; 1 bit is the sign and a
mean magnitude a layer, with feedback of weight 1 (the paper's has a mean for each sign).

Accuracies less than {100 * POINTS:.1f} points apart count as equal, two standard deviations of 10,000 images
at 96 %, and so do mean losses less than {100 * LOSS:.0f} % apart. A claim of "some occasions" asks for one
setting beyond that, all others for most settings; where most are equal it cannot be told, unless the rest
are all worse.

Command: `fedquant reproduce qcs-fig6{" --quick" if size is QUICK else ""}`
"""
    gains = [_gains(found, scheme) for scheme in STYLES]
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
