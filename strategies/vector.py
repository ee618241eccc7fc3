"""Gradients and model differences: decode, average, step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedquant.checkpoint import State
from fedquant.codecs.floats import Float32
from fedquant.control.base import Horizon, Memory, readable
from fedquant.keys import Purpose
from fedquant.ledger import Ledger
from fedquant.scenario import Scenario
from fedquant.scenario.schema import DeltaUplink, GradientUplink
from fedquant.wire import HEADER_SIZE, Knobs
from strategies.base import UplinkStrategy, decode_error
from strategies.replies import Inbox


class VectorStrategy(UplinkStrategy):
    """Steps along the mean gradient, or against the mean model difference (FedAvg: SGD, lr 1)."""

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        super().__init__(scenario, ledger)
        if not isinstance(scenario.uplink, GradientUplink | DeltaUplink):
            raise TypeError(f"VectorStrategy: the scenario's uplink is {scenario.uplink.kind}")
        self.uplink = scenario.uplink
        self.control = scenario.uplink.control
        self.memory: Memory = {}
        if self.control is not None:
            self.horizon = self._horizon()
            self.memory = self.control.init(self.horizon)

    def round_knobs(self, round: int) -> dict[str, Knobs]:
        """The controller's."""
        if self.control is None:
            return {}
        knobs, self.memory = self.control.knobs(self.memory, round, self.horizon)
        return {"codec": knobs}

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
        told = readable(knobs.get("codec", {}), plan.model_spec)
        if not accepted:
            self._observe(inbox, None)
            return {"step": False, **told}, {}
        mean = codec.finish(total, sum(weights[i] for i in accepted))
        self.trainer.step(mean if self.uplink.kind == "gradient" else -mean)
        if plan.buffer_spec.size:
            self._average_buffers(inbox, [sensors[i] for i in accepted], [weights[i] for i in accepted])
        self._observe(inbox, mean)
        return {"step": True, **told}, {sensors[i]: drawn[sensors[i]] for i in accepted}

    def state(self) -> State:
        """The controller's memory, too."""
        return {**super().state(), "control": self.memory}

    def restore(self, state: State) -> None:
        """Takes over what `state` gave."""
        super().restore(state)
        self.memory = state["control"]

    def _horizon(self) -> Horizon:
        """What the controller plans for; who is asked when is known ahead."""
        rounds, plan = self.scenario.training.rounds, self.plan
        asked = np.zeros(self.scenario.sensors, np.int64)
        for round in range(1, rounds + 1):
            asked[self.sample(round)] += 1
        extra = HEADER_SIZE + 4 * plan.buffer_spec.size if plan.buffer_spec.size else 0
        return Horizon(plan.model_spec, self.uplink.codec, rounds, tuple(asked.tolist()), extra)

    def _observe(self, inbox: Inbox, mean: npt.NDArray[np.float32] | None) -> None:
        if self.control is not None:
            asked = (sensor for sensors in inbox.expected.values() for sensor in sensors)
            sizes = {sensor: inbox.uplink_bytes.get(sensor, 0) for sensor in asked}
            self.memory = self.control.observe(self.memory, inbox.round, mean, sizes, self.horizon)

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
