"""The contract of every codec. A codec turns numbers into framed bytes, and bytes into numbers.

A codec is a frozen dataclass whose fields are its YAML keys. It writes bodies (`_encode_body`,
`_decode_body`); what is public here is final: it checks the input, frames once and checks what comes back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, NamedTuple, final

import numpy as np
import numpy.typing as npt

from fedquant import registry, wire
from fedquant.codecs.configured import Configured
from fedquant.errors import CodecError
from fedquant.kernels import scan
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs

Array = npt.NDArray[Any]
State = Mapping[str, Array]
"""What an encoder remembers between payloads, by name. A value: returned, never mutated."""
EMPTY: Final[State] = MappingProxyType({})


@dataclass(frozen=True)
class Spec:
    """What a gradient codec codes: `size` numbers, cut at `segments` (ends of layers, for their scales)."""

    size: int
    dtype: Literal["float32", "float64"] = "float32"
    segments: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        ends = self.segments or (self.size,)
        rising = all(a < b for a, b in zip((0, *ends), ends, strict=False))
        if not 0 <= self.size < 1 << 32 or ends[-1] != self.size or not (rising or self.size == 0):
            raise ValueError(f"spec: segments {ends} do not rise to size={self.size} < 2**32")
        object.__setattr__(self, "segments", ends)

    @property
    def identity(self) -> str:
        """Text that enters every payload's checksum."""
        return f"{self.size} {self.dtype} {' '.join(map(str, self.segments))}"

    def slice(self, start: int, stop: int) -> Spec:
        """The spec of coordinates start … stop−1, a part that is coded on its own."""
        ends = [min(e, stop) - start for e in self.segments if e > start]
        return Spec(stop - start, self.dtype, tuple(dict.fromkeys(ends)))


@dataclass(frozen=True)
class Body:
    """An unframed payload, how to compute what the receiver will see, and the state after it."""

    data: bytes
    decoded: Callable[[], Array]
    state: State


class Sent(NamedTuple):
    """An unframed payload as a server adds it."""

    body: bytes
    key: Key
    weight: float


