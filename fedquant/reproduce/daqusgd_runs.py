"""The trainings behind Figure 4 of DaQuSGD: each scheme on models of several sizes, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple

from fedquant.engines.run import Row
from fedquant.report.study import Study, execute
from fedquant.report.table import Line, curve, summarise
from fedquant.reproduce.sizes import model_size, sample_size
from fedquant.scenario import Scenario, load


class Setup(NamedTuple):
    """A scenario of the paper's folder, and what is changed in it."""

    scenario: str
    changes: Mapping[str, Any] = {}
    quick: int = 0  # rounds with --quick; 0: left out


SETUPS: Final = {
    "MNIST, LeNet-5": Setup("papers/daqusgd/mnist", quick=936),
    "Fashion-MNIST, LeNet-5": Setup("papers/daqusgd/fashion", quick=936),
    "MNIST, FC 1000-300-100": Setup("papers/daqusgd/mnist", {"task.model": "fc", "training.rounds": 1404}),
    "MNIST, ResNet-18": Setup("papers/daqusgd/mnist-resnet18", quick=80),
    "Fashion-MNIST, ResNet-18": Setup("papers/daqusgd/fashion-resnet18"),
}
SELECTED: Final = "DataQ + selection"
SCHEMES: Final[dict[str, dict[str, Any]]] = {
    SELECTED: {},
    "DataQ": {"uplink.selection": "all"},
    "QTopK (10 %)": {
        "uplink": {
            "kind": "gradient",
            "codec": {
                "name": "error_feedback",
                "inner": {"name": "topk", "ratio": 0.1, "values": "float16", "scope": "segment"},
            },
        }
    },
    "QSGD (4 bits)": {"uplink": {"kind": "gradient", "codec": {"name": "qsgd", "bits": 4}}},
    "float32": {"uplink": {"kind": "gradient", "codec": "float32"}},
}
"""Changes to a scenario, each DaQuSGD's with selection; momentum is the optimizer's, at the server."""
SEEDS: Final = (1, 2, 3)


@dataclass(frozen=True)
class Comparison:
    """A model and data set, and the rounds of every scheme's runs, one a seed."""

    label: str
    scenario: Scenario
    runs: Mapping[str, Sequence[Sequence[Row]]]

    @cached_property
    def model_size(self) -> int:
        """h, the numbers of a gradient."""
        return model_size(self.scenario)

    @cached_property
    def sample_size(self) -> int:
        """d, the numbers of a sample."""
        return sample_size(self.scenario)

    @property
    def ratio(self) -> float:
        """h/d."""
        return self.model_size / self.sample_size

    @cached_property
    def target(self) -> float:
        """The accuracy in [0, 1] whose bits are compared: the highest whole percent that all reach."""
        return self._summary[0]

    @cached_property
    def lines(self) -> dict[str, Line]:
        """Means by scheme."""
        return {line.scheme: line for line in self._summary[1]}

    @cached_property
    def _summary(self) -> tuple[float, list[Line]]:
        return summarise(self.runs)

    def gain(self, scheme: str) -> float:
        """How many times the bits of DataQ with selection a scheme takes to the target."""
        return self.lines[scheme].at_target / self.lines[SELECTED].at_target

    def epochs(self, scheme: str) -> float:
        """Passes over all nodes to the target, of the mean curve."""
        accuracy = curve(self.runs[scheme]).accuracy
        before = sum(1 for _ in takewhile(lambda a: a < self.target, accuracy))
        return (before + 1) * self.scenario.training.evaluate_every / self.scenario.participation.rounds

    def sent(self) -> list[float]:
        """The share of their samples that nodes sent, with selection, by pass over all nodes."""
        lap, runs = self.scenario.participation.rounds, self.runs[SELECTED]
        starts = range(0, len(runs[0]), lap)
        rounds = [[row for run in runs for row in run[start : start + lap]] for start in starts]
        return [sum(r["samples"] for r in rows) / sum(r["drawn"] for r in rows) for rows in rounds]


def train(
    quick: bool,
    folder: Path,
    processes: int,
    say: Callable[[str], None],
    changes: Mapping[str, Any],
) -> list[Comparison]:
    """Every setup with every scheme; finished runs are kept in `folder`. Raises ConfigError or DataError."""
    found = []
    for label, setup in SETUPS.items():
        if quick and not setup.quick:
            continue
        overrides = {**setup.changes, **({"training.rounds": setup.quick} if quick else {}), **changes}
        scenario = load(setup.scenario, overrides)

        def told(done: int, of: int, label: str = label) -> None:
            say(f"{label}: {done} of {of} runs")

        study = Study(
            name=scenario.name,
            scenario=setup.scenario,
            overrides=overrides,
            vary={"seed": list(SEEDS[:1] if quick else SEEDS)},
            schemes=SCHEMES,
        )
        here = folder / "".join(c if c.isalnum() else "-" for c in label.lower())
        found.append(Comparison(label, scenario, execute(study, here, processes, told)))
    return found
