"""The papers' experiments, with each claim beside what was measured."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fedquant.errors import ConfigError, suggest
from fedquant.folder import writable
from fedquant.machine import describe
from fedquant.report.pyplot import pyplot

EXPERIMENTS: Final = {
    "daqusgd-fig4": "fedquant.reproduce.daqusgd",
    "dqgd-fig3": "fedquant.reproduce.dqgd",
    "dqsgd-table1": "fedquant.reproduce.dqsgd",
    "qcs-fig2": "fedquant.reproduce.qcs_regression",
    "qcs-fig3": "fedquant.reproduce.qcs_variance",
    "qcs-fig4": "fedquant.reproduce.qcs_relative_error",
    "qcs-fig5": "fedquant.reproduce.qcs_time",
    "qcs-fig6": "fedquant.reproduce.qcs_training",  # and 7
    "qcs-fig8": "fedquant.reproduce.qcs_cifar",
}
"""What `fedquant reproduce` knows: each module has a `run(out, quick=…, say=…)` that returns its report."""


def reproduce(
    name: str,
    out: Path,
    quick: bool = False,
    matrix: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Runs an experiment into the folder `out`; its report, which ends with date and machine.

    Raises ConfigError without matplotlib, for an unknown name, and a folder that cannot be written.
    """
    if name not in EXPERIMENTS:
        raise ConfigError(f"unknown experiment {name!r}: {suggest(name, EXPERIMENTS)}")
    module = importlib.import_module(EXPERIMENTS[name])
    if matrix is not None and not name.startswith("dqgd"):
        raise ConfigError(f"{name}: takes no matrix")
    pyplot()  # where it is missing, say so before hours of work
    writable(out, "--out")
    more = {} if matrix is None else {"matrix": matrix}
    report: Path = module.run(out, quick=quick, say=say, **more)
    with report.open("a", encoding="utf-8") as file:
        file.write(f"\n{_measured()}\n")
    return report


def _measured() -> str:
    here = describe(None)
    return f"Measured {here.date}: {here.cpu}, {here.cores} cores, {here.system}, Python {here.python}."
