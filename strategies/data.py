"""Quantized samples (DaQuSGD): decode, gradient at the quantized points, step."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedquant.codecs.dataq import DataQ
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Purpose
from fedquant.ledger import Ledger
from fedquant.scenario import Scenario
from fedquant.scenario.schema import DataUplink
from fedquant.tasks.base import Dataset
from fedquant.wire import Knobs
from strategies.base import UplinkStrategy
from strategies.replies import Inbox


class DataStrategy(UplinkStrategy):
    """Steps on the samples that arrive; with a cache, on kept ones too. Nothing to step on: no step."""

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        super().__init__(scenario, ledger)
        if not isinstance(scenario.uplink, DataUplink):
            raise TypeError("DataStrategy: the scenario's uplink carries no data; use VectorStrategy")
        self.uplink = scenario.uplink
        self.memory = self.uplink.selection.init()
        self.kept: list[Dataset] = []

    def round_knobs(self, round: int) -> dict[str, Knobs]:
        """The selection rule's."""
        knobs, self.memory = self.uplink.selection.knobs(self.memory, round, self.plan.epoch(round))
        return {"selection": knobs}

    def needs_model(self, knobs: dict[str, Knobs]) -> bool:
        """Only where nodes choose by their losses, or correct gradients."""
        return self.uplink.selection.needs_losses(knobs["selection"]) or self.uplink.grad_corr is not None

    def learn(self, inbox: Inbox, knobs: dict[str, Knobs]) -> tuple[dict[str, Any], dict[int, int]]:
        """One gradient over all samples at once, new ones first; losses are taken before the step."""
        arrived, corrections = self._decode(inbox, knobs.get("codec", {}))
        new = _join(list(arrived.values()))
        drawn = sum(len(self.plan.batch(s, inbox.round)) for s in inbox.payloads)
        replayed = self._replay(inbox.round) if self.uplink.cache else None
        batch = _join([d for d in (new, replayed) if d is not None])
        counts = {sensor: len(data) for sensor, data in arrived.items()}
        fields: dict[str, Any] = {"drawn": drawn, "replayed": 0 if replayed is None else len(replayed)}
        if batch is None:
            return {**fields, "step": False}, counts
        by_batch = not self.uplink.cache and self.uplink.normalize != "sent"
        normalizer = drawn if by_batch else len(batch)
        gradient, losses = self.trainer.gradient(batch, normalizer)
        for sensor, (i, value) in corrections.items():
            gradient[i] += np.float32(value * counts[sensor] / normalizer)
        if new is not None:
            self.memory = self.uplink.selection.observe(self.memory, losses[: len(new)])
            if self.uplink.cache:
                self.kept.append(new)
        self.trainer.step(gradient)
        return {**fields, "step": True, "train_loss": float(np.mean(losses, dtype=np.float64))}, counts

    def _decode(self, inbox: Inbox, knobs: Knobs) -> tuple[dict[int, Dataset], dict[int, tuple[int, float]]]:
        """(samples, (coordinate, correction)) by sensor."""
        plan, codec, corr = self.plan, self.uplink.codec, self.uplink.grad_corr
        samples, corrections = {}, {}
        for sensor in inbox.speaking():
            payload, key = inbox.payloads[sensor], plan.up(inbox.round, sensor, Purpose.DATA)
            try:
                if corr is None:
                    x, y = codec.decode(payload[0], plan.data_spec, key, knobs)
                else:
                    assert isinstance(codec, DataQ)
                    held, y = codec.decode_levels(payload[0], plan.data_spec, key, knobs)
                    x = held.samples().reshape(-1, *plan.data_spec.shape)
                    key = plan.up(inbox.round, sensor, Purpose.CORRECTION)
                    corrections[sensor] = corr.decode(payload[1], plan.model_spec, key, held.error_bound)
            except CodecError as error:
                inbox.refuse(sensor, error)
            else:
                samples[sensor] = Dataset(x, y)
        return samples, corrections

    def _replay(self, round: int) -> Dataset | None:
        kept = _join(self.kept)
        if kept is None:
            return None
        self.kept = [kept]
        training = self.scenario.training
        wanted = self.uplink.replay or training.batch_size * len(self.sample(round))
        key = self.scenario.key.fold(round=round, purpose=Purpose.REPLAY)
        return kept.take(rng.choice(key, len(kept), min(wanted, len(kept))))


def _join(parts: list[Dataset]) -> Dataset | None:
    """All samples of non-empty parts, or None."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    return Dataset(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))
