"""Quantized samples (DaQuSGD): decode, gradient at the quantized points, step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedquant.checkpoint import State
from fedquant.codecs.dataq import DataQ
from fedquant.codecs.gradcorr import Received
from fedquant.codecs.grid import Quantized
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Purpose
from fedquant.ledger import Ledger
from fedquant.scenario import Scenario
from fedquant.scenario.schema import DataUplink
from fedquant.tasks.base import Dataset
from fedquant.wire import Knobs
from strategies.base import UplinkStrategy
from strategies.cache import Cache, Places
from strategies.replies import Inbox


class DataStrategy(UplinkStrategy):
    """Steps on the samples that arrive; with a cache, on kept ones too. Nothing to step on: no step."""

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        super().__init__(scenario, ledger)
        if not isinstance(scenario.uplink, DataUplink):
            raise TypeError("DataStrategy: the scenario's uplink carries no data; use VectorStrategy")
        self.uplink = scenario.uplink
        self.memory = self.uplink.selection.init()
        self.cache = Cache()

    def round_knobs(self, round: int) -> dict[str, Knobs]:
        """The selection rule's."""
        knobs, self.memory = self.uplink.selection.knobs(self.memory, round, self.plan.epoch(round))
        return {"selection": knobs}

    def needs_model(self, knobs: dict[str, Knobs]) -> bool:
        """Only where nodes choose by their losses, or correct gradients."""
        return self.uplink.selection.needs_losses(knobs["selection"]) or self.uplink.grad_corr is not None

    def learn(self, inbox: Inbox, knobs: dict[str, Knobs]) -> tuple[dict[str, Any], dict[int, int]]:
        """One gradient over all samples at once, new ones first; losses are taken before the step."""
        each = {s: len(self.plan.batch(s, inbox.round)) for s in inbox.payloads}
        arrived, drawn = self._decode(inbox, knobs.get("codec", {}), each), sum(each.values())
        # What is replayed was kept before this round.
        replayed = self._replay(inbox.round) if self.uplink.cache else None
        finer = [self.cache.refine(s, *got.finer) for s, got in arrived.items() if got.finer is not None]
        new = _join([got.samples for got in arrived.values()] + finer)
        batch = _join([d for d in (new, replayed) if d is not None])
        counts = {sensor: len(got.samples) for sensor, got in arrived.items()}
        fields: dict[str, Any] = {"drawn": drawn, "replayed": 0 if replayed is None else len(replayed)}
        if self.uplink.refine is not None:
            fields["refined"] = sum(map(len, finer))
        if self.uplink.grad_corr is not None:
            fields["clipped"] = sum(
                g.correction is not None and g.correction.clipped for g in arrived.values()
            )
        if self.uplink.cache:
            for sensor, got in arrived.items():
                if len(got.samples):
                    self.cache.add(sensor, got.samples, got.held)
        if batch is None:
            return {**fields, "step": False}, counts
        by_batch = not self.uplink.cache and self.uplink.normalize != "sent"
        normalizer = drawn if by_batch else len(batch)
        gradient, losses = self.trainer.gradient(batch, normalizer)
        for sensor, got in arrived.items():
            if got.correction is not None:
                share = counts[sensor] / normalizer
                gradient[got.correction.i] += np.float32(got.correction.value * share)
        if not self.step(inbox.round, gradient):
            return {**fields, "step": False}, counts
        if new is not None:
            self.memory = self.uplink.selection.observe(self.memory, losses[: len(new)])
        return {**fields, "step": True, "train_loss": float(np.mean(losses, dtype=np.float64))}, counts

    def state(self) -> State:
        """The selection's memory and the samples kept, too."""
        return {**super().state(), "selection": self.memory, "cache": self.cache.state()}

    def restore(self, state: State) -> None:
        """Takes over what `state` gave."""
        super().restore(state)
        self.memory = state["selection"]
        self.cache.restore(state["cache"])

    def _decode(self, inbox: Inbox, knobs: Knobs, drawn: dict[int, int]) -> dict[int, _Arrived]:
        """What each sensor sent of the samples it drew: all of it is sound, or none of it is taken."""
        arrived = {}
        for sensor in inbox.speaking():
            try:
                got = self._read(sensor, inbox.round, inbox.payloads[sensor], knobs)
                room = self.sizes[sensor] - (self.cache.of(sensor) if self.uplink.cache else 0)
                if len(got.samples) > min(drawn[sensor], room):
                    raise CodecError(
                        f"{len(got.samples)} samples, of {drawn[sensor]} that it drew and {room} that it can "
                        "still have new"
                    )
                arrived[sensor] = got
            except CodecError as error:
                inbox.refuse(sensor, error)
        return arrived

    def _read(self, sensor: int, round: int, payloads: tuple[bytes, ...], knobs: Knobs) -> _Arrived:
        plan, uplink = self.plan, self.uplink
        parts = dict(zip(plan.slots, payloads, strict=True))
        key, shape, held, correction, finer = (
            plan.up(round, sensor, Purpose.DATA),
            plan.data_spec.shape,
            None,
            None,
            None,
        )
        if not isinstance(uplink.codec, DataQ):
            samples = Dataset(*uplink.codec.decode(parts[Purpose.DATA], plan.data_spec, key, knobs))
        elif parts[Purpose.DATA]:
            held, y = uplink.codec.decode_levels(parts[Purpose.DATA], plan.data_spec, key, knobs)
            samples = Dataset(held.samples().reshape(-1, *shape), y)
        else:
            samples = Dataset(np.zeros((0, *shape), np.float32), np.zeros(0, plan.data_spec.label_type))
        if uplink.grad_corr is not None and held is not None:
            key = plan.up(round, sensor, Purpose.CORRECTION)
            body = parts[Purpose.CORRECTION]
            correction = uplink.grad_corr.decode(body, plan.model_spec, key, held.error_bound)
        if uplink.refine is not None and parts[Purpose.REFINEMENT]:
            finer = uplink.refine.decode(
                parts[Purpose.REFINEMENT],
                self.cache.of(sensor),
                lambda places: self.cache.look(sensor, places),
                plan.data_spec,
                plan.up(round, sensor, Purpose.REFINEMENT),
            )
        return _Arrived(samples, held if uplink.refine is not None else None, correction, finer)

    def _replay(self, round: int) -> Dataset | None:
        if not len(self.cache):
            return None
        training = self.scenario.training
        wanted = self.uplink.replay or training.batch_size * len(self.sample(round))
        key = self.scenario.key.fold(round=round, purpose=Purpose.REPLAY)
        return self.cache.take(rng.choice(key, len(self.cache), min(wanted, len(self.cache))))


@dataclass(frozen=True)
class _Arrived:
    """What one sensor sent: samples (and their levels), a coordinate's correction, finer samples of old."""

    samples: Dataset
    held: Quantized | None
    correction: Received | None
    finer: tuple[Places, Quantized] | None


def _join(parts: list[Dataset]) -> Dataset | None:
    """All samples of non-empty parts, or None."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    return Dataset(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))
