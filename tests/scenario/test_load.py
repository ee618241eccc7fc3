from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedquant.errors import ConfigError
from fedquant.scenario import Scenario, find, load
from fedquant.scenario.load import dump, folder, override, read

BASE: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "task": "watch",
    "uplink": {"kind": "gradient", "codec": "qsgd"},
    "training": {"rounds": 2},
}
SHIPPED = sorted(folder().rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_scenarios_that_ship_are_found_by_name(path: Path) -> None:
    name = path.relative_to(folder()).with_suffix("").as_posix()
    assert find(name).samefile(path)
    assert read(name) == read(path)


@pytest.mark.parametrize("source", [BASE, "wearables"], ids=["small", "wearables"])
def test_json_round_trip(source: Any) -> None:
    scenario = load(source)
    text = scenario.to_json()
    assert text.isascii()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    for again in (load(text), load(scenario), load(scenario.to_dict())):
        assert again.to_json() == text
        assert again.run_id == scenario.run_id
    assert 0 <= scenario.run_id < 1 << 64
    assert scenario.key.run == scenario.run_id
    assert scenario.key.seed == scenario.seed


def test_the_run_is_what_the_scenario_says_but_not_where_it_keeps_state() -> None:
    run = load(BASE).run_id
    assert load(BASE, {"state_dir": "elsewhere"}).run_id == run
    assert load({**BASE, "task": {"name": "watch"}}).run_id == run
    assert load(BASE, ["uplink.codec.bits=4"]).run_id == run
    changes = ["seed=4", "name=other", "uplink.codec.bits=5", "training.rounds=3", "downlink.codec=qsgd"]
    assert len({run, *(load(BASE, [change]).run_id for change in changes)}) == 6


def test_defaults() -> None:
    scenario = load(BASE)
    assert scenario.training.optimizer.name == "sgd"
    assert scenario.training.optimizer.arguments == {"lr": 0.05}
    assert scenario.downlink.codec.name == "float32"
    assert scenario.gateways == scenario.sensors
    assert load(BASE, ["topology.sensors_per_gateway=5"]).gateways == -(-scenario.sensors // 5)


def test_files_and_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(BASE), encoding="utf-8")
    assert load(path).to_json() == load(str(path)).to_json() == load(BASE).to_json()
    path.write_text("a: [1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine.yaml, line 1, column 6: expected ',' or '\]'"):
        load(path)
    path.write_text("- 1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine.yaml: expected a mapping of keys, got list"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seeed=3", "unknown key 'seeed', did you mean 'seed'?"),
        ("zzzz=3", "unknown key 'zzzz', known: description, downlink, name"),
        ("training.roundz=3", "training: unknown key 'roundz', did you mean 'rounds'?"),
        ("uplink.codek=raw", "uplink: unknown key 'codek', did you mean 'codec'?"),
        ("topology.x=1", "topology: unknown key 'x', known: sensors_per_gateway"),
        ("training.rounds=many", "training.rounds: Input should be a valid integer"),
        ("training.rounds=0", "training.rounds: Input should be greater than or equal to 1, got 0"),
        ("training.fraction=1.5", "training.fraction: Input should be less than or equal to 1, got 1.5"),
        ("training.sampling=never", "training.sampling: Input should be 'random', 'epochs' or 'stream'"),
        ("training.sensors_per_round=2000", "training.sensors_per_round: 2000 exceeds the task's"),
        ("seed=-1", "seed: Input should be greater than or equal to 0, got -1"),
        ("seed=18446744073709551616", "seed: "),
        ("name=a b", "name: String should match pattern"),
        ("schema_version=2", "schema_version: Input should be 1, got 2"),
        ("task=watchh", "task: unknown task 'watchh': did you mean 'watch'?"),
        ("task.fold=99", "fold=99 does not exist"),
        ("task.foldd=1", "watch.foldd: unknown key, did you mean 'fold'?"),
        ("uplink.kind=gradientt", "uplink.kind: unknown kind 'gradientt': did you mean 'gradient'?"),
        ("uplink.kind=foo", "uplink.kind: unknown kind 'foo': known: data, delta, descent, gradient"),
        ("uplink={}", "uplink.kind: Field required, known: data, delta, descent, gradient"),
        ("uplink=3", "uplink: expected a mapping of keys, got 3"),
        (
            "uplink={kind: data, codec: dataq, cache: true, refine: {factor: 2, factr: 3}}",
            "uplink.refine.factr: unknown key, did you mean 'factor'?",
        ),
        ("training.optimizer.lr=.nan", "training.optimizer.lr: expected a finite number, got nan"),
        ("training.optimizer.lr=-.inf", "training.optimizer.lr: expected a finite number, got -inf"),
        ("training.optimizer.lr=null", "training.optimizer.lr: expected a value, got null; remove the key"),
        (
            "training.optimizer={name: adam, betas: [0.9, .nan]}",
            "training.optimizer.betas: expected finite numbers, got [0.9, nan]",
        ),
        (
            "training.schedule={name: StepLR, gamma: .inf}",
            "training.schedule.gamma: expected a finite number, got inf",
        ),
        ("uplink.codec={name: qcs, gain: .inf}", "uplink.codec: qcs.gain: expected a finite number, got inf"),
        ("uplink.codec={name: qsgd, 3: 4}", "uplink.codec: qsgd.3: unknown key, known: bits"),
        ("uplink.codec=qsdg", "uplink.codec: unknown codec 'qsdg': did you mean 'qsgd'?"),
        ("uplink.codec.bits=99", "qsgd.bits: Input should be less than or equal to 16, got 99"),
        ("uplink.codec=[1]", "expected a name or a mapping with one, got [1]"),
        ("uplink.codec={bits: 3}", "'name' is missing in {'bits': 3}"),
        ("training.optimizer=3", "training.optimizer: expected a mapping of keys, got 3"),
        ("uplink={kind: delta, codec: qsgd}", "uplink.local_lr: Field required"),
        ("uplink={kind: data, codec: raw, replay: 3}", "uplink: replay needs cache: true"),
        ("uplink={kind: data, codec: raw, cache: true, normalize: batch}", "normalize: batch has no meaning"),
        ("uplink={kind: data, codec: raw, selection: most}", "unknown selection 'most'"),
        (
            "uplink={kind: data, codec: qsgd}",
            "unknown data codec 'qsgd': it codes vectors, for an uplink of kind: gradient or kind: delta; "
            "known here: dataq, raw",
        ),
        ("uplink.codec=dataq", "unknown codec 'dataq': it codes samples, for an uplink of kind: data; known"),
        (
            "uplink={kind: data, codec: {name: dataq, m: 65536}, cache: true, refine: {factor: 2}}",
            "refine.factor: 2 makes 131071 levels of m=65536, more than 65536; lower codec.m",
        ),
        ("seed.x=1", "--set seed.x: seed is 3, it has no keys"),
        ("seed", "--set 'seed': expected key.path=value"),
        ("=3", "--set '=3': expected key.path=value"),
        ("seed=[1", "--set 'seed=[1': the value is not YAML"),
        ("name=2020-13-01", "--set 'name=2020-13-01': the value is not YAML: month must be in 1..12"),
    ],
)
def test_mistakes_are_named(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(BASE, [change])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1e30", 1e30),
        ("1.e-3", 1e-3),
        ("-1E+3", -1e3),
        (".5e2", 50.0),
        ("-.5", -0.5),
        ("1e-05", 1e-5),
        ("1.0e-3", 1e-3),
        ("7", 7),
        ("e3", "e3"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("'1e-3'", "1e-3"),
    ],
)
def test_floats_are_those_of_yaml_1_2(text: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"lr: {text}", encoding="utf-8")
    for got in (read(tmp_path / "x.yaml")["lr"], override({}, [f"lr={text}"])["lr"]):
        assert got == value
        assert type(got) is type(value)


