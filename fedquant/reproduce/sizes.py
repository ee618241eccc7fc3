"""The two sizes that decide whether data or gradients are shorter."""

from __future__ import annotations

import math

from fedquant.scenario import Scenario
from fedquant.tasks import learn
from fedquant.tasks.base import Task


def model_size(scenario: Scenario) -> int:
    """h, the numbers of a gradient."""
    return learn.segments(_task(scenario).build_model())[-1]


def sample_size(scenario: Scenario) -> int:
    """d, the numbers of a sample."""
    return math.prod(_task(scenario).shape)


def _task(scenario: Scenario) -> Task:
    task = scenario.build_task
    assert isinstance(task, Task)  # a descent has no model
    return task