class Codec(Configured, ABC):
    """Codes vectors (gradients, model differences, models). Stateless unless `state_spec` says otherwise."""

    kind: ClassVar[registry.Kind] = "codec"
    finds_nonfinite: ClassVar[bool] = False
    """Its scales show a NaN or infinity (it then calls `refuse_nonfinite`), and it decodes to none."""

    # ---- what a codec writes

    @abstractmethod
    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body: ...

    @abstractmethod
    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array: ...

    def _add_bodies(
        self, out: Array, sent: Sequence[Sent], spec: Spec, knobs: Knobs
    ) -> dict[int, CodecError]:
        """`add_decoded` without frames; to be overridden where adding is cheaper than decoding."""
        refused: dict[int, CodecError] = {}
        for i, (body, key, weight) in enumerate(sent):
            try:
                x = self._decode_checked(body, spec, key, knobs)
            except CodecError as error:
                refused[i] = error
            else:
                out += x * np.asarray(weight, x.dtype)
        return refused

    @final
    def _decode_checked(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        x = self._decode_body(data, spec, key, knobs)
        if not self.finds_nonfinite and not math.isfinite(scan.max_abs(x)):
            raise CodecError(f"{self.name}: decodes to a number that is not finite")
        return x

    @final
    def refuse_nonfinite(self, x: Array) -> None:
        """Raises CodecError that names the first NaN or infinity of x: float[size], if there is one."""
        if not math.isfinite(scan.max_abs(x)):
            at = scan.first_nonfinite(x)
            raise CodecError(f"{self.name}: x[{at}] = {x[at]}; every number must be finite")

    def check(self, spec: Spec) -> None:
        """Raises CodecError where this codec cannot code such a vector."""
        if spec.dtype != "float32":
            raise CodecError(f"{self.name}: codes float32, not {spec.dtype}")

    def state_spec(self, spec: Spec) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name to (shape, dtype) of what the encoder remembers; empty for a stateless codec."""
        return {}

    def variance_bound(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float | None:
        """γ with E‖x̂ − x‖² ≤ γ‖x‖² where E x̂ = x; None for a codec that is not unbiased."""
        return None

    def settle(self, state: State, delivered: bool) -> State:
        """The state once it is known whether the last payload arrived; encoding again assumes it did."""
        return state

    def finish(self, total: Array, weight: float) -> Array:
        """What the sum of decoded vectors stands for: their weighted mean, unless a codec votes."""
        mean: Array = total / np.asarray(weight, total.dtype)
        return mean

    # ---- what everyone calls

    @final
    def init(self, spec: Spec) -> State:
        """The state before the first payload: zeros."""
        self.check(spec)
        return {k: np.zeros(shape, dtype) for k, (shape, dtype) in self.state_spec(spec).items()}

    @final
    def encode(
        self, x: Array, spec: Spec, key: Key, state: State = EMPTY, knobs: Knobs = NO_KNOBS
    ) -> tuple[bytes, State]:
        """(payload, next state) of x: float[size]. Raises CodecError for NaN, infinity or a wrong shape."""
        self.check(spec)
        context = self.context(spec, key, knobs)
        x = np.ascontiguousarray(x)
        if x.shape != (spec.size,) or x.dtype != spec.dtype:
            raise CodecError(f"{self.name}: got {x.dtype}{list(x.shape)}, expected {spec.dtype}[{spec.size}]")
        if not self.finds_nonfinite:
            self.refuse_nonfinite(x)
        for name, (shape, dtype) in self.state_spec(spec).items():
            if name not in state or state[name].shape != shape or state[name].dtype != dtype:
                raise CodecError(
                    f"{self.name}: state {name!r} is not {dtype}{list(shape)}; call init(spec) first"
                )
        body = self._encode_body(x, spec, key, state, knobs)
        return wire.frame(body.data, context), body.state

    @final
    def decode(self, payload: bytes, spec: Spec, key: Key, knobs: Knobs = NO_KNOBS) -> Array:
        """float[size]: what the payload says. Raises CodecError, and nothing else, for a bad payload."""
        self.check(spec)
        data = wire.unframe(payload, self.context(spec, key, knobs))
        return self._decode_checked(data, spec, key, knobs)

    @final
    def add_decoded(
        self,
        out: Array,
        payloads: Sequence[bytes],
        spec: Spec,
        keys: Sequence[Key],
        weights: Sequence[float],
        knobs: Knobs = NO_KNOBS,
    ) -> dict[int, CodecError]:
        """Adds weight·decoded of each payload into out, in order; returns why the others were refused.

        A refused payload leaves out untouched.
        """
        self.check(spec)
        refused: dict[int, CodecError] = {}
        sent: dict[int, Sent] = {}
        for i, (payload, key, weight) in enumerate(zip(payloads, keys, weights, strict=True)):
            try:
                body = wire.unframe(payload, self.context(spec, key, knobs))
            except CodecError as error:
                refused[i] = error
            else:
                sent[i] = Sent(body, key, weight)
        chosen = list(sent)
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # a sum that is not finite is the caller's to judge
            late = self._add_bodies(out, list(sent.values()), spec, knobs)
        return refused | {chosen[i]: error for i, error in late.items()}

    def encode_batch(
        self,
        x: Array,
        spec: Spec,
        keys: Sequence[Key],
        states: State = EMPTY,
        knobs: Knobs = NO_KNOBS,
    ) -> tuple[list[bytes], State]:
        """x: float[n, size] of n sensors, states stacked along axis 0; the same bytes as one by one."""
        payloads, after = [], []
        for i, key in enumerate(keys):
            payload, state = self.encode(x[i], spec, key, {k: v[i] for k, v in states.items()}, knobs)
            payloads.append(payload)
            after.append(state)
        stacked = {k: np.stack([s[k] for s in after]) for k in (after[0] if after else EMPTY)}
        return payloads, stacked
