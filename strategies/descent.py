"""Differential quantization: the iterate and its range go down, quantized gradients come up.

The papers know no lost payload. Here a step waits until the payloads of all sensors have arrived: the next
round repeats the iteration with those whose payload is missing or was refused, while the others' are kept.
Three rounds in a row without any answer end the run, as for every strategy; so does a sensor that answers
with nothing: it could not code its gradient within its range.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from fedquant.checkpoint import State
from fedquant.codecs.floats import Float64
from fedquant.descent import NORM, make_descent, own_range, range_knobs
from fedquant.differential import course, server, several
from fedquant.differential.arrays import F64, norm
from fedquant.differential.server import range_knob
from fedquant.errors import CodecError, EngineError
from fedquant.keys import Purpose
from fedquant.ledger import Ledger
from fedquant.scenario import Scenario
from fedquant.wire import Knobs
from strategies.replies import Inbox
from strategies.rounds import RoundStrategy

log = logging.getLogger("fedquant")


class DescentStrategy(RoundStrategy):
    """Steps when every sensor has been heard; is done when float64 ends, or a range has grown beyond hope."""

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        self.descent = make_descent(scenario)
        super().__init__(scenario, ledger, self.descent.rows, len(self.descent.slots))
        self.course = course.start(self.descent.method, self.descent.problem.x0, scenario.sensors)
        self.arrived: dict[int, tuple[F64, float]] = {}  # sensor -> what it sent this iteration, its range
        self.broadcast = b""

    def round_knobs(self, round: int) -> dict[str, Knobs]:
        """The ranges, for codecs that quantize."""
        ranges = self.course.ranges
        return {} if ranges is None or not self.descent.quantized else range_knobs(ranges)

    def speak(self, round: int) -> int:
        """The iterate."""
        key = self.descent.down(round)
        self.broadcast, _ = Float64().encode(self.course.x, self.descent.spec, key)
        return len(self.broadcast)

    def words(self, gateway: int, round: int) -> tuple[Knobs, tuple[bytes, ...], int]:
        """The same for all nodes."""
        return {}, (self.broadcast,), 0

    def sample(self, server_round: int) -> list[int]:
        """The sensors that have not been heard in this iteration."""
        return [sensor for sensor in range(self.scenario.sensors) if sensor not in self.arrived]

    def learn(self, inbox: Inbox, knobs: dict[str, Knobs]) -> tuple[dict[str, Any], dict[int, int]]:
        """Decodes, and steps where this completes the iteration. Raises EngineError for an overflow."""
        for sensor, payloads in inbox.payloads.items():
            if not any(payloads):
                raise EngineError(
                    f"round {inbox.round}: sensor {sensor}'s gradient is outside its range "
                    f"({self._ranges()}); the task's L, mu or D do not hold"
                )
            try:
                self.arrived[sensor] = self._decode(inbox, sensor, knobs)
            except CodecError as error:
                inbox.refuse(sensor, error)
        step = len(self.arrived) == self.scenario.sensors
        if step:
            ordered = [self.arrived[sensor] for sensor in range(self.scenario.sensors)]
            sent, ranges = np.stack([p for p, _ in ordered]), np.array([r for _, r in ordered])
            self.course, self.arrived = self.course.step(sent, ranges), {}
        return self._fields(step), {}

    def state(self) -> State:
        """Where the course is, and what has arrived of this iteration, too."""
        assert isinstance(self.course, course.Plain | course.WithMemory)
        at = self.course.at
        return {**super().state(), "at": None if at is None else vars(at), "arrived": self.arrived}

    def restore(self, state: State) -> None:
        """Takes over what `state` gave."""
        super().restore(state)
        self.arrived, at = state["arrived"], state["at"]
        if isinstance(self.course, course.Plain):
            self.course = replace(self.course, at=server.Server(**at))
        elif at is not None:
            assert isinstance(self.course, course.WithMemory)
            self.course = replace(self.course, at=several.Server(**at))

    def arrays(self) -> ArrayRecord:
        """The iterate as Flower carries it."""
        return ArrayRecord({"parameters": Array(self.course.x)})

    def save(self, path: str) -> None:
        """Writes the iterate x: float64[n] as safetensors."""
        from safetensors.numpy import save_file

        save_file({"x": self.course.x}, path)

    def _decode(self, inbox: Inbox, sensor: int, knobs: dict[str, Knobs]) -> tuple[F64, float]:
        """(p, the range it was quantized with). Raises CodecError."""
        descent, payloads = self.descent, inbox.payloads[sensor]
        ranges, told = self.course.ranges, own_range(knobs, sensor, self.scenario.sensors)
        if ranges is not None:
            if any(payloads[1:]):
                raise CodecError(f"round {inbox.round} is not the first, a norm came nevertheless")
            own = float(ranges[sensor])
        else:
            key = descent.up(inbox.round, sensor, Purpose.RANGE)
            own = float(Float64().decode(payloads[1], NORM, key)[0])
            told = range_knob(own)
        key = descent.up(inbox.round, sensor)
        return descent.codecs[sensor].decode(payloads[0], descent.spec, key, told), own

    def _fields(self, step: bool) -> dict[str, Any]:
        at, f = self.course, self.descent.problem
        error = float(norm(at.x - f.x_star))
        if at.diverged:
            log.warning("diverged: %s", self._ranges())
        self.done = at.finished or at.diverged
        return {
            "step": step,
            "iteration": at.t,
            "error": error,
            "relative_error": error / float(norm(f.x0 - f.x_star)),
            "range": None if at.ranges is None else float(at.ranges.max()),
            "finished": at.finished,
            "diverged": at.diverged,
        }

    def _ranges(self) -> str:
        ranges = self.course.ranges
        return "no range yet" if ranges is None else f"iteration {self.course.t}, r = {ranges.max():.3g}"
