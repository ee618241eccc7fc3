"""A node whose sensors hold shares of a convex task: they compensate what was lost (paper, Algorithm 1).

What a payload changes in a sensor's memory waits until the server has accepted that payload: one that was
lost or refused leaves the memory as it was, and the sensor is asked for the same iteration again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clients.attempts import recall
from clients.gateway import Gateway
from fedquant.codecs.floats import Float64
from fedquant.descent import NORM, make_descent, own_range
from fedquant.differential import several, worker
from fedquant.differential.arrays import F64, norm
from fedquant.differential.server import range_knob
from fedquant.errors import CodecError
from fedquant.keys import Purpose
from fedquant.message import Request
from fedquant.scenario import Scenario

log = logging.getLogger("fedquant")

_OPEN = "open"  # what the last payload added, until it is known to have arrived
_LAST, _BEFORE = "last", "before"  # e_{t−1} and e_{t−2}
_MEMORY = "memory"  # h_k


class DescentNode(Gateway):
    """Sensors that descend."""

    def __init__(self, scenario: Scenario, gateway: int, state_dir: Path) -> None:
        self.descent = make_descent(scenario)
        super().__init__(scenario, gateway, state_dir, self.descent.rows)

    def answers(self, request: Request) -> tuple[tuple[bytes, ...], ...]:
        """The payloads of each sensor asked, one a slot. Raises CodecError for what is no iterate."""
        descent = self.descent
        if len(request.payloads) != 1:
            raise CodecError(f"request: {len(request.payloads)} iterates, expected one")
        x = Float64().decode(request.payloads[0], descent.spec, descent.down(request.round))
        if not self.remembers:
            return tuple(self._answer(request, sensor, x)[0] for sensor in request.sensors)
        state = recall(self.state_path, request)
        rows = []
        for i, sensor in enumerate(request.sensors):
            delivered = state.judge(sensor, request.settled[i], request.delivered[i])
            memory = self._settled(state.arrays.get(sensor), bool(delivered))
            row, added = self._answer(request, sensor, x, memory)
            if added is not None:
                memory = {**memory, _OPEN: added}
                state.pending[sensor] = request.round
            state.arrays[sensor] = memory
            rows.append(row)
        state.save()
        return tuple(rows)

    @property
    def remembers(self) -> bool:
        """Whether the method feeds back what was lost, or has memories."""
        method = self.descent.method
        return isinstance(method, several.Shares) or method.feedback == "differential"

    def _settled(self, memory: Mapping[str, F64] | None, delivered: bool) -> dict[str, F64]:
        """A sensor's memory before it answers: what is open becomes part of it where it arrived."""
        size, together = self.descent.spec.size, isinstance(self.descent.method, several.Shares)
        if memory is None:
            return {name: np.zeros(size) for name in ((_MEMORY,) if together else (_LAST, _BEFORE))}
        settled = {name: array for name, array in memory.items() if name != _OPEN}
        if delivered and _OPEN in memory:
            if together:
                return {_MEMORY: several.learn(settled[_MEMORY], memory[_OPEN])}
            return {_LAST: memory[_OPEN], _BEFORE: settled[_LAST]}
        return settled

    def _answer(
        self, request: Request, sensor: int, x: F64, memory: Mapping[str, F64] | None = None
    ) -> tuple[tuple[bytes, ...], F64 | None]:
        """(payloads, what they add to memory), nothing for what is outside its range."""
        descent, method = self.descent, self.descent.method
        gradient, spec = descent.workers[sensor].gradient, descent.spec
        knobs = own_range(request.knobs, sensor, len(descent.workers))
        first: tuple[bytes, ...] = ()
        if isinstance(method, several.Shares):
            assert memory is not None
            u = several.quantizer_input(gradient(x), memory[_MEMORY])
            first = (b"",)
            if not knobs:
                size, key = norm(u), descent.up(request.round, sensor, Purpose.RANGE)
                knobs, first = range_knob(float(size)), (Float64().encode(size.reshape(1), NORM, key)[0],)
        else:
            node = worker.start(x) if memory is None else worker.Worker(memory[_LAST], memory[_BEFORE])
            z = worker.access_point(method, node, x)
            u = worker.quantizer_input(method, node, gradient(z))
        codec, key = descent.codecs[sensor], descent.up(request.round, sensor)
        try:
            payload, _ = codec.encode(u, spec, key, knobs=knobs)
        except CodecError as error:
            log.error("sensor %d, round %d: %s", sensor, request.round, error)
            return (b"",) * len(descent.slots), None
        p = codec.decode(payload, spec, key, knobs)
        added = p if isinstance(method, several.Shares) else worker.learn(method, node, u, p).last
        return (payload, *first), added
