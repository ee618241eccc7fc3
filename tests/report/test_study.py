"""A study runs every scheme over every varied value, once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fedquant.errors import ConfigError
from fedquant.report.study import Study, execute, jobs, load_study
from fedquant.scenario import load
from fedquant.scenario.load import folder

STUDY = {
    "name": "tiny",
    "scenario": "wearables",
    "overrides": {"training.rounds": 2, "training.batch_size": 2, "training.evaluate_every": 1},
    "vary": {"seed": [1, 2], "task.fold": [0, 3]},
    "schemes": {"all": {"uplink": {"kind": "data", "codec": "dataq"}}, "8/16 bit": {"seed": 9}},
}


def written(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    return path


def test_jobs_cross_schemes_and_values(tmp_path: Path) -> None:
    found = jobs(load_study(written(tmp_path / "s.yaml")), tmp_path)
    assert len(found) == 8
    assert len({job.scenario for job in found}) == 8
    assert {job.folder.relative_to(tmp_path).as_posix() for job in found if job.scheme == "8/16 bit"} == {
        f"8_16_bit/seed{seed}-fold{fold}" for seed in (1, 2) for fold in (0, 3)
    }


@pytest.mark.parametrize("path", sorted((folder() / "studies").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_study_that_ships_has_runs(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    found = jobs(study, Path())
    assert len({load(job.scenario).run_id for job in found}) == len(found)


@pytest.mark.slow
def test_finished_runs_are_kept(tmp_path: Path) -> None:
    study = load_study(written(tmp_path / "s.yaml"), {"training.rounds": 1}).first()
    counts: list[tuple[int, int]] = []
    first = execute(study, tmp_path / "out", 1, lambda done, of: counts.append((done, of)))
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("model.safetensors")}
    again = execute(study, tmp_path / "out", 1, lambda done, of: counts.append((done, of)))
    assert counts == [(0, 2), (1, 2), (2, 2), (2, 2)]
    assert first == again
    assert {p: p.stat().st_mtime_ns for p in times} == times
    other = execute(study.model_copy(update={"overrides": {"training.rounds": 2}}), tmp_path / "out", 1)
    assert len(other["all"][0]) == 2


def test_a_mistake_in_a_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="schemess"):
        load_study(written(tmp_path / "s.yaml", schemess={}))
    with pytest.raises(ConfigError, match="name: String should match"):
        load_study(written(tmp_path / "s.yaml", name="a/b"))
    with pytest.raises(ConfigError, match=r"vary\.seed"):
        load_study(written(tmp_path / "s.yaml", vary={"seed": []}))


@pytest.mark.parametrize(("text", "got"), [("- 1", "list"), ("", "nothing"), ("tiny", "str")])
def test_a_study_is_a_mapping(text: str, got: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"s\.yaml: expected a mapping of keys, got {got}; write a line"):
        load_study(tmp_path / "s.yaml")


def test_a_scenario_is_no_study() -> None:
    with pytest.raises(
        ConfigError, match="wearables is a scenario, not a study; use `fedquant run wearables`"
    ):
        load_study("wearables")


def test_runs_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    schemes = {"m=4 %": {"uplink.codec.m": 4}, "m=4_%": {"uplink.codec.m": 64}}
    with pytest.raises(ConfigError, match=r"'m=4 %'.* and .*'m=4_%'.* would share the folder"):
        jobs(Study(name="two", scenario="wearables", schemes=schemes), tmp_path)
