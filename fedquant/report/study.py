"""A study: one scenario, several schemes, each run over folds and seeds; finished runs are kept."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from fedquant.engines.run import Result, Row, run
from fedquant.engines.run import read as read_run
from fedquant.errors import ConfigError
from fedquant.explain import explain
from fedquant.folder import finished, stopped
from fedquant.report.distortion import Distortion, measure
from fedquant.scenario import load
from fedquant.scenario.descent import DescentUplink
from fedquant.scenario.load import read
from fedquant.scenario.section import Section
from fedquant.tasks.base import Regression


class Study(Section):
    """The keys of a study file: every scheme's overrides, crossed with every value of `vary`.

    report: what the table tells, "uplink" (bytes of whole runs, and to a common accuracy) or "codecs" (of
    one payload: bytes, ratio to the first scheme's, error).
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    scenario: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    report: Literal["uplink", "codecs"] = "uplink"
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    schemes: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]

    def first(self) -> Study:
        """The study with only the first of each varied value."""
        return self.model_copy(update={"vary": {key: values[:1] for key, values in self.vary.items()}})


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    scheme: str
    folder: Path
    scenario: str  # resolved, JSON


def load_study(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Study:
    """The study of a file, or the name of one that ships. Raises ConfigError."""
    values = read(source)
    if "uplink" in values:
        raise ConfigError(f"{source} is a scenario, not a study; use `fedquant run {source}`")
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error)}") from None
    return study.model_copy(update={"overrides": {**study.overrides, **(overrides or {})}})


def jobs(study: Study, out: Path) -> list[Job]:
    """The runs of a study, scheme by scheme within each combination. Raises ConfigError."""
    found: list[Job] = []
    folders: dict[Path, tuple[str, str]] = {}
    for values in product(*study.vary.values()):
        chosen = dict(zip(study.vary, values, strict=True))
        label = "-".join(f"{key.rpartition('.')[2]}{value}" for key, value in chosen.items()) or "run"
        for scheme, changes in study.schemes.items():
            # A scheme replaces what the study sets for all, a varied value replaces both.
            scenario = load(study.scenario, {**study.overrides, **changes, **chosen})
            if isinstance(scenario.uplink, DescentUplink):
                raise ConfigError(f"{study.name}: {scenario.name} descends and has no accuracy to compare")
            if isinstance(scenario.build_task, Regression):
                name = scenario.build_task.name
                raise ConfigError(f"{study.name}: {name} is a regression and has no accuracy to compare")
            folder = out / _file_name(scheme) / _file_name(label)
            if folder in folders:
                raise ConfigError(
                    f"{study.name}: {folders[folder]!r} and {(scheme, label)!r} would share the folder "
                    f"{folder}; rename one"
                )
            folders[folder] = scheme, label
            found.append(Job(scheme, folder, scenario.to_json()))
    return found


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-=+." else "_" for c in text)


def execute(
    study: Study, out: Path, workers: int, on_done: Callable[[int, int], None] = lambda done, of: None
) -> dict[str, list[list[Row]]]:
    """Runs what is not finished, `workers` at a time; the rounds of every run by scheme."""
    todo = jobs(study, out)
    open_jobs = [job for job in todo if not finished(job.folder, load(job.scenario))]
    on_done(len(todo) - len(open_jobs), len(todo))
    # Fresh processes: torch's threads do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        futures = [pool.submit(_run, job) for job in open_jobs]
        for n, future in enumerate(as_completed(futures), start=1):
            future.result()
            on_done(len(todo) - len(open_jobs) + n, len(todo))
    results: dict[str, list[list[Row]]] = {scheme: [] for scheme in study.schemes}
    for job in todo:
        results[job.scheme].append(read_run(job.folder).rounds)
    return results


def distortions(study: Study) -> dict[str, Distortion]:
    """What each scheme's codec does to real gradients, with the first of each varied value."""
    first = jobs(study.first(), Path())
    return {job.scheme: measure(load(job.scenario)) for job in first}


def _run(job: Job) -> Result:
    """From the checkpoint of this very run, where its folder holds one; nodes' memories go when it ends."""
    result = run(job.scenario, out=job.folder, resume=stopped(job.folder, load(job.scenario)))
    shutil.rmtree(job.folder / "state", ignore_errors=True)  # gigabytes, for many sensors of a large model
    return result
