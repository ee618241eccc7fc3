"""What server and nodes both derive from a scenario, so that none of it is ever sent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fedquant.codecs.base import Spec
from fedquant.codecs.data import DataSpec
from fedquant.keys import Direction, Key, Purpose
from fedquant.scenario.schema import DataUplink, DeltaUplink, Scenario
from fedquant.tasks import base, learn
from fedquant.tasks.sampling import Sampling


@dataclass(frozen=True, eq=False)
class Plan:
    """The shapes, keys and schedules of one run."""

    scenario: Scenario
    task: base.Task
    federation: base.Federation
    model_spec: Spec
    buffer_spec: Spec

    @cached_property
    def slots(self) -> tuple[Purpose, ...]:
        """What a sensor's reply holds, in order."""
        uplink = self.scenario.uplink
        if isinstance(uplink, DataUplink):
            corrections = [Purpose.CORRECTION] if uplink.grad_corr else []
            return (Purpose.DATA, *corrections, *([Purpose.REFINEMENT] if uplink.refine else []))
        return (Purpose.GRADIENT, *([Purpose.BUFFERS] if self.buffer_spec.size else []))

    @cached_property
    def data_spec(self) -> DataSpec:
        """What a data payload may hold at most."""
        return DataSpec(self.task.shape, self.scenario.training.batch_size, self.task.labels)

    @cached_property
    def sampling(self) -> Sampling:
        """Which samples a turn uses."""
        training = self.scenario.training
        return Sampling(training.sampling, training.epoch_rounds)

    @cached_property
    def _turns(self) -> int:
        """Over how many turns a sensor spreads its samples."""
        participation, given = self.scenario.participation, self.sampling.epoch_rounds
        if given is not None and participation.scheme == "turns":
            return max(1, given // participation.rounds)
        return self.sampling.turns_per_epoch(self.federation.sizes, self.scenario.training.batch_size)

    @cached_property
    def epoch_rounds(self) -> int:
        """Rounds of an epoch: a pass over all sensors and their samples, or as many as the scenario says."""
        return self.sampling.epoch_rounds or self._turns * self.scenario.participation.rounds

    def epoch(self, round: int) -> int:
        """The epoch, from 0, of a round."""
        return self.sampling.epoch(round, self.epoch_rounds)

    def batch(self, sensor: int, round: int) -> npt.NDArray[np.int64]:
        """int64[k]: which of its samples, counted by the sensor, it uses in a round."""
        return self._batch(sensor, self.scenario.participation.turn(round))

    def _batch(self, sensor: int, turn: int) -> npt.NDArray[np.int64]:
        return self.sampling.batch(
            self.scenario.key,
            sensor=sensor,
            turn=turn,
            n=self.federation.sizes[sensor],
            batch_size=self.scenario.training.batch_size,
            turns_per_epoch=self._turns,
        )

    def local_batches(self, sensor: int, round: int) -> list[npt.NDArray[np.int64]]:
        """The batches of a round's local steps: steps count on where the last round ended."""
        uplink = self.scenario.uplink
        steps = uplink.local_steps if isinstance(uplink, DeltaUplink) else 1
        before = (self.scenario.participation.turn(round) - 1) * steps
        return [self._batch(sensor, before + step + 1) for step in range(steps)]

    def samples(self, sensor: int, chosen: npt.NDArray[np.int64]) -> base.Dataset:
        """The given ones of a sensor's samples."""
        return self.federation.train.take(self.federation.parts[sensor][chosen])

    def training_samples(self, sensor: int, round: int, chosen: npt.NDArray[np.int64]) -> base.Dataset:
        """The given ones of a sensor's samples, augmented where the task does."""
        key = self.scenario.key.fold(round=round, sensor=sensor, purpose=Purpose.BATCH)
        return self.task.augment(self.samples(sensor, chosen), key)

    def up(self, round: int, sensor: int, purpose: Purpose) -> Key:
        """The key of an uplink payload."""
        return self.scenario.key.fold(round=round, sensor=sensor, purpose=purpose, direction=Direction.UP)

    def down(self, round: int, purpose: Purpose) -> Key:
        """The key of a broadcast."""
        return self.scenario.key.fold(round=round, purpose=purpose, direction=Direction.DOWN)

    def initial_model(self) -> Any:
        """A new torch model with the run's initial parameters, on the CPU."""
        return learn.initialise(self.task, self.scenario.key)


def make_plan(scenario: Scenario) -> Plan:
    """The plan of a scenario; its data are read once a process. Raises DataError."""
    return _make_plan(scenario.to_json())


@lru_cache(maxsize=2)
def _make_plan(text: str) -> Plan:
    scenario = Scenario.model_validate_json(text)
    task = scenario.build_task
    if not isinstance(task, base.Task):
        raise TypeError(f"{scenario.name} descends and trains no network; use fedquant.descent.make_descent")
    model = learn.initialise(task, scenario.key)
    ends = learn.segments(model)
    return Plan(
        scenario,
        task,
        base.load(task, scenario.key),
        Spec(ends[-1], segments=ends),
        Spec(len(learn.get_buffers(model))),
    )
