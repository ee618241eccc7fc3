"""What strategies share that train a network: the optimizer, the broadcast and the test."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord

from fedquant.checkpoint import State
from fedquant.errors import EngineError
from fedquant.kernels import scan
from fedquant.ledger import Ledger
from fedquant.plan import make_plan
from fedquant.scenario import Scenario
from fedquant.tasks.trainer import Trainer
from fedquant.wire import Knobs
from strategies.broadcast import Broadcast
from strategies.replies import Inbox
from strategies.rounds import PATIENCE, RoundStrategy

log = logging.getLogger("fedquant")
F32 = npt.NDArray[np.float32]


class UplinkStrategy(RoundStrategy):
    """Base of the strategies that train a network."""

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        training = scenario.training
        self.plan = make_plan(scenario)
        super().__init__(scenario, ledger, self.plan.federation.sizes, len(self.plan.slots))
        schedule = training.schedule
        self.trainer = Trainer(
            self.plan.task,
            self.plan.initial_model(),
            training.optimizer.choice,
            None if schedule is None else schedule.choice,
            training.device,
        )
        self.broadcast = Broadcast(self.plan, self.trainer.parameters())
        self.failed_steps = 0  # gradients in a row that were not finite

    @abstractmethod
    def needs_model(self, knobs: dict[str, Knobs]) -> bool:
        """Whether the nodes need the model to follow these knobs."""

    # ---- what every round does

    def speak(self, round: int) -> int:
        """The model, where nodes need it."""
        self.told = self.needs_model(self.knobs)
        if not self.told:
            return 0
        return self.broadcast.send(round, self.trainer.parameters(), self.trainer.buffers())

    def words(self, gateway: int, round: int) -> tuple[Knobs, tuple[bytes, ...], int]:
        """The broadcast, and for a node that missed some those too."""
        return self.broadcast.to(gateway, round) if self.told else ({}, (), 0)

    def heard(self, inbox: Inbox) -> None:
        """Notes which nodes hold the model now."""
        if self.told:
            for node, sensors in inbox.expected.items():
                self.broadcast.heard(self.gateway(sensors), node in inbox.answered)

    def step(self, round: int, gradient: F32) -> bool:
        """One optimizer step along a gradient; none along one that is not finite, and false.

        Raises EngineError where the model is not finite any more, or its gradients have not been for a while.
        """
        if np.isfinite(scan.max_abs(gradient)):
            self.trainer.step(gradient)
            self.failed_steps = 0
            if np.isfinite(scan.max_abs(self.trainer.parameters())):
                return True
        else:
            log.warning("round %d: the gradient is not finite, the model stays as it is", round)
            self.failed_steps += 1
            if self.failed_steps < PATIENCE:
                return False
        raise EngineError(
            f"round {round}: the model has diverged; lower the learning rate "
            f"(training.optimizer.lr={self.trainer.learning_rate:g})"
        )

    def end_round(self, round: int) -> dict[str, Any]:
        """One step of the schedule."""
        self.trainer.end_round()
        return {"epoch": self.plan.epoch(round), "learning_rate": self.trainer.learning_rate}

    def evaluate(self, round: int) -> dict[str, float]:
        """The loss on the test set, and the accuracy where the task has one."""
        training = self.scenario.training
        if round % training.evaluate_every and round != training.rounds:
            return {}
        result = self.trainer.evaluate(self.plan.federation.test)
        return {f"test_{name}": value for name, value in result.items()}

    @abstractmethod
    def state(self) -> State:
        """The trainer and the broadcast, too."""
        return {**super().state(), "trainer": self.trainer.state(), "broadcast": self.broadcast.state()}

    @abstractmethod
    def restore(self, state: State) -> None:
        """Takes over what `state` gave."""
        super().restore(state)
        self.trainer.restore(state["trainer"])
        self.broadcast.restore(state["broadcast"])

    def arrays(self) -> ArrayRecord:
        """The model as Flower carries it."""
        return ArrayRecord({"parameters": Array(self.trainer.parameters())})

    def save(self, path: str) -> None:
        """Writes the model as safetensors."""
        self.trainer.save(path)
