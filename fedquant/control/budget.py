"""A budget: so many bytes a sensor over the whole run, never exceeded by what it really sends.

Planning uses the longest payload that a fineness can have; booking uses the bytes that came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.error_feedback import ErrorFeedback
from fedquant.codecs.groups import groups
from fedquant.codecs.qcs import QCS
from fedquant.codecs.qsgd import QSGD
from fedquant.control.base import Horizon, Ladder, Memory
from fedquant.errors import ConfigError
from fedquant.kernels import pack
from fedquant.wire import HEADER_SIZE, Knobs

_MARGIN: Final = 1e-9
"""Below the factor at which a step begins, so that no rounding reaches it."""


@dataclass(frozen=True)
class Budget:
    """What one sensor may send in the whole run, all its payloads and their frames: bits, or bytes."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    bits: Annotated[int, Field(ge=1)] | None = None
    bytes: Annotated[int, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.bytes is None):
            raise ConfigError(f"budget: give bits or bytes, one of them; got {self.bits} and {self.bytes}")

    @property
    def total(self) -> int:
        """Whole bytes."""
        return self.bytes if self.bytes is not None else (self.bits or 0) // 8


def payload_size(codec: Codec, spec: Spec, knobs: Knobs) -> int:
    """Bytes of the longest payload: of every payload whose groups are not zero, where no entropy is coded.

    Raises ConfigError for a codec whose payloads have no known limit, CodecError for a bad knob.
    """
    if isinstance(codec, ErrorFeedback):
        return payload_size(codec.inner, spec, knobs)
    if isinstance(codec, QCS):
        return HEADER_SIZE + codec.plan(spec, knobs).bytes
    if not isinstance(codec, QSGD):
        raise ConfigError(f"budget: the payloads of {codec.name} have no known limit; use qsgd or qcs")
    (s, bits), cuts = codec.positive_levels(knobs), groups(spec, codec.scope)
    head = HEADER_SIZE + 4 * len(cuts)
    if codec.entropy:
        return head + 1 + pack.radix_size(spec.size, 2 * s + 1)
    sizes = (stop - start for start, stop in cuts)
    return head + sum(pack.bits_size(n, bits) if bits else pack.radix_size(n, 2 * s + 1) for n in sizes)


@lru_cache(maxsize=8)
def costs(ladder: Ladder, spec: Spec) -> npt.NDArray[np.int64]:
    """int64[steps]: bytes of the longest payload up to each step of the ladder."""
    steps = range(ladder.low, ladder.high + 1)
    return np.maximum.accumulate([payload_size(ladder.codec, spec, ladder.knobs(i)) for i in steps])


def open_account(budget: Budget, ladder: Ladder, horizon: Horizon) -> Memory:
    """By sensor, the bytes `left` to it, and in how many rounds at most it is `due` to be asked.

    Raises ConfigError where the coarsest payloads already need more.
    """
    payload = int(costs(ladder, horizon.spec)[0])
    each, times = payload + horizon.extra, max(horizon.asked, default=0)
    if each * times > budget.total:
        told = "bits=2" if ladder.whole_bits else "levels=1"
        others = f" and {horizon.extra} bytes of other payloads" if horizon.extra else ""
        raise ConfigError(
            f"budget: {budget.total} bytes a sensor are too few. A payload of {ladder.codec.name} takes "
            f"{payload} bytes with {told} for {horizon.spec.size} numbers{others}, and the sensor asked most "
            f"is asked in {times} rounds: {times} x {each} = {each * times} bytes. Give at least these, or "
            f"ask it at most {budget.total // each} times"
        )
    return {"left": [budget.total] * len(horizon.asked), "due": list(horizon.asked)}


def book(account: Memory, payload_bytes: Mapping[int, int], ahead: int) -> Memory:
    """The account after a round in which the sensors named were asked, with `ahead` rounds to come."""
    left, due = list(account["left"]), list(account["due"])
    for sensor, size in payload_bytes.items():
        left[sensor] -= size
        due[sensor] -= 1
    return {"left": left, "due": [max(0, min(rounds, ahead)) for rounds in due]}


def finest(account: Memory, ladder: Ladder, horizon: Horizon) -> int:
    """The finest step for the next round that leaves each sensor enough for the coarsest ever after."""
    table = costs(ladder, horizon.spec) + horizon.extra
    reserve = int(table[0])
    spare = [left - (due - 1) * reserve for left, due in _due(account)]
    if not spare:
        return ladder.low
    return max(ladder.low, ladder.low + int(np.searchsorted(table, min(spare), "right")) - 1)


def affordable(account: Memory, ladder: Ladder, horizon: Horizon, weights: npt.NDArray[np.float64]) -> float:
    """log2 of the largest k for which rounds of k·2**weights levels are affordable to every sensor.

    weights: float64[rounds to come], log2, ascending. A sensor's share of these rounds is even.
    """
    table = costs(ladder, horizon.spec) + horizon.extra
    rounds, rises, starts = len(weights), np.diff(table), ladder.thresholds()
    limit = min((left * rounds // due for left, due in _due(account)), default=0)

    def total(k: float) -> int:
        """Each step costs its rise in every round that reaches it."""
        reached = rounds - np.searchsorted(weights, starts - k)
        return rounds * int(table[0]) + int(rises @ reached)

    low, high = -1.0 - weights[-1], ladder.max_bits - weights[0]  # nothing above the coarsest; all the finest
    if total(high) <= limit:
        return float(high)
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) <= limit else (low, middle)
    return float(low) - _MARGIN


def _due(account: Memory) -> list[tuple[int, int]]:
    return [(left, due) for left, due in zip(account["left"], account["due"], strict=True) if due > 0]
