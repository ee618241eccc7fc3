"""The model as a node hears it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.state import NodeState
from fedquant.codecs.floats import Float32
from fedquant.errors import CodecError, StateError
from fedquant.keys import Purpose
from fedquant.message import Request
from fedquant.plan import Plan, make_plan
from fedquant.scenario.schema import Scenario
from fedquant.tasks import learn
from fedquant.tasks.trainer import pick_device
from fedquant.wire import NO_KNOBS, Knobs


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
    now, held = knobs.get("now"), knobs.get("held")
    if not isinstance(now, int):
        raise CodecError("request: nothing says which broadcast it brings")
    if not isinstance(held, int):
        if len(coded) != 1:
            raise CodecError(f"request: {len(coded)} coded models, expected one")
        key = plan.down(request.round, Purpose.MODEL).fold(part=1)
        state.model, state.broadcasts = Float32().decode(coded[0], spec, key), now
        return
    rounds, shares = _each(knobs, "rounds", "<u4", len(coded)), _each(knobs, "shares", "<f4", len(coded))
    if not np.isfinite(shares).all():
        raise CodecError(f"request: shares {shares.tolist()} of the differences are not finite")
    if state.broadcasts != held:
        raise StateError(
            f"{state.path}: knows {state.broadcasts} broadcasts, the server expects {held}; nodes that move "
            "between machines need one shared state_dir"
        )
    model = state.model if held else learn.get_parameters(plan.initial_model())
    for payload, round, share in zip(coded, rounds.tolist(), shares, strict=True):
        key = plan.down(round, Purpose.MODEL)
        model = model + share * plan.scenario.downlink.codec.decode(payload, spec, key)
    state.model, state.broadcasts = model, now


def _each(knobs: Knobs, name: str, dtype: str, n: int) -> npt.NDArray[Any]:
    """A number for each of n coded differences. Raises CodecError where a knob does not hold so many."""
    value = knobs.get(name)
    if not isinstance(value, bytes) or len(value) != 4 * n:
        raise CodecError(f"request: {n} coded differences without their {name}")
    return np.frombuffer(value, dtype)


@lru_cache(maxsize=2)
def _model(text: str) -> Any:
    """One model a process and scenario: its parameters are overwritten by every request."""
    plan: Plan = make_plan(Scenario.model_validate_json(text))
    return plan.initial_model().to(pick_device(plan.scenario.training.device))
