"""Error feedback: what a payload lost is added to the next one.

    z = g + β·r    ẑ = decoded(inner(z))    r ← (1−β)·r + z − ẑ

so that r_t = Σ_{s<t} (g_s − ẑ_s) whatever β is (Seide et al. 2014 with β = 1; QCS, section 3, for the
weight). A payload that is known to be lost was ẑ = 0: `settle` gives the residual what it carried.

Body: the inner codec's.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, final

import numpy as np
from pydantic import Field

from fedquant.codecs.base import Array, Body, Codec, Sent, Spec, State
from fedquant.codecs.configured import ENCODER_ONLY
from fedquant.errors import CodecError
from fedquant.kernels import scan
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs

_RESIDUAL: Final = "residual"
_SENT: Final = "sent"
_INNER: Final = "inner."


@final
@dataclass(frozen=True)
class ErrorFeedback(Codec):
    """Feedback of weight β around `inner`: 1/(γ+1) by default where that is unbiased with variance γ, else 1.

    With an unbiased inner codec the residual stays bounded for β < 2/(1+γ) only; a larger β is refused
    unless `allow_unstable`.
    """

    name: ClassVar[str] = "error_feedback"

    inner: Codec
    beta: Annotated[float, Field(gt=0, le=1)] | None = field(default=None, metadata=ENCODER_ONLY)
    allow_unstable: bool = field(default=False, metadata=ENCODER_ONLY)

    @property
    def accepted_knobs(self) -> Set[str]:
        """The inner codec's."""
        return self.inner.accepted_knobs

    def check(self, spec: Spec) -> None:
        """Raises CodecError where the inner codec cannot code such a vector, or β would diverge."""
        self.inner.check(spec)
        self.weight(spec)

    def weight(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float:
        """β. Raises CodecError where the residual would grow without bound."""
        gamma = self.inner.variance_bound(spec, knobs)
        if self.beta is None:
            return 1.0 if gamma is None else 1 / (gamma + 1)
        if gamma is not None and not self.allow_unstable and self.beta * (1 + gamma) >= 2:
            raise CodecError(
                f"error_feedback: beta={self.beta:g} lets the residual of {self.inner.name} grow without "
                f"bound: with its variance of up to γ={gamma:.4g} it must be below 2/(1+γ)="
                f"{2 / (1 + gamma):.4g}; leave beta out for 1/(1+γ), or set allow_unstable: true"
            )
        return self.beta

    def state_spec(self, spec: Spec) -> dict[str, tuple[tuple[int, ...], str]]:
        """The residual, what the last payload carried, and the inner codec's own."""
        own = dict.fromkeys((_RESIDUAL, _SENT), ((spec.size,), spec.dtype))
        return own | {_INNER + k: v for k, v in self.inner.state_spec(spec).items()}

    def settle(self, state: State, delivered: bool) -> State:
        """The state itself if delivered, else with the lost payload's content back in the residual."""
        after = {_INNER + k: v for k, v in self.inner.settle(_inner(state), delivered).items()}
        if delivered:
            return {**state, **after}
        lost = {_RESIDUAL: state[_RESIDUAL] + state[_SENT], _SENT: np.zeros_like(state[_SENT])}
        return {**lost, **after}

    def finish(self, total: Array, weight: float) -> Array:
        """The inner codec's."""
        return self.inner.finish(total, weight)

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        residual = state[_RESIDUAL]
        beta = np.asarray(self.weight(spec, knobs), x.dtype)
        with np.errstate(over="ignore"):
            z = x + beta * residual
        if not np.isfinite(scan.max_abs(z)):
            raise CodecError(
                f"error_feedback: the residual has grown beyond {spec.dtype} (beta={float(beta):.4g} over "
                f"{self.inner.name}); use a smaller beta"
            )
        body = self.inner._encode_body(z, spec, key, _inner(state), knobs)
        sent = body.decoded()
        after = {_RESIDUAL: (1 - beta) * residual + (z - sent), _SENT: sent}
        return Body(body.data, lambda: sent, after | {_INNER + k: v for k, v in body.state.items()})

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        return self.inner._decode_body(data, spec, key, knobs)

    def _add_bodies(
        self, out: Array, sent: Sequence[Sent], spec: Spec, knobs: Knobs
    ) -> dict[int, CodecError]:
        return self.inner._add_bodies(out, sent, spec, knobs)


def _inner(state: State) -> State:
    return {k.removeprefix(_INNER): v for k, v in state.items() if k.startswith(_INNER)}
