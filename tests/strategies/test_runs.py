"""Whole runs on the embedded data: every uplink kind, reruns, gateways, and payloads gone wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedquant
from fedquant.errors import CodecError, ConfigError, EngineError
from fedquant.keys import Purpose
from fedquant.message import Reply
from fedquant.plan import make_plan
from fedquant.scenario import load
from fedquant.tasks import learn
from tests.strategies.tampering import Tamper, tampered_run

QUICK = {"training.rounds": 3, "training.evaluate_every": 3, "training.batch_size": 4}
GRADIENT = {"kind": "gradient", "codec": "qsgd"}
DELTA = {"kind": "delta", "codec": "qsgd", "local_steps": 2, "local_lr": 0.05}
DATA = {"kind": "data", "codec": "dataq", "selection": "relative"}
CACHE = {**DATA, "cache": True}
DQSGD = {**GRADIENT, "control": {"name": "dqsgd_convex", "k": 5, "alpha": 0.9}}
CORRECTED = {"kind": "data", "codec": {"name": "dataq", "m": 64}, "grad_corr": {"lipschitz": 1e-6}}
UPLINKS = {
    "dqsgd": DQSGD,
    "corrected": CORRECTED,
    "gradient": GRADIENT,
    "delta": DELTA,
    "data": DATA,
    "cache": CACHE,
}


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "timings.jsonl")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.mark.parametrize("kind", UPLINKS)
def test_a_rerun_writes_the_same_run_folder(kind: str, tmp_path: Path) -> None:
    changes = {**QUICK, "uplink": UPLINKS[kind], "training.epoch_rounds": 1}
    first = fedquant.run("wearables", changes, out=tmp_path / "a")
    again = fedquant.run("wearables", changes, out=tmp_path / "b")
    assert contents(first.folder) == contents(again.folder)
    assert {"scenario.yaml", "rounds.jsonl", "sensors-00000.npz", "model.safetensors"} <= set(
        contents(first.folder)
    )
    assert first.uplink_bytes > 0
    assert [row["step"] for row in first.rounds] == [True] * 3


@pytest.mark.parametrize("kind", UPLINKS)
def test_gateways_change_nothing_but_who_speaks(kind: str, tmp_path: Path) -> None:
    changes = {**QUICK, "uplink": UPLINKS[kind]}
    alone = fedquant.run("wearables", changes, out=tmp_path / "a")
    hubs = fedquant.run("wearables", {**changes, "topology.sensors_per_gateway": 5}, out=tmp_path / "b")
    # The run's identity enters checksums, not draws: sizes, steps and accuracies are equal.
    assert alone.rounds == hubs.rounds


def test_bytes_are_those_of_the_payloads(tmp_path: Path) -> None:
    result = fedquant.run(
        "wearables", {**QUICK, "uplink": {"kind": "gradient", "codec": "float32"}}, out=tmp_path
    )
    size = make_plan(load(result.folder / "scenario.yaml")).model_spec.size
    assert [row["uplink_bytes"] for row in result.rounds] == [16 * (4 * size + 5)] * 3
    columns = np.load(tmp_path / "sensors-00000.npz", allow_pickle=False)
    assert columns["uplink_bytes"].sum() == result.uplink_bytes
    assert columns["sensor"].tolist() == list(range(16)) * 3


def test_the_model_changes_and_is_saved(tmp_path: Path) -> None:
    result = fedquant.run("wearables", {**QUICK, "uplink": GRADIENT}, out=tmp_path)
    plan = make_plan(load(tmp_path / "scenario.yaml"))
    start = plan.initial_model().state_dict()
    saved = result.model()
    assert saved.keys() == start.keys()
    assert any(not np.array_equal(saved[k].numpy(), start[k].numpy()) for k in saved)


def test_data_without_selection_needs_no_model_downlink(tmp_path: Path) -> None:
    result = fedquant.run("wearables", {**QUICK, "uplink": {"kind": "data", "codec": "dataq"}}, out=tmp_path)
    assert result.downlink_bytes == 0


def test_a_cached_sample_travels_once(tmp_path: Path) -> None:
    uplink = {"kind": "data", "codec": "dataq", "cache": True}
    changes = {**QUICK, "training.rounds": 12, "training.batch_size": 64, "uplink": uplink}
    result = fedquant.run("wearables", changes, out=tmp_path)
    plan = make_plan(load(tmp_path / "scenario.yaml"))
    sent = sum(row["samples"] for row in result.rounds)
    assert sent <= sum(plan.federation.sizes)
    drawn = {(s, int(i)) for s in range(16) for r in range(1, 13) for i in plan.batch(s, r)}
    assert sent == len(drawn)


def test_batch_statistics_travel_and_are_counted(tmp_path: Path) -> None:
    changes = {**QUICK, "task.norm": "batch", "uplink": {"kind": "gradient", "codec": "float32"}}
    result = fedquant.run("wearables", changes, out=tmp_path)
    plan = make_plan(load(tmp_path / "scenario.yaml"))
    assert plan.buffer_spec.size > 0
    each = 4 * plan.model_spec.size + 5 + 4 * plan.buffer_spec.size + 5
    assert result.rounds[0]["uplink_bytes"] == 16 * each


def test_a_correction_is_one_bit_a_batch(tmp_path: Path) -> None:
    plain = {key: value for key, value in CORRECTED.items() if key != "grad_corr"}
    without = fedquant.run("wearables", {**QUICK, "uplink": plain}, out=tmp_path / "a")
    shared = fedquant.run("wearables", {**QUICK, "uplink": CORRECTED}, out=tmp_path / "b")
    estimated = {**plain, "grad_corr": {"index": "sent"}}
    sent = fedquant.run("wearables", {**QUICK, "uplink": estimated}, out=tmp_path / "c")
    rows = list(zip(without.rounds, shared.rounds, sent.rounds, strict=True))
    assert [b["uplink_bytes"] - a["uplink_bytes"] for a, b, _ in rows] == [16 * (5 + 1)] * 3
    # 18 bits name one of 210,183 coordinates; the estimated C_z is a float32
    assert [c["uplink_bytes"] - a["uplink_bytes"] for a, _, c in rows] == [16 * (5 + 4 + 3)] * 3
    assert without.downlink_bytes == 0 < shared.downlink_bytes
    assert "clipped" not in without.rounds[0]
    assert {row["clipped"] for row in sent.rounds} == {0}  # an estimate does not clip its own batch
    small = {**plain, "grad_corr": {"lipschitz": 1e-9}}
    clipped = fedquant.run("wearables", {**QUICK, "uplink": small}, out=tmp_path / "d")
    assert {row["clipped"] for row in clipped.rounds} == {16}
    models = [next(iter(run.model().values())).numpy() for run in (without, shared)]
    assert not np.array_equal(*models)


REFINED = {**CACHE, "codec": {"name": "dataq", "m": 3}, "selection": "all", "refine": {"factor": 4}}


@pytest.mark.parametrize("scale", ["max", "l2"])
def test_a_kept_sample_is_refined_once_and_by_its_difference(scale: str, tmp_path: Path) -> None:
    changes = {**QUICK, "training.rounds": 10, "training.batch_size": 48}
    plain = {key: value for key, value in REFINED.items() if key != "refine"}
    runs = [
        fedquant.run(
            "wearables", {**changes, "uplink": uplink, "uplink.codec.scale": scale}, out=tmp_path / n
        )
        for n, uplink in (("a", plain), ("b", REFINED), ("c", REFINED))
    ]
    assert contents(runs[1].folder) == contents(runs[2].folder)
    plan = make_plan(load(runs[1].folder / "scenario.yaml"))
    seen: dict[tuple[int, int], int] = {}
    for round in range(1, 11):
        for sensor in range(16):
            for i in plan.batch(sensor, round).tolist():
                seen[sensor, i] = seen.get((sensor, i), 0) + 1
    assert sum(row["refined"] for row in runs[1].rounds) == sum(n > 1 for n in seen.values()) > 0
    assert [row["samples"] for row in runs[0].rounds] == [row["samples"] for row in runs[1].rounds]
    assert runs[0].uplink_bytes < runs[1].uplink_bytes
    assert sum(row["refused"] + row["failures"] for row in runs[1].rounds) == 0


@pytest.mark.parametrize(
    ("uplink", "match"),
    [
        ({**REFINED, "cache": False}, "refine needs cache: true"),
        ({**REFINED, "codec": "raw"}, "refine needs codec dataq with rounding: floor"),
        ({**REFINED, "codec": {"name": "dataq", "rounding": "nearest"}}, "rounding: floor"),
    ],
)
def test_refinement_needs_nested_grids_and_memory(uplink: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load("wearables", {"uplink": uplink})


def test_a_budget_is_kept(tmp_path: Path) -> None:
    control = {"name": "dqsgd_nonconvex", "budget": {"bytes": 1_000_000}, "initial_bits": 4}
    changes = {**QUICK, "training.rounds": 9, "uplink": {**GRADIENT, "control": control}}
    result = fedquant.run("wearables", changes, out=tmp_path)
    sent = np.load(tmp_path / "sensors-00000.npz", allow_pickle=False)
    each = np.bincount(sent["sensor"], sent["uplink_bytes"])
    assert each.max() <= 1_000_000
    assert each.min() > 900_000
    assert result.rounds[0]["bits"] == 4
    assert all(2 <= row["bits"] <= 8 for row in result.rounds)
    with pytest.raises(ConfigError, match="100000"):
        fedquant.run("wearables", {**changes, "uplink.control.budget.bytes": 100_000}, out=tmp_path)


def test_only_levels_can_be_corrected() -> None:
    with pytest.raises(ConfigError, match="grad_corr corrects what dataq lost; codec raw"):
        load("wearables", {"uplink": {"kind": "data", "codec": "raw", "grad_corr": {}}})


def test_fewer_sensors_a_round(tmp_path: Path) -> None:
    result = fedquant.run(
        "wearables", {**QUICK, "uplink": CACHE, "training.sensors_per_round": 3}, out=tmp_path
    )
    assert [row["asked"] for row in result.rounds] == [3, 3, 3]


def with_payload(reply: Reply, payload: bytes) -> Reply:
    return Reply(reply.run, reply.round, reply.sensors, ((payload,),))


def flip(reply: Reply) -> list[Reply]:
    payload = bytearray(reply.payloads[0][0])
    payload[20] ^= 1
    return [with_payload(reply, bytes(payload))]


OLD: dict[str, bytes] = {}
TAMPERS: dict[str, tuple[Tamper, str]] = {
    "flipped": (flip, "refused"),
    "truncated": (lambda r: [with_payload(r, r.payloads[0][0][:-1])], "refused"),
    "header only": (lambda r: [with_payload(r, r.payloads[0][0][:3])], "refused"),
    "twice": (lambda r: [r, r], "failures"),
    "stranger": (lambda r: [Reply(r.run, r.round, (5,), r.payloads)], "failures"),
    "out of range": (lambda r: [Reply(r.run, r.round, (4000,), r.payloads)], "failures"),
    "other run": (lambda r: [Reply(r.run ^ 1, r.round, r.sensors, r.payloads)], "failures"),
    "other round": (lambda r: [Reply(r.run, 1, r.sensors, r.payloads)], "failures"),
    "slots": (lambda r: [Reply(r.run, r.round, r.sensors, ((r.payloads[0][0], b""),))], "failures"),
}


@pytest.mark.parametrize("name", TAMPERS)
@pytest.mark.parametrize("kind", ["gradient", "cache"])
def test_a_bad_payload_is_dropped_and_the_round_goes_on(kind: str, name: str, tmp_path: Path) -> None:
    scenario = load("wearables", {**QUICK, "uplink": UPLINKS[kind]})
    tamper, counted = TAMPERS[name]
    rows = tampered_run(scenario, tamper, tmp_path)
    assert [row[counted] for row in rows] == [0, 1, 0]
    assert [row["step"] for row in rows] == [True] * 3


def test_a_refused_sample_may_travel_again(tmp_path: Path) -> None:
    """The node learns that round 2's payload was refused, and takes its samples back."""
    uplink = {"kind": "data", "codec": "dataq", "cache": True}
    sizes = 200  # every sensor draws all it has
    scenario = load("wearables", {**QUICK, "training.batch_size": 400, "uplink": uplink})
    first = {"done": False}

    def refuse(reply: Reply) -> list[Reply]:
        first["done"] = True
        return flip(reply) if reply.payloads[0][0] else [reply]

    rows = tampered_run(scenario, refuse, tmp_path)
    plan = make_plan(scenario)
    assert first["done"]
    assert max(plan.federation.sizes) < 400
    assert min(plan.federation.sizes) > sizes / 4
    assert sum(row["samples"] for row in rows) == sum(plan.federation.sizes)


