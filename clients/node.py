"""A node whose sensors learn a network: what they remember, and what they answer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.attempts import recall
from clients.gateway import Gateway
from clients.model import hear
from clients.samples import (
    LIPSCHITZ,
    PLACE,
    REFINED,
    SCALE,
    SENT,
    noted,
    refined,
    samples_memory,
    taken_back,
)
from clients.state import NodeState
from fedquant.codecs.dataq import DataQ
from fedquant.codecs.floats import Float32
from fedquant.codecs.refinement import held_by
from fedquant.errors import CodecError
from fedquant.kernels import scan
from fedquant.keys import Purpose
from fedquant.message import Request
from fedquant.plan import make_plan
from fedquant.scenario.schema import DataUplink, DeltaUplink, Scenario
from fedquant.tasks import learn
from fedquant.tasks.base import Dataset
from fedquant.wire import NO_KNOBS

log = logging.getLogger("fedquant")


class Node(Gateway):
    """Sensors that learn a network."""

    def __init__(self, scenario: Scenario, gateway: int, state_dir: Path) -> None:
        self.plan = make_plan(scenario)
        super().__init__(scenario, gateway, state_dir, self.plan.federation.sizes)

    def answers(self, request: Request) -> tuple[tuple[bytes, ...], ...]:
        """The payloads of each sensor asked, one a slot."""
        keep = recall(self.state_path, request) if self.remembers else None
        model = hear(self.plan, request, keep)
        state = keep if self._sensors_remember else None
        rows = []
        for i, sensor in enumerate(request.sensors):
            if state is not None:
                judged = state.judge(sensor, request.settled[i], request.delivered[i])
                self._settle(state, sensor, judged)
            row = self._answer(request, sensor, model, state)
            if state is not None and any(row):
                state.pending[sensor] = request.round
            rows.append(row)
        if keep is not None:
            keep.save()
        return tuple(rows)

    @property
    def remembers(self) -> bool:
        """Whether the sensors do, or the node has to know the model."""
        return self._sensors_remember or self.scenario.downlink.reference == "difference"

    @property
    def _sensors_remember(self) -> bool:
        uplink = self.scenario.uplink
        if isinstance(uplink, DataUplink):
            return uplink.cache or (uplink.grad_corr is not None and uplink.grad_corr.lipschitz is None)
        return bool(uplink.codec.state_spec(self.plan.model_spec))

    def _settle(self, state: NodeState, sensor: int, delivered: bool | None) -> None:
        uplink, plan = self.scenario.uplink, self.plan
        if isinstance(uplink, DataUplink):
            if sensor not in state.arrays:
                state.arrays[sensor] = samples_memory(plan.federation.sizes[sensor])
            if delivered is False:
                state.arrays[sensor] = taken_back(state.arrays[sensor], state.pending[sensor])
            return
        if sensor not in state.arrays:
            state.arrays[sensor] = uplink.codec.init(plan.model_spec)
        if delivered is not None:
            state.arrays[sensor] = uplink.codec.settle(state.arrays[sensor], delivered)

    def _answer(
        self, request: Request, sensor: int, model: Any, state: NodeState | None
    ) -> tuple[bytes, ...]:
        uplink = self.scenario.uplink
        if isinstance(uplink, DataUplink):
            return self._data(uplink, request, sensor, model, state)
        if model is None:
            raise CodecError(f"request of round {request.round} carries no model, {uplink.kind} needs one")
        return self._vector(request, sensor, model, state)

    def _vector(
        self, request: Request, sensor: int, model: Any, state: NodeState | None
    ) -> tuple[bytes, ...]:
        plan, uplink, task = self.plan, self.scenario.uplink, self.plan.task
        buffers = learn.get_buffers(model)
        if isinstance(uplink, DeltaUplink):
            batches = plan.local_batches(sensor, request.round)
            data = plan.training_samples(sensor, request.round, np.concatenate(batches))
            ends = np.cumsum([len(b) for b in batches])
            steps = [np.arange(end - len(b), end) for b, end in zip(batches, ends, strict=True)]
            vector, _ = learn.local_update(model, task, data, steps, uplink.local_lr, uplink.local_momentum)
        else:
            data = plan.training_samples(sensor, request.round, plan.batch(sensor, request.round))
            vector, _ = learn.gradient(model, task, data)
        if not len(data):
            return (b"",) * len(plan.slots)
        assert not isinstance(uplink, DataUplink)
        if not np.isfinite(scan.max_abs(vector)):
            raise CodecError(
                f"sensor {sensor}: its {uplink.kind} is not finite, the model has diverged; lower the "
                "learning rate"
            )
        key = plan.up(request.round, sensor, Purpose.GRADIENT)
        memory = state.arrays[sensor] if state is not None else uplink.codec.init(plan.model_spec)
        payload, memory = uplink.codec.encode(
            vector, plan.model_spec, key, memory, request.knobs.get("codec", NO_KNOBS)
        )
        if state is not None:
            state.arrays[sensor] = memory
        if not plan.buffer_spec.size:
            return (payload,)
        key = plan.up(request.round, sensor, Purpose.BUFFERS)
        after, _ = Float32().encode(learn.get_buffers(model), plan.buffer_spec, key)
        learn.set_buffers(model, buffers)  # the next sensor starts from the broadcast, too
        return payload, after

    def _data(
        self, uplink: DataUplink, request: Request, sensor: int, model: Any, state: NodeState | None
    ) -> tuple[bytes, ...]:
        plan, nothing = self.plan, (b"",) * len(self.plan.slots)
        drawn = plan.batch(sensor, request.round)
        memory = state.arrays[sensor] if state is not None and uplink.cache else None
        if memory is not None:
            again = memory[SENT][drawn] > 0
            if uplink.refine is not None:
                again &= memory[REFINED][drawn] > 0
            drawn = drawn[~again]
        data = plan.samples(sensor, drawn)
        if not len(data):
            return nothing
        knobs = request.knobs.get("selection", NO_KNOBS)
        losses = None
        if uplink.selection.needs_losses(knobs):
            if model is None:
                raise CodecError(f"request of round {request.round} carries no model, selection needs one")
            losses = learn.losses(model, plan.task, data)
        key = plan.up(request.round, sensor, Purpose.SELECTION)
        kept = np.flatnonzero(uplink.selection.keep(losses, len(data), knobs, key))
        chosen = drawn[kept]
        known = np.zeros(len(chosen), np.bool_) if memory is None else memory[SENT][chosen] > 0
        parts = dict.fromkeys(plan.slots, b"")
        if known.any():
            parts[Purpose.REFINEMENT] = self._refinement(uplink, request, sensor, state, chosen[known])
        if not known.all():
            fresh = data.take(kept[~known])
            self._fresh(uplink, request, sensor, model, state, chosen[~known], fresh, parts)
        return tuple(parts.values())

    def _fresh(
        self,
        uplink: DataUplink,
        request: Request,
        sensor: int,
        model: Any,
        state: NodeState | None,
        chosen: npt.NDArray[np.int64],
        data: Dataset,
        parts: dict[Purpose, bytes],
    ) -> None:
        """Samples that the server has not got: into `parts`, and into memory."""
        plan, codec, knobs = self.plan, uplink.codec, request.knobs.get("codec", NO_KNOBS)
        key = plan.up(request.round, sensor, Purpose.DATA)
        payload = parts[Purpose.DATA] = codec.encode(data.x, data.y, plan.data_spec, key, knobs)
        if uplink.grad_corr is not None:
            parts[Purpose.CORRECTION] = self._correction(uplink, request, sensor, model, state, data, payload)
        if state is not None and uplink.cache:
            scales = None
            if isinstance(codec, DataQ):
                scales = codec.decode_levels(payload, plan.data_spec, key, knobs)[0].scales
            state.arrays[sensor] = noted(state.arrays[sensor], chosen, request.round, scales)

    def _refinement(
        self,
        uplink: DataUplink,
        request: Request,
        sensor: int,
        state: NodeState | None,
        chosen: npt.NDArray[np.int64],
    ) -> bytes:
        """Samples that the server has, and that are informative still."""
        assert uplink.refine is not None
        assert state is not None
        assert isinstance(uplink.codec, DataQ)
        plan, memory, codec = self.plan, state.arrays[sensor], uplink.codec
        chosen = chosen[np.argsort(memory[PLACE][chosen])]
        x = plan.samples(sensor, chosen).x.reshape(len(chosen), -1)
        held = held_by(x, memory[SCALE][chosen], codec.m, codec.scale)
        places, among = memory[PLACE][chosen].astype(np.int64), int((memory[SENT] > 0).sum())
        key = plan.up(request.round, sensor, Purpose.REFINEMENT)
        state.arrays[sensor] = refined(memory, chosen, request.round)
        return uplink.refine.encode(places, x, held, among, plan.data_spec, key)

    def _correction(
        self,
        uplink: DataUplink,
        request: Request,
        sensor: int,
        model: Any,
        state: NodeState | None,
        data: Dataset,
        payload: bytes,
    ) -> bytes:
        """One bit about what quantization did to the gradient of the samples sent."""
        assert uplink.grad_corr is not None
        assert isinstance(uplink.codec, DataQ)
        if model is None:
            raise CodecError(f"request of round {request.round} carries no model, grad_corr needs one")
        plan, codec_knobs = self.plan, request.knobs.get("codec", NO_KNOBS)
        key = plan.up(request.round, sensor, Purpose.DATA)
        held, _ = uplink.codec.decode_levels(payload, plan.data_spec, key, codec_knobs)
        coarse = held.samples().reshape(data.x.shape)
        buffers = learn.get_buffers(model)
        delta = learn.gradient(model, plan.task, data)[0]
        delta -= learn.gradient(model, plan.task, Dataset(coarse, data.y))[0]
        learn.set_buffers(model, buffers)
        lost = (data.x - coarse).reshape(len(data), -1).astype(np.float64)
        correction = uplink.grad_corr.encode(
            delta,
            plan.model_spec,
            plan.up(request.round, sensor, Purpose.CORRECTION),
            held.error_bound,
            float(np.sqrt((lost * lost).sum(axis=1)).mean()),
            float(state.arrays[sensor][LIPSCHITZ][0]) if state is not None else 0.0,
        )
        if correction.clipped:
            log.warning(
                "sensor %d, round %d: %d of %d gradient errors exceed C_z = %g and are clipped",
                sensor,
                request.round,
                correction.clipped,
                len(delta),
                correction.lipschitz,
            )
        if state is not None:
            state.arrays[sensor] = {**state.arrays[sensor], LIPSCHITZ: np.array([correction.lipschitz])}
        return correction.payload
