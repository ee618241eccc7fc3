"""What a codec does to real gradients: bytes and error of each payload along an uncompressed run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedquant.errors import ConfigError
from fedquant.keys import Purpose
from fedquant.plan import make_plan
from fedquant.scenario.schema import DataUplink, DeltaUplink, Scenario
from fedquant.tasks import learn
from fedquant.tasks.trainer import Trainer

SENSORS = 8
ROUNDS = 20


@dataclass(frozen=True)
class Distortion:
    """Means over payloads. nmse: ‖x̂ − x‖² / ‖x‖². rate: bit/coordinate, header and scales included."""

    payload_bytes: float
    rate: float
    nmse: float


def measure(scenario: Scenario) -> Distortion:
    """The distortion of the scenario's uplink codec over the first rounds of some sensors.

    All codecs of one scenario see the same vectors: the model is stepped with uncompressed ones. Memory
    (error feedback) goes on from round to round. Raises ConfigError for a data uplink.
    """
    uplink = scenario.uplink
    if isinstance(uplink, DataUplink):
        raise ConfigError("distortion: the scenario's uplink carries data; it is measured on vectors only")
    learn.use_threads(scenario.training.threads)
    plan, training = make_plan(scenario), scenario.training
    spec, codec = plan.model_spec, uplink.codec
    trainer = Trainer(plan.task, plan.initial_model(), training.optimizer.choice, device=training.device)
    sensors = range(min(SENSORS, scenario.sensors))
    states = {s: codec.init(spec) for s in sensors}
    sizes, errors = [], []
    for round in range(1, min(ROUNDS, training.rounds) + 1):
        total = np.zeros(spec.size, np.float32)
        for sensor in sensors:
            batches = plan.local_batches(sensor, round)
            data = plan.samples(sensor, np.concatenate(batches))
            if isinstance(uplink, DeltaUplink):
                ends = np.cumsum([len(b) for b in batches])
                steps = [np.arange(end - len(b), end) for b, end in zip(batches, ends, strict=True)]
                x, _ = learn.local_update(
                    trainer.model, plan.task, data, steps, uplink.local_lr, uplink.local_momentum
                )
            else:
                x, _ = learn.gradient(trainer.model, plan.task, data)
            key = plan.up(round, sensor, Purpose.GRADIENT)
            payload, states[sensor] = codec.encode(x, spec, key, states[sensor])
            sizes.append(len(payload))
            norm = np.sum(np.square(x, dtype=np.float64))
            if norm > 0:
                lost = codec.decode(payload, spec, key).astype(np.float64) - x
                errors.append(float(np.sum(lost * lost) / norm))
            total += x
        mean = total / np.float32(len(sensors))
        trainer.step(-mean if isinstance(uplink, DeltaUplink) else mean)
    size = float(np.mean(sizes))
    return Distortion(size, 8 * size / spec.size, float(np.mean(errors)))