def test_a_small_step_survives_json() -> None:
    """Which says 1e-05, and is how the apps are told."""
    text = load(BASE, {"training.optimizer.lr": 1e-5}).to_json()
    assert load(text).training.optimizer.arguments == {"lr": 1e-5}


@pytest.mark.parametrize("name", ["1e3", "1.5", "007", "run", "2020-01-01", "yes"])
def test_what_is_written_is_read_back(name: str, tmp_path: Path) -> None:
    scenario = load(BASE, {"name": name, "training.optimizer.lr": 1e-5})
    (tmp_path / "x.yaml").write_text(dump(scenario), encoding="utf-8")
    assert load(tmp_path / "x.yaml").to_json() == scenario.to_json()


def test_the_finest_refinement_that_there_is() -> None:
    codec = {"name": "dataq", "m": 32768}
    uplink = {"kind": "data", "codec": codec, "cache": True, "refine": {"factor": 2}}
    assert load(BASE, {"uplink": uplink}).uplink.refine.factor == 2  # 65535 levels
    with pytest.raises(ConfigError, match=r"refine\.factor: 2 makes 65537 levels"):
        load(BASE, {"uplink": {**uplink, "codec": {**codec, "m": 32769}}})


def test_a_study_is_no_scenario() -> None:
    with pytest.raises(
        ConfigError, match="is a study, not a scenario; use `fedquant compare studies/wearables`"
    ):
        load("studies/wearables")


