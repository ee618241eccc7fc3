"""The contract of a selection rule: the server sets knobs, a node decides by them and its losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fedquant import registry
from fedquant.codecs.configured import Configured
from fedquant.keys import Key
from fedquant.wire import Knobs

Losses = npt.NDArray[np.float32]
Memory = Mapping[str, float]
"""What the server remembers of a rule, by name. A value: returned, never mutated; JSON-able."""


class Selection(Configured, ABC):
    """A frozen dataclass whose fields are its YAML keys. Rounds count from 1, epochs from 0."""

    kind: ClassVar[registry.Kind] = "selection"

    @abstractmethod
    def init(self) -> Memory:
        """The server's memory before the first round."""

    @abstractmethod
    def knobs(self, memory: Memory, round: int, epoch: int) -> tuple[Knobs, Memory]:
        """What the nodes are told for this round."""

    @abstractmethod
    def observe(self, memory: Memory, losses: Losses) -> Memory:
        """The memory after a round, given the losses (at selection time) of the samples received."""

    @abstractmethod
    def needs_losses(self, knobs: Knobs) -> bool:
        """Whether a node must know its losses, hence the model, to follow these knobs."""

    @abstractmethod
    def keep(self, losses: Losses | None, n: int, knobs: Knobs, key: Key) -> npt.NDArray[Any]:
        """bool[n]: the samples to send. losses: float32[n], given where `needs_losses` says so."""
