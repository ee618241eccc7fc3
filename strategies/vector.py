"""Gradients and model differences: decode, average, step."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedquant.codecs.floats import Float32
from fedquant.keys import Purpose
from fedquant.ledger import Ledger
from fedquant.scenario import Scenario
from fedquant.scenario.schema import DataUplink
from fedquant.wire import Knobs
from strategies.base import UplinkStrategy, decode_error
from strategies.replies import Inbox


class VectorStrategy(UplinkStrategy):
    """Steps along the mean gradient, or against the mean model difference (FedAvg: SGD, lr 1)."""

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        super().__init__(scenario, ledger)
        if isinstance(scenario.uplink, DataUplink):
            raise TypeError("VectorStrategy: the scenario's uplink carries data; use DataStrategy")
        self.uplink = scenario.uplink

    def round_knobs(self, round: int) -> dict[str, Knobs]:
        """None yet: controllers set them."""
        return {}

    def needs_model(self, knobs: dict[str, Knobs]) -> bool:
        """Always: a gradient is taken at the model."""
        return True

    def learn(self, inbox: Inbox, knobs: dict[str, Knobs]) -> tuple[dict[str, Any], dict[int, int]]:
        """Sums the payloads in order of sensor ids and steps along their weighted mean."""
        plan, codec, sensors = self.plan, self.uplink.codec, inbox.speaking()
        drawn = {s: self._samples(s, inbox.round) for s in sensors}
        uniform = self.uplink.weighting == "uniform"
        weights = [1.0 if uniform else float(drawn[s]) for s in sensors]
        total = np.zeros(plan.model_spec.size, np.float32)
        refused = codec.add_decoded(
            total,
            [inbox.payloads[s][0] for s in sensors],
            plan.model_spec,
            [plan.up(inbox.round, s, Purpose.GRADIENT) for s in sensors],
            weights,
            knobs.get("codec", {}),
        )
        decode_error(inbox, sensors, refused)
        accepted = [i for i in range(len(sensors)) if i not in refused]
        if not accepted:
            return {"step": False}, {}
        mean = codec.finish(total, sum(weights[i] for i in accepted))
        self.trainer.step(mean if self.uplink.kind == "gradient" else -mean)
        if plan.buffer_spec.size:
            self._average_buffers(inbox, [sensors[i] for i in accepted], [weights[i] for i in accepted])
        return {"step": True}, {sensors[i]: drawn[sensors[i]] for i in accepted}

    def _samples(self, sensor: int, round: int) -> int:
        return sum(map(len, self.plan.local_batches(sensor, round)))

    def _average_buffers(self, inbox: Inbox, sensors: list[int], weights: list[float]) -> None:
        spec = self.plan.buffer_spec
        total = np.zeros(spec.size, np.float32)
        refused = Float32().add_decoded(
            total,
            [inbox.payloads[s][1] for s in sensors],
            spec,
            [self.plan.up(inbox.round, s, Purpose.BUFFERS) for s in sensors],
            weights,
        )
        decode_error(inbox, sensors, refused)
        weight = sum(w for i, w in enumerate(weights) if i not in refused)
        if weight:
            self.trainer.set_buffers(Float32().finish(total, weight))
