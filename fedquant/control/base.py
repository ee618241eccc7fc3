"""The contract of a controller: from what the server saw it decides the knob of the next round's codec."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from fedquant import registry
from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.configured import Configured
from fedquant.codecs.error_feedback import ErrorFeedback
from fedquant.codecs.groups import groups
from fedquant.codecs.qsgd import QSGD, each_segment, numbers
from fedquant.errors import CodecError, ConfigError
from fedquant.keys import Key
from fedquant.wire import Knobs

MIN_BITS: Final = 2
Mean = npt.NDArray[np.float32]
Memory = Mapping[str, Any]
"""What the server remembers of a controller: numbers and lists of them by name, so that it fits JSON.

A value: returned, never mutated.
"""


@dataclass(frozen=True)
class Horizon:
    """What lies ahead: `rounds` rounds, in which sensors send vectors of `spec` by `codec`.

    asked: of each sensor, in how many of these rounds it is asked (at most, where it is not known).
    extra: bytes of a sensor's other payloads in a round (buffers).
    """

    spec: Spec
    codec: Codec
    rounds: int
    asked: tuple[int, ...]
    extra: int = 0


class Controller(Configured, ABC):
    """A frozen dataclass whose fields are its YAML keys. Rounds count from 1."""

    kind: ClassVar[registry.Kind] = "controller"

    @abstractmethod
    def init(self, horizon: Horizon) -> Memory:
        """The memory before the first round. Raises ConfigError where the codec cannot be told so."""

    @abstractmethod
    def knobs(self, memory: Memory, round: int, horizon: Horizon) -> tuple[Knobs, Memory]:
        """What the codec is told in this round."""

    @abstractmethod
    def observe(
        self,
        memory: Memory,
        round: int,
        mean: Mean | None,
        payload_bytes: Mapping[int, int],
        horizon: Horizon,
    ) -> Memory:
        """The memory after a round.

        mean: float32[size], the average of what was decoded; None where nothing was.
        payload_bytes: by sensor, for every sensor asked, the bytes of all its payloads of the round.
        """


@dataclass(frozen=True)
class Ladder:
    """The finenesses a codec is told, coarsest first: whole bits, or s = 1, 2, … positive levels.

    A step is its number of bits, or s. Of b bits the levels are s = 2**(b−1) − 1 (DQSGD, section 3), which
    is what a codec without a knob `bits` is told. Parts of the vector have a step each: its layers, where
    it is `per_layer`, else the whole.
    """

    codec: Codec
    whole_bits: bool
    max_bits: int
    per_layer: bool = False

    @property
    def low(self) -> int:
        """The coarsest step."""
        return MIN_BITS if self.whole_bits else 1

    @property
    def high(self) -> int:
        """The finest step."""
        return self.max_bits if self.whole_bits else levels_of(self.max_bits)

    def of_bits(self, bits: int) -> int:
        """The step of whole bits, at most the finest."""
        return min(self.high, bits if self.whole_bits else levels_of(bits))

    def nearest(self, levels: float) -> int:
        """The step for that many levels: log2(levels + 1) + 1 bits, or s, rounded half up and kept within."""
        if levels >= levels_of(self.max_bits):
            return self.high
        wanted = math.log2(levels + 1) + 1 if self.whole_bits else levels
        return max(self.low, math.floor(wanted + 0.5))

    def thresholds(self) -> npt.NDArray[np.float64]:
        """float64[high − low]: log2 of the levels from which on `nearest` is at or above each finer step."""
        half = np.arange(self.low + 1, self.high + 1) - 0.5
        least: npt.NDArray[np.float64] = np.log2(2 ** (half - 1) - 1 if self.whole_bits else half)
        return least

    def parts(self, spec: Spec) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each part."""
        return groups(spec, "segment") if self.per_layer else ((0, spec.size),)

    def knobs(self, steps: Sequence[int]) -> Knobs:
        """The knob for a step a part. Raises ConfigError where the codec has none that says it."""
        name = "bits" if self.whole_bits else "levels"
        return each_segment(name, steps) if self.per_layer else tell(self.codec, **{name: steps[0]})

    def check(self, spec: Spec) -> None:
        """Raises ConfigError where the codec does not take the coarsest or the finest step."""
        if self.per_layer:
            layered(self.codec)
        for step in (self.low, self.high):
            check_knobs(self.codec, spec, self.knobs([step] * len(self.parts(spec))))


def levels_of(bits: int) -> int:
    """s = 2**(bits−1) − 1: a sign, and the rest for the magnitude."""
    return (1 << (bits - 1)) - 1


def tell(codec: Codec, bits: int | None = None, levels: int | None = None) -> Knobs:
    """The knob of whole bits, or of positive levels. Raises ConfigError where the codec has none for it."""
    if bits is not None and "bits" in codec.accepted_knobs:
        return {"bits": bits}
    if "levels" not in codec.accepted_knobs:
        has = ", ".join(sorted(codec.accepted_knobs)) or "none"
        raise ConfigError(
            f"control: {codec.name} has no knob for its fineness (its knobs: {has}); use qsgd or qcs, or "
            "leave control out"
        )
    return {"levels": levels_of(bits) if bits is not None else int(levels or 0)}


def layered(codec: Codec) -> QSGD:
    """The codec, without its feedback, that takes a fineness a layer. Raises ConfigError for another."""
    inner = codec.inner if isinstance(codec, ErrorFeedback) else codec
    if isinstance(inner, QSGD) and inner.scope == "segment":
        return inner
    named = f"qsgd with scope: {inner.scope}" if isinstance(inner, QSGD) else inner.name
    raise ConfigError(
        f"control: per_layer needs a codec that is told a fineness for each layer, and {named} is not; "
        "set codec: {name: qsgd, scope: segment}, or leave per_layer out"
    )


def readable(knobs: Knobs, spec: Spec) -> dict[str, Any]:
    """What a round's line says of knobs. Of those of layers: their mean bits a coordinate, and a list."""
    told: dict[str, Any] = {}
    for name, value in knobs.items():
        if isinstance(value, int):
            told[name] = value
        else:
            steps = np.array(numbers(name, value))
            bits = steps if name == "bits" else np.log2(2 * steps + 1)
            mean = bits @ np.diff((0, *spec.segments)) / spec.size
            told |= {"bits": round(float(mean), 4), f"layer_{name}": steps.tolist()}
    return told


def check_knobs(codec: Codec, spec: Spec, knobs: Knobs) -> None:
    """Raises ConfigError where the codec, with such vectors, does not take these knobs."""
    zeros: npt.NDArray[Any] = np.zeros(spec.size, spec.dtype)
    try:
        codec.encode(zeros, spec, Key(0), codec.init(spec), knobs)
    except CodecError as error:
        told = ", ".join(f"{name}={value!r}" for name, value in knobs.items())
        raise ConfigError(f"control: {codec.name} cannot be told {told}: {error}") from None
