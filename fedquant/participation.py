"""Which sensors take part in a round: a pure function, so that every side can repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedquant.kernels import rng
from fedquant.keys import Key, Purpose


@dataclass(frozen=True)
class Participation:
    """`per_round` of `sensors` sensors a round.

    random: drawn anew each round; turns: every sensor once before any a second time, in an order drawn
    anew for each pass, whose last round may have fewer.
    """

    scheme: Literal["random", "turns"]
    sensors: int
    per_round: int

    @property
    def rounds(self) -> int:
        """Rounds of one pass over all sensors (at random: of as many turns as there are sensors)."""
        return -(-self.sensors // self.per_round)

    def of(self, key: Key, round: int) -> list[int]:
        """The sensors of a round, ascending. key: the run's."""
        if self.per_round == self.sensors:
            return list(range(self.sensors))
        if self.scheme == "random":
            here = key.fold(round=round, purpose=Purpose.SENSORS)
            return sorted(rng.choice(here, self.sensors, self.per_round).tolist())
        lap, position = divmod(round - 1, self.rounds)
        order = rng.order(key.fold(round=lap, purpose=Purpose.SENSORS), self.sensors)
        return sorted(order[position * self.per_round :][: self.per_round].tolist())

    def turn(self, round: int) -> int:
        """Which of its turns, from 1, every sensor of a round takes; at random, the round itself."""
        return (round - 1) // self.rounds + 1 if self.scheme == "turns" else round