def test_nodes_that_cannot_remember_cannot_take_part(tmp_path: Path) -> None:
    scenario = load("wearables", {**QUICK, "uplink": CACHE})
    state = tmp_path / "state"
    state.write_text("a file where a folder should be")
    with pytest.raises(EngineError, match="cannot take part"):
        fedquant.run(scenario, {"state_dir": str(state)}, out=tmp_path / "out")


def test_nodes_that_always_fail_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise CodecError("the radio burnt out")

    monkeypatch.setattr(learn, "gradient", broken)
    with pytest.raises(EngineError, match=r"no node answered in 3 rounds in a row(.|\n)*burnt out"):
        fedquant.run("wearables", {**QUICK, "training.rounds": 9, "uplink": GRADIENT}, out=tmp_path)


def test_more_sensors_than_were_asked_are_one_failure(tmp_path: Path) -> None:
    def crowd(reply: Reply) -> list[Reply]:
        return [Reply(reply.run, reply.round, tuple(range(1000)), reply.payloads * 1000)]

    rows = tampered_run(load("wearables", {**QUICK, "uplink": GRADIENT}), crowd, tmp_path)
    assert [row["failures"] for row in rows] == [0, 1, 0]
    assert [row["answered"] for row in rows] == [16, 15, 16]


def test_who_drew_nothing_has_nothing_to_say(tmp_path: Path) -> None:
    """A stream ends after some rounds; a payload made up after that is refused."""
    changes = {**QUICK, "training.sampling": "stream", "training.batch_size": 400, "uplink": GRADIENT}
    plan = make_plan(scenario := load("wearables", changes))
    x = np.ones(plan.model_spec.size, np.float32)
    payload, _ = plan.scenario.uplink.codec.encode(x, plan.model_spec, plan.up(2, 0, Purpose.GRADIENT))
    rows = tampered_run(scenario, lambda reply: [with_payload(reply, payload)], tmp_path)
    assert [row["refused"] for row in rows] == [0, 1, 0]
    assert [row["step"] for row in rows] == [True, False, False]


