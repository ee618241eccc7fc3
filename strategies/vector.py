"""Gradients and model differences: decode, average, step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedquant.checkpoint import State
from fedquant.codecs.floats import Float32
from fedquant.control.base import Horizon, Memory, readable
from fedquant.errors import CodecError
from fedquant.keys import Purpose
from fedquant.ledger import Ledger
from fedquant.scenario import Scenario
from fedquant.scenario.schema import DeltaUplink, GradientUplink
from fedquant.wire import HEADER_SIZE, Knobs
from strategies.base import UplinkStrategy
from strategies.replies import Inbox

F32 = npt.NDArray[np.float32]


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
        plan, codec = self.plan, self.uplink.codec
        drawn = {s: self._samples(s, inbox.round) for s in inbox.speaking()}
        buffers = self._buffers(inbox, drawn)
        sensors = list(buffers)
        uniform = self.uplink.weighting == "uniform"
        weights = {s: 1.0 if uniform else float(drawn[s]) for s in sensors}
        total = np.zeros(plan.model_spec.size, np.float32)
        refused = codec.add_decoded(
            total,
            [inbox.payloads[s][0] for s in sensors],
            plan.model_spec,
            [plan.up(inbox.round, s, Purpose.GRADIENT) for s in sensors],
            list(weights.values()),
            knobs.get("codec", {}),
        )
        for position, why in refused.items():
            inbox.refuse(sensors[position], why)
        accepted = [s for s in sensors if s not in inbox.refused]
        told = readable(knobs.get("codec", {}), plan.model_spec)
        weight = sum(weights[s] for s in accepted)
        mean = codec.finish(total, weight) if accepted else None
        if mean is None or not self.step(inbox.round, mean if self.uplink.kind == "gradient" else -mean):
            self._observe(inbox, None)
            return {"step": False, **told}, {}
        if plan.buffer_spec.size:
            summed = np.zeros(plan.buffer_spec.size, np.float32)
            for s in accepted:
                summed += buffers[s] * np.float32(weights[s])
            self.trainer.set_buffers(Float32().finish(summed, weight))
        self._observe(inbox, mean)
        return {"step": True, **told}, {s: drawn[s] for s in accepted}

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

    def _observe(self, inbox: Inbox, mean: F32 | None) -> None:
        if self.control is not None:
            asked = (sensor for sensors in inbox.expected.values() for sensor in sensors)
            sizes = {sensor: inbox.uplink_bytes.get(sensor, 0) for sensor in asked}
            self.memory = self.control.observe(self.memory, inbox.round, mean, sizes, self.horizon)

    def _samples(self, sensor: int, round: int) -> int:
        return sum(map(len, self.plan.local_batches(sensor, round)))

    def _buffers(self, inbox: Inbox, drawn: dict[int, int]) -> dict[int, F32]:
        """The buffers of those that drew samples and whose buffers are sound: the others are refused."""
        found = {}
        for sensor, samples in drawn.items():
            try:
                if not samples:
                    raise CodecError("a payload, though it drew no sample")
                found[sensor] = self._decode_buffers(inbox, sensor)
            except CodecError as error:
                inbox.refuse(sensor, error)
        return found

    def _decode_buffers(self, inbox: Inbox, sensor: int) -> F32:
        spec = self.plan.buffer_spec
        if not spec.size:
            return np.zeros(0, np.float32)
        key = self.plan.up(inbox.round, sensor, Purpose.BUFFERS)
        return Float32().decode(inbox.payloads[sensor][1], spec, key)
