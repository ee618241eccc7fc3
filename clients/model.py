"""The model as a node hears it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from clients.state import NodeState
from fedquant.codecs.floats import Float32
from fedquant.errors import CodecError, StateError
from fedquant.keys import Purpose
from fedquant.message import Request
from fedquant.plan import Plan, make_plan
from fedquant.scenario.schema import Scenario
from fedquant.tasks import learn
from fedquant.tasks.trainer import pick_device
from fedquant.wire import NO_KNOBS


def hear(plan: Plan, request: Request, state: NodeState | None) -> Any:
    """The model (and its buffers) that a request brings, or None where it brings none.

    Raises CodecError for what is no broadcast, StateError where it follows one that this node missed.
    """
    if not request.payloads:
        return None
    coded = request.payloads
    if plan.buffer_spec.size:
        coded = coded[:-1]
    model = _model(plan.scenario.to_json())
    if plan.scenario.downlink.reference == "difference":
        assert state is not None
        _follow(plan, request, coded, state)
        learn.set_parameters(model, state.model)
    else:
        if len(coded) != 1:
            raise CodecError(f"request: {len(coded)} coded models, expected one")
        key = plan.down(request.round, Purpose.MODEL)
        learn.set_parameters(model, plan.scenario.downlink.codec.decode(coded[0], plan.model_spec, key))
    if plan.buffer_spec.size:
        key = plan.down(request.round, Purpose.BUFFERS)
        learn.set_buffers(model, Float32().decode(request.payloads[-1], plan.buffer_spec, key))
    return model


def _follow(plan: Plan, request: Request, coded: tuple[bytes, ...], state: NodeState) -> None:
    """Brings what the state holds of the model up to the request's broadcast."""
    knobs, spec = request.knobs.get("downlink", NO_KNOBS), plan.model_spec
    now, held, rounds = knobs.get("now"), knobs.get("held"), knobs.get("rounds")
    if not isinstance(now, int):
        raise CodecError("request: nothing says which broadcast it brings")
    if not isinstance(held, int):
        if len(coded) != 1:
            raise CodecError(f"request: {len(coded)} coded models, expected one")
        key = plan.down(request.round, Purpose.MODEL).fold(part=1)
        state.model, state.broadcasts = Float32().decode(coded[0], spec, key), now
        return
    if not isinstance(rounds, bytes) or len(rounds) != 4 * len(coded):
        raise CodecError(f"request: {len(coded)} coded differences without the rounds they are of")
    if state.broadcasts != held:
        raise StateError(
            f"{state.path}: knows {state.broadcasts} broadcasts, the server expects {held}; nodes that move "
            "between machines need one shared state_dir"
        )
    model = state.model if held else learn.get_parameters(plan.initial_model())
    for payload, round in zip(coded, np.frombuffer(rounds, "<u4").tolist(), strict=True):
        key = plan.down(round, Purpose.MODEL)
        model = model + plan.scenario.downlink.codec.decode(payload, spec, key)
    state.model, state.broadcasts = model, now


@lru_cache(maxsize=2)
def _model(text: str) -> Any:
    """One model a process and scenario: its parameters are overwritten by every request."""
    plan: Plan = make_plan(Scenario.model_validate_json(text))
    return plan.initial_model().to(pick_device(plan.scenario.training.device))