def test_fraction_and_sensors_per_round_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="training: give fraction or sensors_per_round, not both"):
        load(BASE, {"training.fraction": 0.5, "training.sensors_per_round": 2})


def test_every_mistake_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load({})
    assert str(caught.value).splitlines() == [
        f"{key}: Field required" for key in ("name", "task", "uplink", "training")
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wearable", "no scenario file 'wearable', and none of that name: did you mean 'wearables'?"),
        ("9/9.yaml", "no scenario file '9/9.yaml', and none of that name: known: "),
        ("{a: [", "scenario JSON, line 1, column 6: expected the node content"),
        ("{a: 1, a: 2}", "scenario JSON, line 1, column 8: key 'a' is repeated"),
        ("nonsense", "known: descent, forecast, mnist, papers/"),
        ("x" * 5000, "is no file name: "),
        (123, "scenario: expected the name of one, a path, JSON text or a mapping, got 123"),
    ],
)
def test_missing_or_broken_scenarios(name: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load(name)
    assert "studies/" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nseed: 1\ntask: watch\nseed: 2", ", line 4, column 1: key 'seed' is repeated"),
        ("task:\n  name: watch\n  name: mnist", ", line 3, column 3: key 'name' is repeated"),
        ("name: x\nseed: 1: 2", ", line 2, column 8: mapping values are not allowed here"),
        ("name: x\n  seed: [1", ", line 2, column 7: mapping values are not allowed here"),
        ("name: \0", ": U+0000 at position 6: special characters are not allowed"),
        ("name: *x", ", line 1, column 7: found undefined alias 'x'"),
        ("? [1]\n: 2", ", line 1, column 3: found unhashable key"),
        ("[" * 5000, ": brackets or keys are nested too deeply"),
        ("name: 2020-13-01", ": month must be in 1..12"),
    ],
)
def test_broken_yaml_is_one_line_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(caught.value) == f"{path}{message}"


def test_a_key_may_replace_a_merged_one(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, y: 4}\n", encoding="utf-8")
    assert read(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 3, "y": 4}}


def test_what_is_unknown_is_compared_with_its_kind() -> None:
    with pytest.raises(
        ConfigError, match=r"no study file 'nonsense', .*known: studies/codecs-mnist"
    ) as caught:
        find("nonsense", "study")
    assert "wearables" in str(caught.value)
    assert "papers/" not in str(caught.value)


def test_two_mistakes_of_a_codec_are_two_whole_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        load(BASE, ["uplink.codec={name: qsgd, bits: 99, scope: layer}"])
    assert str(caught.value).splitlines() == [
        "uplink.codec: qsgd.bits: Input should be less than or equal to 16, got 99",
        "uplink.codec: qsgd.scope: Input should be 'whole' or 'segment', or a valid integer, got 'layer'",
    ]


def test_overrides() -> None:
    values = {"a": {"b": 1, "c": 2}, "codec": "qsgd"}
    assert override(values, ["a.b=[1, x]", "d.e=true"]) == {
        "a": {"b": [1, "x"], "c": 2},
        "codec": "qsgd",
        "d": {"e": True},
    }
    assert override(values, {"codec.bits": 3})["codec"] == {"name": "qsgd", "bits": 3}
    assert override(values, ["a={b: 5}"])["a"] == {"b": 5}
    assert override(values, ["a=x=y"])["a"] == "x=y"
    assert values == {"a": {"b": 1, "c": 2}, "codec": "qsgd"}


def test_a_scenario_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(BASE).seed = 4
    assert isinstance(load(BASE), Scenario)


def test_dates_and_bytes_are_mistakes_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="description"):
        load("wearables", ["description=2020-01-01"])
    (tmp_path / "x.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load(tmp_path / "x.yaml")


def test_a_bare_name_stands_for_a_mapping() -> None:
    assert load("wearables", ["training.optimizer=adam"]).training.optimizer.name == "adam"
