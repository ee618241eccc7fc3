"""What nodes and server remember between rounds: residuals, and the model that nodes hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedquant
from clients.state import NodeState
from fedquant.codecs.base import Body
from fedquant.codecs.error_feedback import ErrorFeedback
from fedquant.errors import ConfigError
from fedquant.message import Reply
from fedquant.plan import make_plan
from fedquant.scenario import load
from tests.strategies.tampering import tampered_run

QUICK = {"training.rounds": 4, "training.evaluate_every": 4, "training.batch_size": 4}
FEEDBACK = {"kind": "gradient", "codec": {"name": "error_feedback", "inner": {"name": "qsgd", "bits": 2}}}
DIFFERENCE = {"codec": {"name": "qsgd", "bits": 8, "scope": "segment"}, "reference": "difference"}
GRADIENT = {"kind": "gradient", "codec": {"name": "qsgd", "bits": 8}}


def flip(reply: Reply) -> list[Reply]:
    payload = bytearray(reply.payloads[0][0])
    payload[20] ^= 1
    return [Reply(reply.run, reply.round, reply.sensors, ((bytes(payload),),))]


@pytest.mark.parametrize("per_round", [16, 7])
@pytest.mark.parametrize("fate", ["refused", "silent"])
def test_residuals_hold_all_that_did_not_arrive(
    per_round: int, fate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message finds a new Node that has only its state file, as after a restart."""
    owed: dict[int, Any] = {}
    lost: dict[int, Any] = {}
    plain = ErrorFeedback._encode_body

    def noting(self: Any, x: Any, spec: Any, key: Any, state: Any, knobs: Any) -> Body:
        body = plain(self, x, spec, key, state, knobs)
        sent = body.decoded()
        owed[key.sensor] = owed.get(key.sensor, 0) + x.astype(float) - sent
        if (key.sensor, key.round) == (0, 2):
            lost[0] = sent.astype(float)
        return body

    monkeypatch.setattr(ErrorFeedback, "_encode_body", noting)
    changes = {**QUICK, "training.rounds": 6, "uplink": FEEDBACK, "training.sensors_per_round": per_round}
    scenario = load("wearables", {**changes, "seed": 4})
    tamper = flip if fate == "refused" else lambda reply: []
    rows = tampered_run(scenario, tamper, tmp_path)
    asked = {s for s, r in zip(*columns(tmp_path, "sensor", "round"), strict=True) if r > 2}
    assert (0 in lost) == any(row["refused"] or row["answered"] < row["asked"] for row in rows)
    for sensor, expected in owed.items():
        state = NodeState.open(next(tmp_path.rglob(f"node-{sensor:07}.safetensors")), scenario.run_id)
        if sensor == 0 and 0 in lost and 0 in asked:
            expected = expected + lost[0]
        # six rounds of float32 sums of numbers below 4
        np.testing.assert_allclose(state.arrays[sensor]["residual"], expected, atol=6 * 4 * 2**-22)
    assert per_round < 16 or 0 in lost


def columns(folder: Path, *names: str) -> list[list[int]]:
    data = np.load(folder / "sensors-00000.npz", allow_pickle=False)
    return [data[name].tolist() for name in names]


def test_a_weight_that_diverges_ends_before_the_run(tmp_path: Path) -> None:
    codec = {"name": "error_feedback", "beta": 1.0, "inner": {"name": "qsgd", "bits": 2}}
    with pytest.raises(fedquant.FedquantError, match="leave beta out"):
        fedquant.run("wearables", {**QUICK, "uplink": {"kind": "gradient", "codec": codec}}, out=tmp_path)


def held_models(folder: Path, run_id: int) -> dict[str, tuple[int, bytes]]:
    states = {p.name: NodeState.open(p, run_id) for p in folder.rglob("node-*.safetensors")}
    return {name: (s.broadcasts, s.model.tobytes()) for name, s in states.items()}


