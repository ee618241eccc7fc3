from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clients.model import hear
from clients.state import NodeState
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.message import Request
from fedquant.plan import make_plan
from fedquant.scenario import load
from strategies.broadcast import Broadcast

COARSE = [
    {"name": "qcs", "gain": 32},
    {"name": "qcs", "q": 0.5},
    {"name": "qcs", "q": 0.5, "estimator": "mmse"},
    {"name": "qsgd", "bits": 2},
    {"name": "sparse", "density": 0.05},
    "terngrad",
    "sign",
    {"name": "topk", "k": 5000},
]


def broadcast(codec: Any) -> tuple[Broadcast, np.ndarray]:
    """One from the wearables' initial model, and another model."""
    plan = make_plan(load("wearables", {"downlink": {"codec": codec, "reference": "difference"}}))
    initial = np.concatenate([p.detach().numpy().ravel() for p in plan.initial_model().parameters()])
    return Broadcast(plan, initial), initial + rng.uniform(Key(9), initial.size) - np.float32(0.5)


@pytest.mark.parametrize("codec", COARSE, ids=str)
def test_differences_of_any_codec_bring_nodes_nearer(codec: Any) -> None:
    told, model = broadcast(codec)
    distances = [float(np.linalg.norm(model - told.reference))]
    for round in range(1, 9):
        told.send(round, model, np.zeros(0, np.float32))
        distances.append(float(np.linalg.norm(model - told.reference)))
        assert distances[-1] <= distances[-2] * (1 + 1e-6)  # the share is a float32
    assert distances[-1] < 0.9 * distances[0]


def test_a_difference_without_loss_counts_in_full() -> None:
    told, model = broadcast("float32")
    told.send(1, model, np.zeros(0, np.float32))
    assert told.recent[0][:2] == (1, 1.0)
    before = told.reference.copy()
    told.send(2, before, np.zeros(0, np.float32))  # nothing is lacking
    assert np.array_equal(told.reference, before)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rounds", b"", "1 coded differences without their rounds"),
        ("shares", None, "1 coded differences without their shares"),
        ("shares", np.array([np.nan], "<f4").tobytes(), r"shares \[nan\] of the differences are not finite"),
    ],
)
def test_differences_that_do_not_say_how_are_refused(
    name: str, value: Any, message: str, tmp_path: Any
) -> None:
    told, model = broadcast("float32")
    told.send(1, model, np.zeros(0, np.float32))
    knobs, payloads, _ = told.to(0, 1)
    changed = {k: v for k, v in {**knobs, name: value}.items() if v is not None}
    request = Request(
        told.plan.scenario.run_id, 1, (0,), (0,), (True,), {"downlink": changed}, payloads, 1, 0
    )
    with pytest.raises(CodecError, match=message):
        hear(told.plan, request, NodeState(tmp_path / "state", told.plan.scenario.run_id))