@pytest.mark.parametrize("cache", [False, True])
def test_more_samples_than_were_drawn_are_refused(cache: bool, tmp_path: Path) -> None:
    """In round 1 every sensor draws all that it has; a cache knows them, a stream has ended."""
    changes = {"training.batch_size": 400, "training.sampling": "random" if cache else "stream"}
    uplink = {"kind": "data", "codec": "dataq", "cache": cache}
    plan = make_plan(scenario := load("wearables", {**QUICK, **changes, "uplink": uplink}))
    data = plan.samples(0, np.arange(3))
    payload = plan.scenario.uplink.codec.encode(data.x, data.y, plan.data_spec, plan.up(2, 0, Purpose.DATA))
    rows = tampered_run(scenario, lambda reply: [with_payload(reply, payload)], tmp_path)
    assert [row["refused"] for row in rows] == [0, 1, 0]


def test_a_gradient_with_bad_buffers_is_not_taken(tmp_path: Path) -> None:
    """A node that is told that it was refused sends the same again, so nothing of it may have counted."""
    changes = {**QUICK, "training.rounds": 2, "task.norm": "batch", "uplink": GRADIENT}
    scenario = load("wearables", changes)

    def without(reply: Reply) -> list[Reply]:
        return [Reply(reply.run, reply.round, reply.sensors, ((b"", b""),))]

    def damaged(reply: Reply) -> list[Reply]:
        gradient, buffers = reply.payloads[0]
        return [Reply(reply.run, reply.round, reply.sensors, ((gradient, buffers[:-1]),))]

    rows = tampered_run(scenario, damaged, tmp_path / "damaged")
    assert [row["refused"] for row in rows] == [0, 1]
    tampered_run(scenario, without, tmp_path / "without")
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("damaged", "without")]
    assert models[0] == models[1]


def test_a_gradient_that_is_not_finite_is_no_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = make_plan(scenario := load("wearables", {**QUICK, "uplink": {**GRADIENT, "codec": "float32"}}))
    x = np.full(plan.model_spec.size, 3e38, np.float32)
    payload, _ = plan.scenario.uplink.codec.encode(x, plan.model_spec, plan.up(2, 0, Purpose.GRADIENT))
    rows = tampered_run(scenario, lambda reply: [with_payload(reply, payload)], tmp_path)
    assert [row["step"] for row in rows] == [True, False, True]
    assert "round 2: the gradient is not finite" in caplog.text


@pytest.mark.parametrize("uplink", [GRADIENT, {"kind": "data", "codec": "dataq"}], ids=["gradient", "data"])
def test_a_model_that_diverges_ends_the_run(uplink: dict[str, Any], tmp_path: Path) -> None:
    changes = {**QUICK, "training.optimizer": {"name": "sgd", "lr": 1e38}, "uplink": uplink}
    with pytest.raises(EngineError, match=r"the model has diverged(; |.*)lower the learning rate"):
        fedquant.run("wearables", {**changes, "training.rounds": 20}, out=tmp_path)
