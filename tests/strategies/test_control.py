"""Controllers in whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedquant
from fedquant.codecs.qsgd import each_segment
from fedquant.control.budget import payload_size
from fedquant.errors import ConfigError
from fedquant.plan import make_plan
from fedquant.scenario import load

CODEC = {"name": "qsgd", "scope": "segment"}
CONTROL = {"name": "dqsgd_nonconvex", "per_layer": True, "budget": {"bytes": 600_000}}
CHANGES: dict[str, Any] = {
    "training.rounds": 6,
    "training.evaluate_every": 6,
    "training.batch_size": 4,
    "uplink": {"kind": "gradient", "codec": CODEC, "control": CONTROL},
}


@pytest.mark.parametrize("whole_bits", [True, False])
def test_every_layer_has_its_own_bits_within_a_budget(whole_bits: bool, tmp_path: Path) -> None:
    changes = {**CHANGES, "uplink.control.integer_bits": whole_bits}
    result = fedquant.run("wearables", changes, out=tmp_path)
    scenario = load(tmp_path / "scenario.yaml")
    spec = make_plan(scenario).model_spec
    name = "bits" if whole_bits else "levels"
    rows = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text("utf-8").splitlines()]
    assert rows == result.rounds
    assert len(set(rows[0][f"layer_{name}"])) == 1
    for row in rows[1:]:
        steps = row[f"layer_{name}"]
        assert len(steps) == len(spec.segments)
        assert len(set(steps)) > 1
        assert min(steps) < row["bits"] < 8
    for row in rows:
        knobs = each_segment(name, row[f"layer_{name}"])
        assert row["uplink_bytes"] == 16 * payload_size(scenario.uplink.codec, spec, knobs)
        assert row["refused"] == 0
    sent = np.load(tmp_path / "sensors-00000.npz", allow_pickle=False)
    each = np.bincount(sent["sensor"], sent["uplink_bytes"])
    # a bit of the largest layer, 78 % of the numbers, is 3.4 % of a budget for six rounds
    assert 0.95 * 600_000 < each.min() <= each.max() <= 600_000


def test_a_codec_without_layers_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"per_layer needs .* and qsgd with scope: whole is not; set codec: "
    ):
        fedquant.run("wearables", {**CHANGES, "uplink.codec": "qsgd"}, out=tmp_path)
