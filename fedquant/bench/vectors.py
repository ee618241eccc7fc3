"""The vectors that schemes are compared on: a test tensor, and gradients of two models as they learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fedquant.bench.tensor import F32, layered_normal
from fedquant.codecs.base import Spec
from fedquant.errors import FedquantError

SENSORS: Final = 4
EVERY: Final = 5  # rounds
_GRADIENTS: Final[dict[str, tuple[str, Mapping[str, Any]]]] = {
    "gradients, CNN on watches": ("wearables", {"uplink": {"kind": "gradient", "codec": "float32"}}),
    "gradients, LeNet-5 on MNIST": ("mnist", {"task.download": False}),
}


@dataclass(frozen=True, eq=False)
class Vectors:
    """Some vectors of one spec; rates and errors are means over them."""

    name: str
    spec: Spec
    each: tuple[F32, ...]


def tensor(size: int) -> Vectors:
    """The first numbers of the layered normal tensor."""
    x, spec = layered_normal(size)
    return Vectors("layered normal, ResNet-18", spec, (x,))


def gradients(rounds: int) -> tuple[list[Vectors], dict[str, str]]:
    """(gradients of the watch CNN and of LeNet-5 on MNIST, why one is missing): of every fifth round."""
    found, missing = [], {}
    for name, (scenario, changes) in _GRADIENTS.items():
        try:
            found.append(_along(name, scenario, changes, rounds))
        except ImportError as error:
            missing[name] = f"{error}; pip install 'fedquant[torch]'"
        except FedquantError as error:
            missing[name] = str(error)
    return found, missing


def _along(name: str, scenario: str, changes: Mapping[str, Any], rounds: int) -> Vectors:
    """Of one sensor after another, while the model learns from the mean of all, uncompressed."""
    from fedquant.plan import make_plan
    from fedquant.scenario import load
    from fedquant.tasks import learn
    from fedquant.tasks.trainer import Trainer

    checked = load(scenario, changes)
    training = checked.training
    learn.use_threads(training.threads)
    plan = make_plan(checked)
    trainer = Trainer(plan.task, plan.initial_model(), training.optimizer.choice, device=training.device)
    kept: list[F32] = []
    for round in range(1, rounds + 1):
        each = []
        for sensor in range(SENSORS):
            data = plan.samples(sensor, plan.batch(sensor, round))
            each.append(learn.gradient(trainer.model, plan.task, data)[0])
        if round % EVERY == 0:
            kept.append(each[len(kept) % SENSORS])
        trainer.step(np.mean(each, axis=0, dtype=np.float32))
    return Vectors(name, plan.model_spec, tuple(kept))
