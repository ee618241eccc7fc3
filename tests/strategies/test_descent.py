"""Differential quantization over Flower: real payloads give the rates of the simulation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clients.app
import fedquant
from clients.state import NodeState
from fedquant import descent
from fedquant.codecs.floats import Float64
from fedquant.differential import methods, several
from fedquant.differential.arrays import EPS, norm
from fedquant.differential.logistic import random_logistic
from fedquant.differential.problems import Problem, gaussian
from fedquant.differential.quantizers import Ball, Cube, Quantizer
from fedquant.differential.simulate import simulate
from fedquant.errors import ConfigError, EngineError, FedquantError
from fedquant.keys import Key
from fedquant.message import Reply
from fedquant.scenario import load
from tests.strategies.tampering import Tamper, tampered_run
from tests.strategies.test_runs import contents

N = 8
SMALL = {"task.n": N, "training.rounds": 3000}
QUANTIZED = ["nq-gd", "dq-gd", "dq-agd", "dq-hb"]
EXACT = ["gd", "agd", "hb"]
TOGETHER = {
    **SMALL,
    "task.workers": 3,
    "task.spread": 2.0,
    "uplink.method": "nq-gd",
    "uplink.total_rate": 13.5,
}


def uplink(method: str, codec: str, bits: float) -> dict[str, Any]:
    plain = {"kind": "descent", "method": method}
    return plain if method in EXACT else {**plain, "codec": {"name": codec, "bits": bits}}


def rate(rows: list[dict[str, Any]]) -> float:
    return float(rows[-1]["relative_error"] ** (1 / rows[-1]["iteration"]))


def agree(rows: list[dict[str, Any]], name: str, problem: Problem, tool: Quantizer | None) -> None:
    expected = simulate(name, problem, tool)
    assert rows[-1]["iteration"] == len(rows) == expected.steps[0]
    assert rows[-1]["finished"] == expected.converged[0]
    # what is not quantized ends at a sum of roundings, whose order differs: a few ulps of x*
    ulps = 0.0 if tool else 8 * EPS * float(norm(problem.x_star)[0]) / rows[-1]["error"] / len(rows)
    assert rate(rows) == pytest.approx(expected.rate[0], abs=1e-6 + ulps)
    assert rows[-1]["error"] <= expected.bound[0] * (1 + 1e-9)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("codec", "tool", "bits"), [("uniform", Cube, 4.6), ("ball", Ball, 4.0)])
@pytest.mark.parametrize("method", QUANTIZED)
def test_runs_have_the_rates_of_the_simulation(
    method: str, codec: str, tool: Any, bits: float, seed: int, tmp_path: Path
) -> None:
    changes = {**SMALL, "seed": seed, "uplink": uplink(method, codec, bits)}
    rows = fedquant.run("descent", changes, out=tmp_path).rounds
    agree(rows, method, gaussian(Key(seed), N, 10.0, 1), tool(N, bits))


@pytest.mark.parametrize("method", EXACT)
def test_without_quantization_too(method: str, tmp_path: Path) -> None:
    rows = fedquant.run("descent", {**SMALL, "uplink": uplink(method, "", 0)}, out=tmp_path).rounds
    agree(rows, method, gaussian(Key(1), N, 10.0, 1), None)


@pytest.mark.parametrize("method", ["dq-gd", "dq-agd", "agd"])
def test_functions_that_are_not_quadratic(method: str, tmp_path: Path) -> None:
    changes = {"task": {"name": "logistic", "n": N}, "uplink": uplink(method, "uniform", 5)}
    rows = fedquant.run("descent", changes, out=tmp_path).rounds
    agree(rows, method, random_logistic(Key(1), N, 0.1, 1), None if method in EXACT else Cube(N, 5))


def test_what_diverges_ends_where_the_simulation_does(tmp_path: Path) -> None:
    changes = {**SMALL, "uplink": uplink("nq-gd", "uniform", 1)}
    rows = fedquant.run("descent", changes, out=tmp_path).rounds
    agree(rows, "nq-gd", gaussian(Key(1), N, 10.0, 1), Cube(N, 1))
    assert rows[-1]["diverged"]
    assert rows[-1]["range"] > 1e6 * rows[0]["range"] / 3  # its first row is of r₁


def test_bytes_are_those_of_the_payloads(tmp_path: Path) -> None:
    result = fedquant.run("descent", {"training.rounds": 4}, out=tmp_path / "a")
    assert [row["uplink_bytes"] for row in result.rounds] == [32 * 5 // 8 + 5] * 4
    # x̂ in float64; of the knob, lengths, receiver, name and type come with 8 bytes of range
    assert [row["downlink_bytes"] for row in result.rounds] == [8 * 32 + 5 + 8 + 17] * 4
    assert result.uplink_bytes == 4 * 25
    columns = np.load(tmp_path / "a" / "sensors-00000.npz", allow_pickle=False)
    assert columns["uplink_bytes"].tolist() == [25] * 4
    for bits, size in ((3, 12), (4.6, -(-32 * 4.6 // 8)), (8, 32)):
        row = fedquant.run(
            "descent", {"training.rounds": 1, "uplink.codec.bits": bits}, out=tmp_path / "b"
        ).rounds[0]
        assert row["uplink_bytes"] <= size + 5 + (not float(bits).is_integer())  # two runs of levels
        assert row["uplink_bytes"] >= size + 5
    exact = fedquant.run("descent", {"training.rounds": 1, "uplink": uplink("gd", "", 0)}, out=tmp_path / "c")
    assert (exact.uplink_bytes, exact.downlink_bytes) == (8 * 32 + 5, 8 * 32 + 5)


@pytest.mark.parametrize("gateway", [1, 3])
@pytest.mark.parametrize("codec", ["uniform", "ball"])
def test_several_workers_reach_the_minimizer(codec: str, gateway: int, tmp_path: Path) -> None:
    changes = {**TOGETHER, "uplink.codec": codec, "topology.sensors_per_gateway": gateway}
    result = fedquant.run("descent", changes, out=tmp_path)
    rows, made = result.rounds, descent.make_descent(load(tmp_path / "scenario.yaml"))
    assert rows[-1]["finished"]
    assert rows[-1]["relative_error"] < 1e-12
    assert isinstance(made.method, several.Shares)
    rates = [float(c.bits) for c in made.codecs]  # type: ignore[attr-defined]
    assert rates == pytest.approx([3.5, 4.5, 5.5], abs=2e-3)  # L_k = 10, 20, 40
    assert sum(rates) <= 13.5
    # the first round carries the norms, a float64 in a payload of its own
    assert rows[0]["uplink_bytes"] - rows[1]["uplink_bytes"] == 3 * 13
    assert rows[1]["uplink_bytes"] <= (13.5 * N) / 8 + 3 * (5 + 2)
    # the nodes' memories are the gradients at the end, as the server's are
    ends = [held(tmp_path, k // gateway, result, k) for k in range(3)]
    for k, state in enumerate(ends):
        told = state["memory"] + state["open"]
        assert told == pytest.approx(made.workers[k].gradient(result_x(tmp_path)), abs=1e-9)


def held(folder: Path, gateway: int, result: Any, sensor: int) -> Any:
    run = load(folder / "scenario.yaml").run_id
    path = next(result.folder.rglob(f"node-{gateway:07}.safetensors"))
    return NodeState.open(path, run).arrays[sensor]


def result_x(folder: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")["x"]


def test_unquantized_workers_are_averaged(tmp_path: Path) -> None:
    for method in EXACT:
        changes = {**SMALL, "task.workers": 3, "uplink": uplink(method, "", 0)}
        result = fedquant.run("descent", changes, out=tmp_path)
        made = descent.make_descent(load(tmp_path / "scenario.yaml"))
        assert result.rounds[-1]["finished"]
        assert result_x(tmp_path).dtype == np.float64
        assert norm(made.problem.gradient(result_x(tmp_path))) < 1e-9


@pytest.mark.parametrize(
    "changes",
    [SMALL, {**SMALL, "uplink.method": "dq-hb"}, TOGETHER],
    ids=["dq-gd", "dq-hb", "with memories"],
)
def test_a_rerun_writes_the_same_run_folder(changes: dict[str, Any], tmp_path: Path) -> None:
    first = fedquant.run("descent", changes, out=tmp_path / "a")
    again = fedquant.run("descent", changes, out=tmp_path / "b")
    assert contents(first.folder) == contents(again.folder)
    expected = {"scenario.yaml", "rounds.jsonl", "sensors-00000.npz", "model.safetensors"}
    assert expected <= set(contents(first.folder))


def refused(reply: Reply) -> list[Reply]:
    (payload, *rest), *others = reply.payloads
    bad = payload[:-1] + bytes([payload[-1] ^ 1])
    return [Reply(reply.run, reply.round, reply.sensors, ((bad, *rest), *others))]


def shortened(reply: Reply) -> list[Reply]:
    (payload, *rest), *others = reply.payloads
    return [Reply(reply.run, reply.round, reply.sensors, ((payload[:4], *rest), *others))]


FATES: dict[str, Tamper] = {"lost": lambda reply: [], "refused": refused, "shortened": shortened}


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize(
    "changes",
    [SMALL, {**SMALL, "uplink.method": "dq-hb"}, {**SMALL, "uplink.method": "nq-gd"}, TOGETHER],
    ids=["dq-gd", "dq-hb", "nq-gd", "with memories"],
)
def test_what_did_not_arrive_is_sent_again(changes: dict[str, Any], fate: str, tmp_path: Path) -> None:
    """Each message finds a new node that has only its state file, as after a restart."""
    scenario = load("descent", {**changes, "training.rounds": 12})
    smooth = fedquant.run(scenario, out=tmp_path / "a").rounds
    rough = tampered_run(scenario, FATES[fate], tmp_path / "b")
    assert [row["step"] for row in rough] == [True, False] + [True] * 10
    assert [row["iteration"] for row in rough] == [1, 1, *range(2, 12)]
    # only sensor 0 is asked again
    assert [row["asked"] for row in rough] == [scenario.sensors] * 2 + [1] + [scenario.sensors] * 9
    assert [row["refused"] for row in rough] == [0, fate != "lost", *([0] * 10)]
    assert rough[1]["error"] == rough[0]["error"]
    kept = [row for row in rough if row["step"]]
    assert [row["error"] for row in kept] == [row["error"] for row in smooth[:11]]
    assert [row["range"] for row in kept] == [row["range"] for row in smooth[:11]]


def test_nodes_that_restart_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = clients.app._node

    def restarted(context: Any) -> Any:
        clients.app._scenario.cache_clear()
        descent._make_descent.cache_clear()
        return plain(context)

    changes = {**SMALL, "training.rounds": 12}
    smooth = fedquant.run("descent", changes, out=tmp_path / "a")
    monkeypatch.setattr(clients.app, "_node", restarted)
    assert fedquant.run("descent", changes, out=tmp_path / "b").rounds == smooth.rounds


def test_a_node_that_lost_its_state_ends_the_run(tmp_path: Path) -> None:
    def forget(reply: Reply) -> list[Reply]:
        next(tmp_path.rglob("node-0000000.safetensors")).unlink()
        return [reply]

    with pytest.raises(EngineError, match=r"no node answered in 3 rounds .*\n.*the server expects round 2"):
        tampered_run(load("descent", SMALL), forget, tmp_path)


def test_an_overflow_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = methods.Plan.bound
    monkeypatch.setattr(methods.Plan, "bound", lambda plan, t: plain(plan, t) / (1e3 if t == 3 else 1))
    said = r"round 4: sensor 0's gradient is outside its range \(iteration 3, r = .*L, mu or D do not hold"
    with pytest.raises(EngineError, match=said):
        fedquant.run("descent", {**SMALL, "uplink.codec.bits": 9}, out=tmp_path)


def test_a_norm_comes_once(tmp_path: Path) -> None:
    def again(reply: Reply) -> list[Reply]:
        extra, _ = Float64().encode(np.ones(1), descent.NORM, Key(0))
        return [Reply(reply.run, reply.round, reply.sensors, ((reply.payloads[0][0], extra),))]

    rows = tampered_run(load("descent", {**TOGETHER, "training.rounds": 3}), again, tmp_path)
    assert [row["refused"] for row in rows] == [0, 1, 0]


def test_too_few_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"worker 0 has q = 1\.41, needs q < 1; give more bits"):
        fedquant.run("descent", {**TOGETHER, "uplink.total_rate": 6}, out=tmp_path)
    with pytest.raises(
        ConfigError, match=r"total_rate=4 leaves worker 0 0\.333 bit/coordinate: uniform\.bits"
    ):
        fedquant.run("descent", {**TOGETHER, "uplink.total_rate": 4}, out=tmp_path)


def test_a_descent_needs_no_torch(tmp_path: Path) -> None:
    text = (
        "import sys; sys.modules['torch'] = None\nimport fedquant\n"
        "print(fedquant.run('descent', {'training.rounds': 2}, out=sys.argv[1]).uplink_bytes)"
    )
    done = subprocess.run([sys.executable, "-c", text, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "50", done.stderr


def test_the_result(tmp_path: Path) -> None:
    seen: list[int] = []
    result = fedquant.run("descent", SMALL, out=tmp_path, on_round=lambda row: seen.append(row["round"]))
    assert seen == list(range(1, len(result.rounds) + 1))
    made = descent.make_descent(load(tmp_path / "scenario.yaml"))
    assert norm(result_x(tmp_path) - made.problem.x_star) == result.rounds[-1]["error"]
    with pytest.raises(FedquantError, match="a descent has no accuracy"):
        _ = result.accuracy


@pytest.mark.slow
def test_local_and_flower_agree(tmp_path: Path) -> None:
    changes = {**TOGETHER, "training.rounds": 5}
    local = fedquant.run("descent", changes, out=tmp_path / "local")
    flower = fedquant.run(
        "descent", changes, engine="flower", out=tmp_path / "flower", on_line=lambda line: None
    )
    assert contents(local.folder) == contents(flower.folder)
