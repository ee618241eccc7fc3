"""Whole trainings for Figures 6 to 8 of the QCS paper: each scheme on each setting, by `fedquant.run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedquant.engines.run import Row
from fedquant.report.study import Study, execute

BASELINE: Final = "no quantization"
LOSS: Final = 0.02
"""Mean losses less than this share apart count as equal."""
FEEDBACK: Final = "error_feedback"
SCHEMES: Final[dict[str, dict[str, Any]]] = {
    BASELINE: {"name": "float32"},
    "QSGD": {"name": "qsgd", "levels": 1, "scope": 512},
    "1 bit, feedback": {"name": FEEDBACK, "inner": {"name": "sign", "scope": "segment"}},
    "Sparse-SGD": {"name": "sparse", "density": 0.12},  # in about the bytes of QCS-1
    "QCS-1": {"name": "qcs", "gain": 32},
    "QCS-2": {"name": "qcs"},
    "QCS-1, feedback": {"name": FEEDBACK, "inner": {"name": "qcs", "gain": 32}},
    "QCS-2, feedback": {"name": FEEDBACK, "inner": {"name": "qcs"}},
}
"""Uplink codecs. Feedback of QCS has its default weight, 1/(γ+1)."""
STYLES: Final = {
    BASELINE: ("black", "-"),
    "QSGD": ("tab:orange", "-"),
    "1 bit, feedback": ("tab:red", "--"),
    "Sparse-SGD": ("tab:green", "-"),
    "QCS-1": ("tab:cyan", "-"),
    "QCS-2": ("tab:blue", "-"),
    "QCS-1, feedback": ("tab:cyan", "--"),
    "QCS-2, feedback": ("tab:blue", "--"),
}


@dataclass(frozen=True)
class Setting:
    """What all schemes are run on, once each: a scenario, changed."""

    label: str
    scenario: str
    changes: Mapping[str, Any]
    schemes: Sequence[str] = tuple(SCHEMES)


def schedule(samples: int, workers: int, batch: int = 128) -> dict[str, Any]:
    """The paper's decay of 0.99 an epoch; a schedule steps once a round."""
    return {"name": "StepLR", "step_size": -(-samples // (workers * batch)), "gamma": 0.99}


def train(
    name: str, settings: Sequence[Setting], runs: Path, processes: int, say: Callable[[str], None]
) -> dict[tuple[str, str], list[Row]]:
    """The rounds of every (setting, scheme); finished ones are taken from the folder runs/name.

    Raises ConfigError or DataError.
    """
    jobs = {
        f"{setting.label}, {scheme}": {
            **setting.changes,
            "uplink": {"kind": "gradient", "codec": SCHEMES[scheme]},
        }
        for setting in settings
        for scheme in setting.schemes
    }
    (scenario,) = {setting.scenario for setting in settings}
    study = Study(name=name, scenario=scenario, schemes=jobs)
    found = execute(study, runs / name, processes, lambda done, of: say(f"{done} of {of} runs"))
    return {
        (setting.label, scheme): found[f"{setting.label}, {scheme}"][0]
        for setting in settings
        for scheme in setting.schemes
    }


def measured(rounds: Sequence[Row], key: str) -> list[float]:
    """test_accuracy or test_loss at the evaluated rounds."""
    return [float(row[key]) for row in rounds if key in row]


def gain(rounds: Sequence[Row], full: Sequence[Row]) -> float:
    """Uplink bytes of an uncompressed run over those of this one."""
    return float(full[-1]["uplink_total"] / rounds[-1]["uplink_total"])
