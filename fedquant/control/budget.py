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
from fedquant.codecs.frequencies import varint
from fedquant.codecs.qcs import QCS
from fedquant.codecs.qsgd import QSGD
from fedquant.control.base import Horizon, Ladder, Memory, layered
from fedquant.errors import ConfigError
from fedquant.wire import HEADER_SIZE, Knobs

F64 = npt.NDArray[np.float64]
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
    if not isinstance(codec, QCS | QSGD):
        raise ConfigError(f"budget: the payloads of {codec.name} have no known limit; use qsgd or qcs")
    return HEADER_SIZE + codec.limit(spec, knobs)


@lru_cache(maxsize=8)
def part_costs(ladder: Ladder, spec: Spec) -> npt.NDArray[np.int64]:
    """int64[parts, steps]: what each part adds to the longest payload, up to each of its steps.

    The frame is the first part's. Entropy-coded layers count as if none shared a container: together they
    may count for a few bytes a layer more than the payload has.
    """
    steps = range(ladder.low, ladder.high + 1)
    if ladder.per_layer:
        codec, parts = layered(ladder.codec), ladder.parts(spec)
        lengths, at = np.unique([stop - start for start, stop in parts], return_inverse=True)
        sizes = [[_alone(codec, int(n), ladder.knobs([step])) for n in lengths] for step in steps]
        table = np.array(sizes, np.int64).T[at]
        table[0] += HEADER_SIZE
    else:
        table = np.array([[payload_size(ladder.codec, spec, ladder.knobs([step])) for step in steps]])
    return np.maximum.accumulate(table, axis=1)


def _alone(codec: QSGD, n: int, knobs: Knobs) -> int:
    size = codec.limit(Spec(n), knobs)
    return size + len(varint(size)) if codec.entropy else size


def costs(ladder: Ladder, spec: Spec) -> npt.NDArray[np.int64]:
    """int64[steps]: bytes of the longest payload up to each step of the ladder, the same for all parts."""
    total: npt.NDArray[np.int64] = part_costs(ladder, spec).sum(axis=0)
    return total


def open_account(budget: Budget, ladder: Ladder, horizon: Horizon) -> Memory:
    """By sensor, the bytes `left` to it, and in how many rounds at most it is `due` to be asked.

    Raises ConfigError where the coarsest payloads already need more.
    """
    payload = int(costs(ladder, horizon.spec)[0])
    each, times = payload + horizon.extra, max(horizon.asked, default=0)
    if each * times > budget.total:
        told = "bits=2" if ladder.whole_bits else "levels=1"
        others = f" and {horizon.extra} bytes of other payloads" if horizon.extra else ""
        seldom = f", or ask it at most {budget.total // each} times" if budget.total >= each else ""
        raise ConfigError(
            f"budget: {budget.total} bytes a sensor are too few. A payload of {ladder.codec.name} takes "
            f"{payload} bytes with {told} for {horizon.spec.size} numbers{others}, and the sensor asked most "
            f"is asked in {times} rounds: {times} x {each} = {each * times} bytes. Give at least "
            f"these{seldom}"
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
    """The finest step, of all parts, for the next round that leaves each sensor the coarsest ever after."""
    spare = _spare(account, ladder, horizon)
    return ladder.low + max(0, int(np.searchsorted(costs(ladder, horizon.spec), spare, "right")) - 1)


def affordable(account: Memory, ladder: Ladder, horizon: Horizon, weights: F64, norms: F64) -> float:
    """log2 of the largest k for which rounds of k·2**(weights + norms) levels are affordable to every sensor.

    weights: float64[rounds to come], log2, ascending; norms: float64[parts], log2, −inf for 0.
    A sensor's share of these rounds is even.
    """
    rounds = len(weights)
    limit = min((left * rounds // due for left, due in _due(account)), default=0)
    return _largest(ladder, horizon.spec, weights, norms, limit - rounds * horizon.extra)


def affordable_next(account: Memory, ladder: Ladder, horizon: Horizon, norms: F64) -> float:
    """log2 of the largest k for which one round of k·2**norms levels leaves the coarsest for all after it.

    norms: float64[parts], log2, −inf for 0.
    """
    return _largest(ladder, horizon.spec, np.zeros(1), norms, _spare(account, ladder, horizon))


def _largest(ladder: Ladder, spec: Spec, weights: F64, norms: F64, limit: int) -> float:
    """log2 of the largest k for which rounds of k·2**(weights + norms) levels take `limit` bytes at most."""
    table, heard = part_costs(ladder, spec), norms > -np.inf
    if not heard.any():
        return 0.0  # the coarsest, whatever k is
    rounds, least = len(weights), len(weights) * int(table[:, 0].sum())
    rises, norms, starts = np.diff(table[heard]), norms[heard, None], ladder.thresholds()

    def total(k: float) -> int:
        """Each step costs its rise in every round that reaches it."""
        reached = rounds - np.searchsorted(weights, starts - norms - k)
        return least + int((rises * reached).sum())

    low = float(-1 - weights[-1] - norms.max())  # nothing above the coarsest
    high = float(ladder.max_bits - weights[0] - norms.min())  # all the finest
    if total(high) <= limit:
        return high
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) <= limit else (low, middle)
    return low - _MARGIN


def _spare(account: Memory, ladder: Ladder, horizon: Horizon) -> int:
    """Bytes that every sensor can pay for its next payload, if all after it are of the coarsest."""
    reserve = int(costs(ladder, horizon.spec)[0]) + horizon.extra
    return min((left - (due - 1) * reserve for left, due in _due(account)), default=0) - horizon.extra


def _due(account: Memory) -> list[tuple[int, int]]:
    return [(left, due) for left, due in zip(account["left"], account["due"], strict=True) if due > 0]
