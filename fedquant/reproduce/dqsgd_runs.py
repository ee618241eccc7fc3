"""The trainings behind Table 1 of DQSGD: each scheme on each task, by `fedquant.run`, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from fedquant.engines.run import Row
from fedquant.report.study import Study, execute
from fedquant.reproduce.sizes import model_size
from fedquant.scenario import Scenario, load

TASKS: Final = {
    "MNIST": "papers/dqsgd/mnist",
    "Fashion-MNIST": "papers/dqsgd/fashion",
    "AG-News, 5,000 items": "papers/dqsgd/text",
}
"""Scenarios by label; each is DQSGD's, the other schemes are changes to it."""
SHOWN: Final = "Fashion-MNIST"
"""The task with more rates, of Figures 1 and 2."""
FORGOTTEN: Final = 0.05
"""α^(N/2) of the paper, for both of its N; where fewer rounds are run, α follows."""
LAST: Final = 3
"""Evaluations at the end whose mean is a run's accuracy: at a constant step size one alone is noisy."""


def _gradient(codec: Any, **control: Any) -> dict[str, Any]:
    uplink = {"kind": "gradient", "codec": codec}
    return {"uplink": {**uplink, "control": control} if control else uplink}


SIGN: Final = {
    "MNIST": {"name": "sgd", "lr": 0.001},
    "Fashion-MNIST": {"name": "sgd", "lr": 0.001},
}
"""Optimizers for votes, which are ±1 each: SGD's step for gradients would be far too large, Adam's is not."""
SCHEMES: Final[dict[str, dict[str, Any]]] = {
    "Vanilla SGD": _gradient("float32"),
    "SignSGD": _gradient({"name": "sign", "aggregate": "vote"}),
    "TernGrad": _gradient("terngrad"),
    "QSGD (4 bits)": _gradient({"name": "qsgd", "bits": 4}),
    "QSGD (6 bits)": _gradient({"name": "qsgd", "bits": 6}),
    "Adaptive": _gradient("qsgd", name="adaptive", initial_bits=6, max_bits=6),
    "AdaQS": _gradient("qsgd", name="adaqs"),
    "DQSGD": {},
}
"""Table 1: changes to a task's scenario. Adaptive's limit puts it near the paper's ratio."""
RATES: Final = {
    **{f"QSGD ({b} bits)": _gradient({"name": "qsgd", "bits": b}) for b in (2, 3, 5)},
    "DQSGD, k/4": {"k": 1 / 4},
}
"""What Figure 2 has besides; "k" is a factor of the scenario's."""


class Size(NamedTuple):
    """How much is run: seeds, and rounds (None: the scenario's)."""

    seeds: tuple[int, ...]
    rounds: int | None


FULL = Size((1, 2, 3, 4), None)
QUICK = Size((1,), 40)


@dataclass(frozen=True)
class Setting:
    """A task, and the rounds of every scheme's runs, one a seed."""

    label: str
    scenario: Scenario
    runs: Mapping[str, Sequence[Sequence[Row]]]

    @property
    def rounds(self) -> int:
        """Of each run."""
        return self.scenario.training.rounds

    @cached_property
    def numbers(self) -> int:
        """h, the model's parameters."""
        return model_size(self.scenario)

    def accuracies(self, scheme: str) -> list[float]:
        """By seed, in percent: the mean of the last evaluations."""
        return [100 * statistics.fmean(measured(rows, "test_accuracy")[-LAST:]) for rows in self.runs[scheme]]

    def accuracy(self, scheme: str) -> float:
        """The mean over seeds, in percent."""
        return statistics.fmean(self.accuracies(scheme))

    def bits(self, scheme: str) -> float:
        """Real payload bits a number, header and scales counted, in the mean of rounds and seeds."""
        total = statistics.fmean(rows[-1]["uplink_total"] for rows in self.runs[scheme])
        return 8 * total / (self.numbers * self.scenario.sensors * self.rounds)

    def ratio(self, scheme: str) -> float:
        """32·h·N·W / payload bits."""
        return 32 / self.bits(scheme)

    def difference(self, scheme: str, other: str) -> tuple[float, float]:
        """(mean, standard error) over seeds of scheme's accuracy beyond the other's, in points.

        A seed fixes the shares, the batches, and the initial model: runs are paired. One seed: no error, NaN.
        """
        pairs = zip(self.accuracies(scheme), self.accuracies(other), strict=True)
        each = [mine - theirs for mine, theirs in pairs]
        error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else float("nan")
        return statistics.fmean(each), error


def measured(rows: Sequence[Row], key: str) -> list[float]:
    """test_accuracy or test_loss at the evaluated rounds."""
    return [float(row[key]) for row in rows if key in row]


def train(
    size: Size, out: Path, processes: int, say: Callable[[str], None], changes: Mapping[str, Any]
) -> list[Setting]:
    """Every task with every scheme of its figures; finished runs are taken from the folder `out`.

    changes: to every scenario. Raises ConfigError or DataError.
    """
    settings = []
    for label, name in TASKS.items():
        base = load(name, {**changes, **_shorter(name, size)})
        schemes = _schemes(base, label)

        def told(done: int, of: int, label: str = label) -> None:
            say(f"{label}: {done} of {of} runs")

        study = Study(
            name=base.name,
            scenario=name,
            overrides={**changes, **_shorter(name, size)},
            vary={"seed": list(size.seeds)},
            schemes=schemes,
        )
        settings.append(Setting(label, base, execute(study, out / base.name, processes, told)))
    return settings


def _shorter(name: str, size: Size) -> dict[str, Any]:
    if size.rounds is None:
        return {}
    return {
        "training.rounds": size.rounds,
        "training.evaluate_every": max(1, size.rounds // 10),
        "uplink.control.alpha": round(FORGOTTEN ** (2 / size.rounds), 4),
    }


def _schemes(base: Scenario, label: str) -> dict[str, dict[str, Any]]:
    """Changes by scheme: those of the table, and on one task those of more rates."""
    found = dict(SCHEMES)
    if label in SIGN:
        found["SignSGD"] = {**found["SignSGD"], "training.optimizer": SIGN[label]}
    if label != SHOWN:
        return found
    k = base.to_dict()["uplink"]["control"]["k"]
    scaled = {n: {"uplink.control.k": k * c["k"]} if "k" in c else c for n, c in RATES.items()}
    return {**found, **scaled}