def test_differences_bring_every_node_the_same_model(tmp_path: Path) -> None:
    result = fedquant.run("wearables", {**QUICK, "uplink": GRADIENT, "downlink": DIFFERENCE}, out=tmp_path)
    scenario = load(tmp_path / "scenario.yaml")
    models = held_models(tmp_path, scenario.run_id)
    assert len(set(models.values())) == 1
    assert {count for count, _ in models.values()} == {4}
    size = make_plan(scenario).model_spec.size
    assert result.rounds[0]["downlink_bytes"] < 100  # every node can make the initial model itself
    assert all(size < row["downlink_bytes"] < 1.01 * size for row in result.rounds[1:])
    assert [row["catch_up_bytes"] for row in result.rounds] == [0] * 4
    assert result.downlink_bytes == sum(row["downlink_bytes"] for row in result.rounds)


def test_differences_of_float32_are_the_model(tmp_path: Path) -> None:
    plain = fedquant.run("wearables", {**QUICK, "uplink": GRADIENT}, out=tmp_path / "a")
    moved = fedquant.run(
        "wearables", {**QUICK, "uplink": GRADIENT, "downlink.reference": "difference"}, out=tmp_path / "b"
    )
    for name, tensor in plain.model().items():
        # w₀ + (w − w₀) differs from w by an ulp or so, and a level of 127 may flip by it
        np.testing.assert_allclose(moved.model()[name].numpy(), tensor.numpy(), atol=2e-3)


@pytest.mark.parametrize("bits", [2, 8])
def test_nodes_that_missed_broadcasts_catch_up(bits: int, tmp_path: Path) -> None:
    changes = {
        **QUICK,
        "training.rounds": 9,
        "training.sensors_per_round": 6,
        "uplink": GRADIENT,
        "downlink": DIFFERENCE,
        "downlink.codec.bits": bits,
    }
    result = fedquant.run("wearables", changes, out=tmp_path)
    scenario = load(tmp_path / "scenario.yaml")
    heard: dict[int, set[bytes]] = {}
    for count, model in held_models(tmp_path, scenario.run_id).values():
        heard.setdefault(count, set()).add(model)
    assert all(len(models) == 1 for models in heard.values())  # as many broadcasts, the same model
    assert sum(row["catch_up_bytes"] for row in result.rounds) > 0
    total = sum(row["downlink_bytes"] + row["catch_up_bytes"] for row in result.rounds)
    assert result.downlink_bytes == total


def test_a_node_whose_answer_was_lost_is_told_everything(tmp_path: Path) -> None:
    scenario = load("wearables", {**QUICK, "uplink": GRADIENT, "downlink": DIFFERENCE})
    rows = tampered_run(scenario, lambda reply: [], tmp_path)
    assert [row["answered"] for row in rows] == [16, 15, 16, 16]
    whole = 4 * make_plan(scenario).model_spec.size + 7
    assert [row["catch_up_bytes"] for row in rows] == [0, 0, whole, 0]
    assert len(set(held_models(tmp_path, scenario.run_id).values())) == 1


def test_a_node_that_lost_its_state_is_told_everything(tmp_path: Path) -> None:
    def forget(reply: Reply) -> list[Reply]:
        next(tmp_path.rglob("node-0000000.safetensors")).unlink()
        return [reply]

    scenario = load("wearables", {**QUICK, "uplink": GRADIENT, "downlink": DIFFERENCE})
    rows = tampered_run(scenario, forget, tmp_path)
    assert [row["failures"] for row in rows] == [0, 0, 1, 0]
    assert [row["catch_up_bytes"] > 0 for row in rows] == [False, False, False, True]
    assert len(set(held_models(tmp_path, scenario.run_id).values())) == 1


def test_a_coded_model_is_what_nodes_train_on(tmp_path: Path) -> None:
    changes = {**QUICK, "uplink": GRADIENT, "downlink.codec": {"name": "qsgd", "bits": 8, "scope": "segment"}}
    coded = fedquant.run("wearables", changes, out=tmp_path)
    size = make_plan(load(tmp_path / "scenario.yaml")).model_spec.size
    # 8 bits a parameter; the scales of layers that start at zero are all that they cost
    assert all(0.99 * size < row["downlink_bytes"] < 1.01 * size for row in coded.rounds)


def test_a_broadcast_cannot_remember() -> None:
    with pytest.raises(ConfigError, match="use its inner codec with reference: difference"):
        load("wearables", {"downlink.codec": {"name": "error_feedback", "inner": "qsgd"}})
