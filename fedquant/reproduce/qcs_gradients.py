"""Real gradients for the experiments of the QCS paper: those of LeNet-5 while it learns MNIST."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedquant.plan import make_plan
from fedquant.scenario import Scenario
from fedquant.tasks import learn
from fedquant.tasks.trainer import Trainer

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Moment:
    """A round of training: each sensor's gradient, and the test accuracy before the step."""

    round: int
    accuracy: float
    gradients: list[F32]


def moments(scenario: Scenario, rounds: Sequence[int]) -> Iterator[Moment]:
    """The given rounds of training with uncompressed gradients, in order. Raises DataError without data."""
    learn.use_threads(scenario.training.threads)
    plan, training = make_plan(scenario), scenario.training
    schedule = training.schedule.choice if training.schedule else None
    trainer = Trainer(plan.task, plan.initial_model(), training.optimizer.choice, schedule, training.device)
    wanted = set(rounds)
    for round in range(1, max(wanted) + 1):
        gradients = []
        for sensor in range(scenario.sensors):
            data = plan.samples(sensor, plan.batch(sensor, round))
            gradients.append(learn.gradient(trainer.model, plan.task, data)[0])
        if round in wanted:
            accuracy = learn.evaluate(trainer.model, plan.task, plan.federation.test)["accuracy"]
            yield Moment(round, accuracy, gradients)
        trainer.step(np.mean(gradients, axis=0, dtype=np.float32))
        trainer.end_round()
